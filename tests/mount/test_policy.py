#!/usr/bin/env python3
"""Policies: set on one host, in force on all of them, and refused when they make no sense."""

import errno
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, LOCAL, Skip, eventually, expect, expect_errno, read_file, run,
                       write_file)

POLICY = "user.leasehold.policy"
RULES = "user.leasehold.rules"


def prepare(w, *names, options=()):
    if LOCAL:
        raise Skip("a local file system has no policies")
    w.origin(*options)
    return w.hosts(*names)


def rules(path):
    """What policies set of it: {attribute: (value, where)}."""
    try:
        text = os.getxattr(path, RULES).decode()
    except OSError as e:
        if e.errno != errno.ENODATA:
            raise
        return {}
    return {line.split("=")[0]: (line.split("=", 1)[1].split("  # ")[0],
                                 line.split("  # ")[1].split(": ")[0])
            for line in text.splitlines()}


def put(text, directory):
    subprocess.run([BINARY, "policy", "set", directory], input=text, text=True, check=True,
                   stderr=subprocess.DEVNULL)


def become(path, expected):
    eventually(lambda: rules(path) == expected,
               "%s of %s, not only %s" % (expected, path, rules(path)))


def test_a_policy_of_a_directory_is_in_force_below_it_on_every_host(w):
    a, b = prepare(w, "a", "b")
    os.makedirs(a / "d/sub")
    write_file(a / "d/old.tar", b"1")
    write_file(a / "other.tar", b"1")
    expect(rules(b / "d/old.tar"), {})
    run("setfattr", "-n", POLICY, "-v", "*.tar prefetch=whole pin", a / "d")
    expected = {"prefetch": ("on-open,whole", "/d:1"), "pin": ("on", "/d:1")}
    # Here at once, elsewhere as soon as the host has heard.
    expect(rules(a / "d/old.tar"), expected)
    become(b / "d/old.tar", expected)
    # Files that are made later, too, on either host.
    write_file(b / "d/sub/new.tar", b"2")
    write_file(a / "d/sub/new.txt", b"2")
    for host in (a, b):
        become(host / "d/sub/new.tar", expected)
        expect(rules(host / "d/sub/new.txt"), {})
        expect(rules(host / "other.tar"), {})
    # The text of what has one; of the others, what matched.
    expect(os.getxattr(b / "d", POLICY), b"*.tar prefetch=whole pin")
    expect(os.getxattr(b / "d/old.tar", POLICY), os.getxattr(b / "d/old.tar", RULES))
    expect(POLICY in os.listxattr(b / "d"), False)
    # A change reaches the other without a remount.
    os.setxattr(b / "d", POLICY, b"# now\n*.t* priority=low\n")
    expected = {"priority": ("low", "/d:2")}
    for host in (b, a):
        become(host / "d/old.tar", expected)
    os.removexattr(a / "d", POLICY)
    for host in (a, b):
        become(host / "d/old.tar", {})
        expect_errno(errno.ENODATA, os.getxattr, host / "d", POLICY)


def test_nearer_directories_win_and_the_mounts_own_policy_over_them(w):
    a, = prepare(w, "a")
    own = w.path + "/own.policy"
    write_file(own, b"# mine\n/x/y/*.b pin\n")
    b = w.host("b", "--policy", own)
    os.makedirs(a / "x/y/z")
    for name in ("f.a", "f.b"):
        write_file(a / ("x/y/" + name), b"1")
        write_file(a / ("x/y/z/" + name), b"1")
    os.setxattr(a / "", POLICY, b"* priority=low ttl=1h\n*.a admit=never\n/x/y/*.b unpin\n")
    os.setxattr(a / "x/y", POLICY, b"/*.b priority=high\nz/* !ttl\n")
    become(a / "x/y/f.a", {"priority": ("low", "/:1"), "ttl": ("1h", "/:1"),
                           "admit": ("never", "/:2")})
    for host, pin in ((a, ("off", "/:3")), (b, ("on", "--policy:2"))):
        become(host / "x/y/f.b", {"priority": ("high", "/x/y:1"), "ttl": ("1h", "/:1"),
                                  "pin": pin})
        become(host / "x/y/z/f.b", {"priority": ("low", "/:1"), "ttl": ("unlimited", "/x/y:2")})
    # What is renamed is what its new name says.
    os.rename(a / "x/y/f.b", a / "x/y/z/g.c")
    become(a / "x/y/z/g.c", {"priority": ("low", "/:1"), "ttl": ("unlimited", "/x/y:2")})


