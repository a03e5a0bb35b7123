#!/usr/bin/env python3
"""Sealed files and directories: nobody modifies them, on any host, and bytes that were sealed stay."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, FS_IMMUTABLE_FL, LOCAL, RENAME_EXCHANGE, Skip, Storer, expect,
                       expect_errno, inode_flags, pattern, read_file, rename2, run, write_file)

SIZE = 64 << 10
SEAL = "trusted.leasehold.seal"
FINAL = "trusted.leasehold.final"


def prepare(w, *names, options=()):
    """Hosts, and on them a tree: d/f, d/sub/g, d/link; and outside of it `other`."""
    if LOCAL:
        raise Skip("a local file system has no seals")
    w.seals = True
    w.origin(*options)
    hosts = w.hosts(*names)
    a = hosts[0]
    os.makedirs(a / "d/sub")
    write_file(a / "d/f", pattern(SIZE, 1))
    write_file(a / "d/sub/g", b"deep")
    os.symlink("f", a / "d/link")
    write_file(a / "other", b"other")
    return hosts


def command(what, *paths, check=True):
    return run(BINARY, what, *paths, check=check)


def refused(function, *arguments, **keywords):
    expect_errno(errno.EPERM, function, *arguments, **keywords)


def look_at_all(host):
    """So that it has leases on everything, and answers from its caches."""
    for path in ("d/f", "d/sub/g", "d/link"):
        read_file(host / path)
    for path in ("d", "d/sub"):
        os.listdir(host / path)
        os.stat(host / path)
    expect_errno(errno.ENOENT, os.stat, host / "d/new")


def everything_is_refused(host):
    f, g = host / "d/f", host / "d/sub/g"
    for path in (f, g):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND,
                      os.O_RDWR | os.O_CREAT):
            refused(os.open, path, flags)
        refused(os.truncate, path, 0)
        refused(os.remove, path)
        refused(os.link, path, host / "hard")
        refused(os.rename, path, host / "moved")
        refused(os.rename, host / "other", path)
        refused(rename2, host / "other", path, RENAME_EXCHANGE)
    for path in (f, host / "d", host / "d/sub"):
        refused(os.chmod, path, 0o777)
        refused(os.chown, path, 1, 1)
        refused(os.utime, path)
        refused(os.setxattr, path, "user.mine", b"1")
        refused(os.removexattr, path, "user.kept")
        refused(os.setxattr, path, FINAL, b"")
    for directory in ("d/", "d/sub/"):
        refused(write_file, host / (directory + "new"), b"")
        refused(os.mkdir, host / (directory + "new"))
        refused(os.mkfifo, host / (directory + "new"))
        refused(os.symlink, "x", host / (directory + "new"))
        refused(os.link, host / "other", host / (directory + "new"))
        refused(os.rename, host / "other", host / (directory + "new"))
        refused(os.open, host / directory, os.O_TMPFILE | os.O_RDWR)
    refused(os.rename, host / "d", host / "e")
    refused(os.remove, host / "d/link")
    refused(os.rename, host / "d/link", host / "l")
    refused(os.rmdir, host / "d/sub")
    # What a local file system says as well.
    expect_errno(errno.EEXIST, os.mkdir, host / "d/sub")
    expect_errno(errno.EEXIST, os.open, f, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    expect_errno(errno.ENOENT, os.remove, host / "d/new")


def everything_is_there(host):
    expect(read_file(host / "d/f"), pattern(SIZE, 1))
    expect(read_file(host / "d/sub/g"), b"deep")
    expect(os.readlink(host / "d/link"), "f")
    expect(sorted(os.listdir(host / "d")), ["f", "link", "sub"])
    expect(sorted(os.listdir(host / "d/sub")), ["g"])
    fd = os.open(host / "d/f", os.O_RDONLY | os.O_CREAT)
    os.close(fd)


def test_what_is_sealed_is_not_modified_on_any_host(w):
    a, b = prepare(w, "a", "b")
    for path in ("d/f", "d", "d/sub"):
        os.setxattr(a / path, "user.kept", b"1")
    for host in (a, b):
        look_at_all(host)
    command("seal", a / "d")
    for host in (a, b):
        everything_is_refused(host)
        everything_is_there(host)
        expect(os.getxattr(host / "d/f", "user.kept"), b"1")
        for path in ("d/f", "d/sub/g", "d/sub"):
            os.stat(host / path)
            expect(host.xattr("sealed", path), "sealed", path)
        os.stat(host / "other")
        expect(host.xattr("sealed", "other"), "no")
    write_file(b / "other", b"and others are")
    expect(read_file(a / "other"), b"and others are")
    # Again, it changes nothing.
    command("seal", b / "d")
    everything_is_refused(a)


def test_the_exported_directory_refuses_too(w):
    a, = prepare(w, "a")
    f = w.main_origin.path_of("d", "f")
    command("seal", a / "d")
    try:
        immutable = inode_flags(f) & FS_IMMUTABLE_FL
    except OSError:
        immutable = 0
    if not immutable:
        raise Skip("the file system has no immutable flag")
    refused(write_file, f, b"behind its back")
    refused(os.remove, f)
    refused(write_file, w.main_origin.path_of("d", "new"), b"")
    command("unseal", a / "d")
    expect(inode_flags(f) & FS_IMMUTABLE_FL, 0, "immutable")


def test_bytes_that_were_sealed_stay_when_the_seal_goes(w):
    a, b = prepare(w, "a", "b")
    command("seal", a / "d")
    everything_is_there(b)
    command("unseal", b / "d")
    for host in (a, b):
        os.stat(host / "d/f")
        expect(host.xattr("sealed", "d/f"), "final")
        refused(os.open, host / "d/f", os.O_RDWR)
        refused(os.truncate, host / "d/f", 0)
        refused(os.truncate, host / "d/f", SIZE + 1)
    everything_is_there(b)
    old = os.open(b / "d/f", os.O_RDONLY)
    # All but its bytes is as ever.
    os.chmod(a / "d/f", 0o600)
    expect(stat.S_IMODE(os.stat(b / "d/f").st_mode), 0o600)
    os.setxattr(b / "d/f", "user.mine", b"1")
    os.link(a / "d/f", a / "d/second")
    os.rename(b / "d/second", b / "d/third")
    os.remove(a / "d/third")
    write_file(b / "d/new", b"new")
    os.rename(b / "d/new", b / "d/f")
    expect(read_file(a / "d/f"), b"new")
    write_file(a / "d/f", b"and new again")
    expect(read_file(b / "d/f"), b"and new again")
    expect(os.pread(old, SIZE, 0), pattern(SIZE, 1), "through a descriptor of the old file")
    os.close(old)
    shutil.rmtree(a / "d")
    expect(os.path.exists(b / "d"), False)


def test_seals_outlive_the_origin(w):
    w.allow_log("")
    a, b = prepare(w, "a", "b")
    command("seal", "--term", "1s", a / "d")
    w.main_origin.kill()
    w.main_origin.start()
    everything_is_refused(b)
    everything_is_refused(a)
    b.crash()
    b.start()
    everything_is_refused(b)
    everything_is_there(b)
    command("unseal", b / "d")
    os.remove(a / "d/f")


def test_descriptors_that_could_write_are_refused(w):
    a, b = prepare(w, "a", "b")
    storers = Storer(w, a / "d/f"), Storer(w, b / "d/f")
    for number, storer in enumerate(storers):
        storer("store", 100 * number, "stored")
    command("seal", a / "d/f")
    for host in (a, b):
        data = read_file(host / "d/f")
        expect((data[:6], data[100:106]), (b"stored", b"stored"), "what was stored before")
    for storer in storers:
        storer("write", 0, "x", result="EPERM")
        storer("truncate", 0, result="EPERM")
        storer("read", 0, 6, result="stored")
    # It gets no page to store to.
    expect(storers[1].look("store 0 late") in ("SIGBUS", "ok"), True)
    storers[1].end()
    for host in (a, b):
        expect(read_file(host / "d/f")[:6], b"stored")
    expect(read_file(w.main_origin.path_of("d", "f"))[:6], b"stored")


def test_only_root_seals(w):
    a, = prepare(w, "a")
    os.chmod(w.path, 0o755)
    os.chown(a / "other", 1000, 1000)
    for what in ("seal", "unseal"):
        result = subprocess.run([BINARY, what, a / "other"], user=1000, stdin=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True,
                                timeout=leasehold.COMMAND_TIMEOUT_S)
        expect(result.returncode, 1, what)
        expect("only root" in result.stderr, True, result.stderr)
    expect(os.listxattr(w.main_origin.path_of("other")), [])
    local = os.path.join(w.path, "local")
    os.symlink(a / "other", local)
    for path in (w.main_origin.path_of("other"), local, "/"):
        expect(command("seal", path, check=False).returncode, 1, path)
    expect(os.listxattr(local, follow_symlinks=False), [])
    os.setxattr(a / "other", "user.mine", b"1")


def test_seals_are_listed_and_are_not_copied(w):
    a, b = prepare(w, "a", "b")
    command("seal", a / "d")
    lines = command("seal", "--list", b.path).stdout.splitlines()
    paths = sorted(line.split("  ", 1)[1] for line in lines)
    expect(paths, sorted(b / p for p in ("d", "d/f", "d/link", "d/sub", "d/sub/g")))
    expect(command("seal", "--list", b / "other").stdout, "")
    expect("sealed:  sealed" in command("stat", b / "d/f").stdout, True)
    expect([n for n in os.listxattr(b / "d/f") if "leasehold" in n], [], "names that are listed")
    # At the origin they are attributes like others, but of that inode.
    copy = w.main_origin.path_of("copy")
    write_file(copy, b"copy")
    for name in (SEAL, FINAL):
        os.setxattr(copy, name, os.getxattr(w.main_origin.path_of("d", "f"), name))
    write_file(b / "copy", b"can be modified")
    expect(read_file(a / "copy"), b"can be modified")
    command("seal", a / "copy")
    refused(os.remove, b / "copy")
    command("unseal", a / "copy")
    os.remove(b / "copy")


def test_a_silent_host_is_waited_for(w):
    w.allow_log("")
    a, b = prepare(w, "a", "b", options=("--lease-term", "3s"))
    look_at_all(b)
    b.signal(signal.SIGSTOP)
    command("seal", "--term", "1s", a / "d/f")
    refused(os.open, a / "d/f", os.O_RDWR)
    b.signal(signal.SIGCONT)
    leasehold.eventually(lambda: b.status()["state"] == "connected", "b is back")
    refused(os.open, b / "d/f", os.O_RDWR)
    expect(read_file(b / "d/f"), pattern(SIZE, 1))
    b.signal(signal.SIGSTOP)
    command("unseal", a / "d/f")
    os.remove(a / "d/f")
    b.signal(signal.SIGCONT)
    leasehold.eventually(lambda: b.status()["state"] == "connected", "b is back")
    expect(os.path.exists(b / "d/f"), False)


def test_a_policy_seals_what_was_quiet(w):
    w.allow_log("")
    a, b = prepare(w, "a", "b")
    look_at_all(b)
    os.makedirs(a / "d/never")
    write_file(a / "d/never/f", b"1")
    os.chmod(w.path, 0o755)
    os.chown(a / "d/sub", 1000, 1000)

    def sealed(path):
        return b.xattr("sealed", path) == "sealed"

    # Nobody but root has the origin seal.
    result = subprocess.run([BINARY, "policy", "set", a / "d/sub"], user=1000, text=True, check=False,
                            input="* seal=after:1s\n", stderr=subprocess.PIPE)
    expect(result.returncode, 1)
    expect("only root one that seals" in result.stderr, True, result.stderr)
    written = time.monotonic()

    def write_on():
        """To a file that is sealed if that was so slow that it was quiet meanwhile."""
        nonlocal written
        try:
            with open(a / "d/busy", "ab", buffering=0) as busy:
                busy.write(b"x")
        except PermissionError:
            expect(time.monotonic() - written > 1, True, "it was quiet")
        else:
            written = time.monotonic()
        return True

    os.setxattr(a / "d", "user.leasehold.policy", b"* seal=after:1s\nnever/** seal=never\n")
    for path in ("d/f", "d/sub/g"):
        leasehold.eventually(lambda path=path: write_on() and sealed(path), path + " is sealed")
    for path in ("d/never/f", "other", "d", "d/sub"):
        expect(sealed(path), False, path)
    expect(read_file(b / "d/f"), pattern(SIZE, 1))
    for host in (a, b):
        refused(os.open, host / "d/f", os.O_RDWR)
    # It goes on after a restart, and with what is made then.
    w.main_origin.kill()
    w.main_origin.start()
    write_file(a / "d/late", b"late")
    leasehold.eventually(lambda: sealed("d/late") and sealed("d/busy"), "all are sealed")
    os.removexattr(a / "d", "user.leasehold.policy")
    write_file(a / "d/new", b"new")
    time.sleep(2.5)
    expect(sealed("d/new"), False, "the policy is gone")


if __name__ == "__main__":
    leasehold.main(globals())
