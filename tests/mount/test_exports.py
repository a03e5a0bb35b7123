#!/usr/bin/env python3
"""What an export allows: to which hosts, to their root, and to write at all."""

import errno
import os
import stat
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import BINARY, expect, expect_errno, pattern, read_file, run, write_file

NOBODY = 65534


def export(w, name, options=""):
    """A directory that is exported by that name, with those options."""
    path = os.path.join(w.path, name)
    os.mkdir(path)
    return path, ["--export", "%s=%s%s" % (name, path, options)]


def host_of(w, name, of_export, *options, start=True):
    if leasehold.LOCAL:
        raise leasehold.Skip("exports have no rights without an origin")
    h = w.host(name, *options, start=False)
    h.url = lambda: "https://127.0.0.1:%d/%s" % (h.origin.port, of_export)
    return h.start() if start else h


def as_user(uid, function, groups=()):
    """What a child process of that user gets from the function: None, or the errno."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            function()
            status = 0
        except OSError as e:
            status = e.errno
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status or None


def test_root_of_a_host_is_nobody_under_root_squash(w):
    path, options = export(w, "squashed", ",root_squash")
    os.chmod(path, 0o777)
    os.mkdir(path + "/private")
    os.chmod(path + "/private", 0o700)
    write_file(path + "/private/f", b"of root")
    write_file(path + "/secret", b"of root")
    os.chmod(path + "/secret", 0o600)
    write_file(path + "/public", b"for all")
    w.origin(*options)
    h = host_of(w, "a", "squashed")
    # What root makes belongs to nobody.
    write_file(h / "made", b"1")
    os.mkdir(h / "made-too")
    os.symlink("made", h / "link")
    for name in ("made", "made-too", "link"):
        for root in (path, h.path):
            s = os.lstat(os.path.join(root, name))
            expect((s.st_uid, s.st_gid), (NOBODY, NOBODY), name)
    # What is root's at the origin is not root's of a host, whatever the host's kernel believes.
    expect(read_file(h / "public"), b"for all")
    expect_errno((errno.EACCES, errno.EPERM), read_file, h / "secret")
    expect_errno((errno.EACCES, errno.EPERM), write_file, h / "secret", b"x", "r+b")
    expect_errno((errno.EACCES, errno.EPERM), write_file, h / "public", b"x", "r+b")
    expect_errno((errno.EACCES, errno.EPERM), os.truncate, h / "secret", 0)
    expect_errno((errno.EACCES, errno.EPERM), os.chmod, h / "secret", 0o666)
    expect_errno((errno.EACCES, errno.EPERM), os.chown, h / "secret", NOBODY, NOBODY)
    expect_errno((errno.EACCES, errno.EPERM), os.chown, h / "made", 0, 0)
    expect_errno((errno.EACCES, errno.EPERM), os.setxattr, h / "secret", "user.a", b"1")
    expect_errno((errno.EACCES, errno.EPERM), read_file, h / "private/f")
    expect_errno((errno.EACCES, errno.EPERM), os.listdir, h / "private")
    expect_errno((errno.EACCES, errno.EPERM), write_file, h / "private/new", b"")
    expect_errno((errno.EACCES, errno.EPERM), os.unlink, h / "private/f")
    expect(read_file(path + "/secret"), b"of root", "at the origin")
    expect(os.listdir(path + "/private"), ["f"])
    # Nor does a set-user-ID bit make root of anybody.
    os.chmod(h / "made", 0o4755)
    expect(os.stat(path + "/made").st_uid, NOBODY)


def test_users_keep_their_rights_under_root_squash(w):
    path, options = export(w, "squashed", ",root_squash")
    os.chmod(path, 0o1777)
    w.origin(*options)
    h = host_of(w, "a", "squashed")
    os.chmod(w.path, 0o755)
    expect(as_user(1234, lambda: write_file(h / "mine", b"mine")), None, "create")
    expect(as_user(1234, lambda: os.chmod(h / "mine", 0o600)), None, "chmod")
    expect(as_user(1234, lambda: read_file(h / "mine")), None, "read")
    expect(os.stat(path + "/mine").st_uid, 1234)
    expect(stat.S_IMODE(os.stat(path + "/mine").st_mode), 0o600)
    expect(as_user(2345, lambda: read_file(h / "mine")), errno.EACCES, "another user")
    expect(as_user(2345, lambda: os.unlink(h / "mine")), errno.EPERM, "the sticky bit")
    expect_errno((errno.EACCES, errno.EPERM), write_file, h / "mine", b"root", "r+b")
    expect(read_file(path + "/mine"), b"mine")


def test_who_is_in_another_group_has_fetched_what_it_may_read(w):
    path, options = export(w, "squashed", ",root_squash")
    w.origin(*options)
    os.chmod(path, 0o755)
    write_file(path + "/ours", pattern(3 << 20))
    os.chown(path + "/ours", 0, 77)
    os.chmod(path + "/ours", 0o640)
    h = host_of(w, "a", "squashed")
    os.chmod(w.path, 0o755)

    def fetch():
        leasehold.eventually(lambda: os.getxattr(h / "ours", "user.leasehold.prefetch.now") ==
                             b"complete", "it is fetched")

    expect(as_user(1234, fetch, [77]), None)


def test_without_root_squash_root_is_root(w):
    path, options = export(w, "plain")
    write_file(path + "/secret", b"of root")
    os.chmod(path + "/secret", 0o600)
    w.origin(*options)
    h = host_of(w, "a", "plain")
    expect(read_file(h / "secret"), b"of root")
    write_file(h / "made", b"1")
    expect(os.stat(path + "/made").st_uid, 0)


def test_an_export_for_some_hosts_is_closed_to_others(w):
    path, options = export(w, "some", ",hosts=one:two")
    open_path, more = export(w, "all")
    write_file(path + "/f", b"for some")
    write_file(open_path + "/f", b"for all")
    w.origin(*options, *more)
    w.allow_log("")
    for name in ("one", "two"):
        h = host_of(w, name, "some")
        expect(read_file(h / "f"), b"for some", name)
    three = host_of(w, "three", "some", start=False)
    result = run(BINARY, "mount", three.url(), three.path, "--cache", three.cache, "--cache-size",
                 "64M", "--keys", three.keys, "--host-name", three.name, "--join",
                 three.origin.token, check=False)
    expect(result.returncode != 0, True, "a host that is not named is refused")
    expect("some" in result.stderr, True, result.stderr)
    expect(leasehold.is_mounted(three.path), False)
    # Neither by plain HTTP.
    # Links, since a colon in a name is the begin of a passphrase to curl.
    for name in ("ca.pem", "host.pem", "host.key"):
        os.symlink(os.path.join(three.keys, "127.0.0.1:%d" % three.origin.port, name),
                   os.path.join(w.path, name))
    base = "https://127.0.0.1:%d/files/" % three.origin.port
    curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", w.path + "/ca.pem",
            "--cert", w.path + "/host.pem", "--key", w.path + "/host.key"]
    expect(run(*curl, base + "all/f").stdout, "200", "the open export")
    expect(run(*curl, base + "some/f").stdout in ("403", "404"), True, "the closed one")
    three.url = lambda: "https://127.0.0.1:%d/all" % three.origin.port
    three.joined = True
    expect(read_file(three.start() / "f"), b"for all", "the open export")


def test_a_directory_in_an_export_is_mounted_in_its_place(w):
    path, options = export(w, "data")
    os.makedirs(path + "/a/b c")
    write_file(path + "/a/b c/f", b"below")
    write_file(path + "/a/g", b"beside")
    os.symlink("a", path + "/link")
    w.origin(*options)
    w.allow_log("")
    whole = host_of(w, "whole", "data")
    below = host_of(w, "below", "data/a/b c/")
    expect(os.listdir(below.path), ["f"])
    expect(read_file(below / "f"), b"below")
    write_file(whole / "a/b c/f", b"written above")
    expect(read_file(below / "f"), b"written above", "a change from above is seen")
    write_file(below / "new", b"written below")
    expect(read_file(whole / "a/b c/new"), b"written below", "and one from below")
    expect(os.listdir(below / ".."), os.listdir(os.path.dirname(below.path)), "above is what is here")
    os.rename(whole / "a/b c", whole / "moved")
    expect(read_file(below / "f"), b"written above", "it stays mounted when it is renamed")
    other = host_of(w, "other", "", start=False)
    for path, what in (("/a/none/of/it", "No such file or directory: /a/none\n"),
                       ("/a/g", "Not a directory: /a/g"), ("/link", "Not a directory: /link"),
                       ("/a/../a", "Invalid argument: /a/.."), ("/" + "n" * 300, "name too long")):
        url = "https://127.0.0.1:%d/data%s" % (other.origin.port, path)
        result = run(BINARY, "mount", url, other.path, "--cache", other.cache, "--keys", below.keys,
                     "--host-name", below.name, check=False)
        expect(result.returncode != 0 and what in result.stderr, True, result.stderr)
        expect(leasehold.is_mounted(other.path), False)


def soon(read, value, what):
    """Changes made directly are reported by the kernel, not waited for."""
    def same():
        try:
            return read() == value
        except OSError as e:
            return e.errno == value
    leasehold.eventually(same, what)


def test_changes_made_directly_in_the_directory_are_seen(w):
    """Known to both hosts, in their kernels' pages, names and attributes; then changed by others."""
    o = w.origin()
    os.mkdir(o.path_of("d"))
    for name in ("f", "gone", "old"):
        write_file(o.path_of("d", name), b"one")
    hosts = w.hosts("a", "b")
    for h in hosts:
        expect(sorted(os.listdir(h / "d")), ["f", "gone", "old"])
        for name in ("f", "gone", "old"):
            expect(read_file(h / ("d/" + name)), b"one")
        expect(os.path.exists(h / "d/new"), False)
    with open(o.path_of("d", "f"), "r+b") as f:  # the same size, in place
        f.write(b"two")
    for h in hosts:
        soon(lambda h=h: read_file(h / "d/f"), b"two", "the new bytes")
    os.chmod(o.path_of("d", "f"), 0o600)
    write_file(o.path_of("d", "new"), b"new")
    os.unlink(o.path_of("d", "gone"))
    os.rename(o.path_of("d", "old"), o.path_of("d", "newer"))
    os.mkdir(o.path_of("d", "s"))
    for h in hosts:
        soon(lambda h=h: os.stat(h / "d/f").st_mode & 0o777, 0o600, "the new mode")
        soon(lambda h=h: read_file(h / "d/new"), b"new", "a new file")
        soon(lambda h=h: os.stat(h / "d/gone"), errno.ENOENT, "no removed file")
        soon(lambda h=h: sorted(os.listdir(h / "d")), ["f", "new", "newer", "s"], "the listing")
        expect(read_file(h / "d/newer"), b"one")
    # Thousands at once.
    for i in range(3000):
        write_file(o.path_of("d", "s", "f%d" % i), b"x")
    write_file(o.path_of("d", "f"), b"three")
    for h in hosts:
        soon(lambda h=h: len(os.listdir(h / "d/s")), 3000, "many new names")
        soon(lambda h=h: read_file(h / "d/f"), b"three", "new bytes after many events")