def test_a_mount_of_a_directory_has_the_policies_above_it(w):
    a, = prepare(w, "a")
    os.makedirs(a / "x/y/z")
    write_file(a / "x/y/z/f", b"1")
    os.setxattr(a / "", POLICY, b"/x/y/z/f priority=low\n")
    b = w.host("b", start=False)
    b.below = "/x/y"
    b.start()
    become(b / "z/f", {"priority": ("low", "/:1")})
    os.setxattr(a / "x", POLICY, b"y/z/f priority=high\n")
    become(b / "z/f", {"priority": ("high", "/x:1")})
    os.removexattr(a / "", POLICY)
    os.setxattr(b / "", POLICY, b"/z/f admit=second\n")
    become(b / "z/f", {"priority": ("high", "/x:1"), "admit": ("second", "/x/y:1")})


def test_what_makes_no_sense_is_refused_and_the_old_one_stays(w):
    a, b = prepare(w, "a", "b")
    os.mkdir(a / "d")
    write_file(a / "d/f", b"1")
    os.setxattr(a / "d", POLICY, b"f pin\n")
    become(b / "d/f", {"pin": ("on", "/d:1")})
    for wrong in (b"f pin\n* prefech=whole\n", b"f", b"", b"a[ pin", b"f pin=maybe",
                  b"f pin\n" * 4000):
        expect_errno(errno.EINVAL, os.setxattr, a / "d", POLICY, wrong)
    expect_errno(errno.ENOTDIR, os.setxattr, a / "d/f", POLICY, b"f pin")
    for host in (a, b):
        expect(os.getxattr(host / "d", POLICY), b"f pin\n")
        become(host / "d/f", {"pin": ("on", "/d:1")})
    # The command says where and why.
    write_file(w.path + "/wrong", b"# x\n*.tar  prefech=whole\n")
    for command in (("set", a / "d", w.path + "/wrong"), ("check", w.path + "/wrong")):
        ended = subprocess.run([BINARY, "policy", *command], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, check=False)
        expect(ended.returncode, 1)
        assert "line 2, column 8" in ended.stdout, ended.stdout
        assert "did you mean prefetch?" in ended.stdout, ended.stdout
    expect(os.getxattr(a / "d", POLICY), b"f pin\n")
    ended = subprocess.run([BINARY, "policy", "check", a / "d"], stderr=subprocess.PIPE, text=True,
                           check=False)
    assert "Is a directory" in ended.stderr, ended.stderr
    # So does a mount, and there is none.
    c = w.host("c", "--policy", w.path + "/wrong", start=False)
    ended = subprocess.run([str(x) for x in c.command()], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, check=False)
    assert ended.returncode != 0 and "line 2, column 8" in ended.stdout, ended.stdout


def test_who_may_not_write_to_the_directory_may_not_set_its_policy(w):
    a, = prepare(w, "a")
    os.mkdir(a / "d")
    os.chmod(a / "d", 0o711)
    os.chmod(w.path, 0o755)
    command = ["setfattr", "-n", POLICY, "-v", "* pin", a / "d"]
    ended = subprocess.run(command, user=1, group=1, extra_groups=[], stderr=subprocess.PIPE,
                           text=True, check=False)
    assert ended.returncode == 1 and "Permission denied" in ended.stderr, ended.stderr
    os.chown(a / "d", 1, 1)
    subprocess.run(command, user=1, group=1, extra_groups=[], check=True)
    expect(os.getxattr(a / "d", POLICY), b"* pin")


def test_the_command_sets_gets_and_shows(w):
    a, b = prepare(w, "a", "b")
    os.mkdir(a / "d")
    write_file(a / "d/x y.tar", b"1")
    text = "# tars\n*.tar  priority=high\n"
    put(text, a / "d")
    expect(run(BINARY, "policy", "get", b / "d").stdout, text)
    become(b / "d/x y.tar", {"priority": ("high", "/d:2")})
    expect(run(BINARY, "policy", "get", "--match", b / "d/x y.tar").stdout,
           "priority=high  # /d:2: *.tar  priority=high\n")
    assert "priority=high" in run(BINARY, "stat", b / "d/x y.tar").stdout
    # At the origin's machine, on the exported directory.
    exported = w.main_origin.path_of("d")
    expect(run(BINARY, "policy", "get", exported).stdout, text)
    put("*.tar  priority=low\n", exported)
    become(a / "d/x y.tar", {"priority": ("low", "/d:1")})
    # An editor that leaves nonsense changes nothing; one that is right does.
    for line, good in (("* pinn", False), ("* pin", True)):
        script = w.path + "/editor"
        write_file(script, ("#!/bin/sh\necho '%s' >>\"$1\"\n" % line).encode())
        os.chmod(script, 0o755)
        ended = subprocess.run([BINARY, "policy", "edit", str(a / "d")], check=False,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True,
                               env=dict(os.environ, EDITOR=script, TMPDIR=w.path))
        expect(ended.returncode, 0 if good else 1, ended.stdout)
    expect(os.getxattr(a / "d", POLICY), b"*.tar  priority=low\n* pin\n")
    run(BINARY, "policy", "set", "--none", a / "d")
    expect_errno(errno.ENODATA, os.getxattr, b / "d", POLICY)


def test_read_ahead_is_what_a_policy_says_of_a_file(w):
    b, = prepare(w, "b")
    for name in ("plain.bin", "small.idx"):
        write_file(b / name, os.urandom(1 << 20) * 24)
    a = w.host("a", "--prefetch", "off")
    os.setxattr(a.path, POLICY, b"*.idx readahead=0\n")
    become(a / "small.idx", {"readahead": ("0", "/:1")})
    for name in ("small.idx", "plain.bin"):
        fd = os.open(a / name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # the kernel's own is none of ours
        for i in range(64):
            os.pread(fd, 65536, i * 65536)
        os.close(fd)
    eventually(lambda: int(a.xattr("cached", "plain.bin")) >= 5 << 20, "read ahead of")
    assert int(a.xattr("cached", "small.idx")) <= 4 << 20, a.xattr("ranges", "small.idx")


def test_what_is_not_to_be_fetched_ahead_is_not(w):
    b, = prepare(w, "b")
    for name in ("x.off", "x.meta"):
        write_file(b / name, os.urandom(1 << 20) * 8)
    a = w.host("a")
    os.setxattr(a.path, POLICY, b"*.off prefetch=off\n*.meta meta-only\n")
    become(a / "x.off", {"prefetch": ("off", "/:1")})
    for name in ("x.off", "x.meta"):
        fd = os.open(a / name, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # the kernel's own is none of ours
        for i in range(32):
            os.pread(fd, 65536, i * 65536)
        os.close(fd)
        assert int(a.xattr("cached", name)) <= 2 << 20, a.xattr("ranges", name)


def test_some_files_fail_and_some_are_served_while_the_origin_is_away(w):
    w.allow_log("")
    a, = prepare(w, "a", options=("--lease-term", "5s"))
    os.mkdir(a / "d")
    for name in ("keep.s", "other.s", "strict.f"):
        write_file(a / ("d/" + name), b"one")
    os.setxattr(a.path, POLICY, b"/ disconnected=stale\n/d disconnected=stale\n"
                b"*.s disconnected=stale\n*.f disconnected=fail\n")
    become(a / "d/keep.s", {"disconnected": ("stale", "/:3")})
    become(a / "d/strict.f", {"disconnected": ("fail", "/:4")})
    for name in ("keep.s", "strict.f"):
        with open(a / ("d/" + name), "rb") as f:
            expect(f.read(), b"one")
        eventually(lambda name=name: a.xattr("cached", "d/" + name) == "3", "it is on the disk")
    w.main_origin.kill()
    a.wait_until_disconnected()
    with open(a / "d/keep.s", "rb") as f:
        expect(f.read(), b"one")
    expect_errno(errno.EIO, open, a / "d/strict.f", "rb")
    assert a.status()["counters"]["stale"] > 0
    w.main_origin.start()
    eventually(lambda: a.status()["state"] == "connected", "a is back")
    with open(a / "d/strict.f", "rb") as f:
        expect(f.read(), b"one")


def cached(host, name):
    return int(os.getxattr(host / name, "user.leasehold.cached"))


def test_what_is_fetched_ahead_is_as_it_says(w):
    b, = prepare(w, "b")
    size = 3 << 20
    for name in ("d/whole.bin", "d/first.bin", "d/rest.bin", "d/off.bin", "d/plain.bin"):
        os.makedirs(os.path.dirname(b / name), exist_ok=True)
        write_file(b / name, b"x" * size)
    for i in range(40):
        for directory in ("listed", "off"):
            os.makedirs(b / directory, exist_ok=True)
            write_file(b / ("%s/f%d" % (directory, i)), b"y" * 50000)
    a = w.host("a")
    os.stat(a / "d")
    put("whole.bin prefetch=whole\nfirst.bin prefetch=1M\nrest.bin prefetch=rest\n"
        "/listed/** prefetch=on-list\n/off/** prefetch=off\noff.bin meta-only\n", a / "")
    become(a / "d/whole.bin", {"prefetch": ("on-open,whole", "/:1")})
    for name, offset, least, most in (("whole.bin", 0, size, size), ("first.bin", 0, 1 << 20, size),
                                      ("rest.bin", 1 << 20, 2 << 20, size),
                                      ("off.bin", 0, 4096, 1 << 20)):
        fd = os.open(a / ("d/" + name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 4096, offset)
        eventually(lambda: cached(a, "d/" + name) >= least, name)
        time.sleep(0.2)
        expect(cached(a, "d/" + name) <= most, True, "%s: %d" % (name, cached(a, "d/" + name)))
        os.close(fd)
    os.listdir(a / "listed")
    eventually(lambda: all(cached(a, "listed/f%d" % i) == 50000 for i in range(40)), "listed")
    os.listdir(a / "off")
    for i in range(0, 40, 3):
        read_file(a / ("off/f%d" % i))
    # What was read comes to the cache behind its answer; what was not does not come.
    eventually(lambda: all(cached(a, "off/f%d" % i) > 0 for i in range(0, 40, 3)), "read")
    time.sleep(0.5)
    expect(sum(cached(a, "off/f%d" % i) > 0 for i in range(40)), 14, "files of off")


def test_an_open_waits_until_all_of_the_file_is_there(w):
    w.allow_log("does not wait for all")
    b, = prepare(w, "b", options=("--lease-term", "60s"))
    size = 24 << 20
    for name in ("one.w", "two.w", "plain", "large.w"):
        write_file(b / name, os.urandom(1 << 20) * (size >> 20) * (4 if name == "large.w" else 1))
    a = w.host("a", "--cache-size", "64M")
    put("*.w wait=open\n", a / "")
    for name in ("one.w", "two.w", "large.w"):
        become(a / name, {"wait": ("open", "/:1")})
    with open(a / "one.w", "rb", buffering=0) as f:
        expect(cached(a, "one.w"), size, "before it is read")
        expect(f.read(4096), read_file(b / "one.w")[:4096])
    with open(a / "plain", "rb", buffering=0):
        pass
    expect(cached(a, "plain") < size, True, "others do not wait")
    # What does not fit is opened all the same.
    with open(a / "large.w", "rb", buffering=0) as f:
        expect(f.read(4096), read_file(b / "large.w")[:4096])
    # Who waits can be killed.
    os.stat(a / "two.w")
    w.main_origin.signal(signal.SIGSTOP)
    waiting = subprocess.Popen(["cat", a / "two.w"], stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    expect(waiting.poll(), None, "it waits")
    waiting.kill()
    waiting.wait(timeout=leasehold.COMMAND_TIMEOUT_S)
    w.main_origin.signal(signal.SIGCONT)
    expect(len(read_file(a / "two.w")), size)


def idle(host):
    """Nothing is wished for, and nothing under way."""
    prefetch = host.status()["prefetch"]
    return prefetch["waiting"] == 0 and prefetch["bytes_in_flight"] == 0


def test_fetching_ahead_goes_no_deeper_than_it_says(w):
    b, = prepare(w, "b")
    for directory in ("t", "t/sub", "t/sub/sub", "last"):
        os.makedirs(b / directory)
        for i in range(5):
            write_file(b / ("%s/f%d" % (directory, i)), b"y" * 50000)
    a = w.host("a")
    put("** prefetch=on-list\n/t/** depth=2 priority=low\n", a / "")
    become(a / "last/f1", {"prefetch": ("on-list,whole", "/:1")})
    for directory in ("t", "t/sub", "t/sub/sub", "last"):
        os.listdir(a / directory)
    for directory in ("t", "t/sub", "last"):
        eventually(lambda directory=directory: all(
            cached(a, "%s/f%d" % (directory, i)) == 50000 for i in range(5)), directory)
    eventually(lambda: idle(a), "all is fetched")
    expect([cached(a, "t/sub/sub/f%d" % i) for i in range(5)], [0] * 5)


def test_no_more_is_fetched_ahead_in_a_second_than_it_says(w):
    b, = prepare(w, "b")
    size = 4 << 20
    for name in ("slow", "fast"):
        write_file(b / name, b"x" * size)
    a = w.host("a")
    put("* prefetch=whole\n/slow bandwidth=2M\n", a / "")
    become(a / "slow", {"prefetch": ("on-open,whole", "/:1"), "bandwidth": ("2M", "/:2")})
    began = time.monotonic()
    files = [os.open(a / name, os.O_RDONLY) for name in ("slow", "fast")]
    for fd in files:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, 4096, 0)
    # It is wished for first, and does not hold up what is behind it.
    eventually(lambda: cached(a, "fast") == size, "without a limit")
    eventually(lambda: cached(a, "slow") == size, "with one")
    took = time.monotonic() - began
    assert took > 1.2, "4 MiB at 2 MiB/s, of which a quarter second's bytes at once: %.2f s" % took
    for fd in files:
        os.close(fd)


if __name__ == "__main__":
    leasehold.main(globals())