def test_hosts_go_on_with_a_file_system_that_was_mounted_over(w):
    """Never with what is there now; the log says so; what they did is there when it is uncovered."""
    if leasehold.LOCAL:
        raise leasehold.Skip("it is mounted over itself")
    o = w.origin()
    host = w.host("a")
    write_file(host / "f", b"one")
    result = run("mount", "-t", "tmpfs", "none", o.export, check=False)
    if result.returncode != 0:
        raise leasehold.Skip("mount -t tmpfs: " + result.stderr.strip())
    try:
        leasehold.eventually(lambda: b"event=export_hidden" in o.log(), "the log says it")
        write_file(o.path_of("other"), b"other")
        expect(os.listdir(host.path), ["f"])
        write_file(host / "f", b"two")
        write_file(host / "g", b"new")
        expect(os.listdir(o.export), ["other"])
    finally:
        if run("umount", o.export, check=False).returncode != 0:
            run("umount", "-l", o.export)
    leasehold.eventually(lambda: b"event=export_back" in o.log(), "and that it is back")
    expect(read_file(o.path_of("f")), b"two")
    expect(read_file(o.path_of("g")), b"new")
    write_file(o.path_of("f"), b"three")
    soon(lambda: read_file(host / "f"), b"three", "what others write there now")


def test_nothing_changes_on_an_export_that_is_read_only(w):
    path, options = export(w, "fixed", ",ro")
    data = pattern(100000)
    write_file(path + "/f", data)
    os.mkdir(path + "/d")
    write_file(path + "/d/g", b"g")
    os.symlink("f", path + "/s")
    os.setxattr(path + "/f", "user.a", b"1")
    before = {n: os.lstat(os.path.join(path, n)) for n in ("f", "d", "d/g", "s")}
    w.origin(*options)
    h = host_of(w, "a", "fixed")
    changes = {
        "write": lambda: write_file(h / "f", b"x", "r+b"),
        "append": lambda: write_file(h / "f", b"x", "ab"),
        "truncate": lambda: os.truncate(h / "f", 0),
        "create": lambda: write_file(h / "new", b""),
        "mkdir": lambda: os.mkdir(h / "new"),
        "mkfifo": lambda: os.mkfifo(h / "new"),
        "symlink": lambda: os.symlink("x", h / "new"),
        "link": lambda: os.link(h / "f", h / "new"),
        "unlink": lambda: os.unlink(h / "f"),
        "rmdir": lambda: os.rmdir(h / "d"),
        "rename": lambda: os.rename(h / "f", h / "new"),
        "chmod": lambda: os.chmod(h / "f", 0o600),
        "chown": lambda: os.chown(h / "f", 1, 1),
        "utime": lambda: os.utime(h / "f", (1, 1)),
        "setxattr": lambda: os.setxattr(h / "f", "user.b", b"1"),
        "removexattr": lambda: os.removexattr(h / "f", "user.a"),
    }
    for what, change in changes.items():
        try:
            change()
        except OSError as e:
            expect(errno.errorcode[e.errno], "EROFS", what)
        else:
            raise leasehold.Failure(what + " succeeded")
    expect(read_file(h / "f"), data)
    expect(os.getxattr(h / "f", "user.a"), b"1")
    expect(sorted(os.listdir(h.path)), ["d", "f", "s"])
    for name, was in before.items():
        now = os.lstat(os.path.join(path, name))
        expect((now.st_mtime_ns, now.st_ctime_ns), (was.st_mtime_ns, was.st_ctime_ns), name)


leasehold.main(globals())
