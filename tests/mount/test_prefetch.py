#!/usr/bin/env python3
"""What users ask to be fetched: jobs, and attributes that act."""

import errno
import os
import re
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, LOCAL, STOP_TIMEOUT_S, Skip, eventually, expect, expect_errno,
                       pattern, read_file, run, write_file)

STATE = "user.leasehold.prefetch"
TREE = {"%s/f%d" % (directory, i): pattern(size, seed=i)
        for directory in ("tree", "tree/a", "tree/a/b", "tree/c")
        for i, size in enumerate((0, 1, 5000, 32768, 110 << 10, 9 << 20))}


def prepare(w, *names, files=None):
    """Hosts that have seen nothing of the tree yet."""
    if LOCAL:
        raise Skip("a plain directory fetches nothing")
    origin = w.origin()
    for name, data in (files or TREE).items():
        os.makedirs(os.path.dirname(origin.path_of(name)), exist_ok=True)
        write_file(origin.path_of(name), data)
    return w.hosts(*names)


def state(path, name=STATE):
    return os.getxattr(path, name).decode()


def leasehold_command(w, *arguments, check=True):
    """Its standard output."""
    environment = dict(os.environ, XDG_STATE_HOME=os.path.join(w.path, "home"))
    return subprocess.run([BINARY] + [str(a) for a in arguments], env=environment, check=check,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def job(w, number, wanted):
    """Waits until `leasehold prefetch show` says that."""
    eventually(lambda: re.match(r"%s  %s " % (number, wanted),
                                leasehold_command(w, "prefetch", "show", number)),
               "job %s is %s" % (number, wanted))


def test_a_job_fetches_all_and_then_the_origin_is_not_asked(w):
    a, = prepare(w, "a")
    leasehold_command(w, "prefetch", a / "tree")
    for name in TREE:
        expect(state(a / name), "complete", name)
    before = a.status()["counters"]["fetched_bytes"]
    for name, data in TREE.items():
        expect(read_file(a / name) == data, True, name)
    expect(a.status()["counters"]["fetched_bytes"] - before, 0, "bytes fetched by readers")
    # Once more there is nothing to do.
    leasehold_command(w, "prefetch", a / "tree")
    expect(a.status()["counters"]["fetched_bytes"] - before, 0, "bytes fetched again")


def test_a_list_and_a_pattern_name_what_is_fetched(w):
    a, = prepare(w, "a")
    write_file(os.path.join(w.path, "list"), ("%s\n%s\n" % (
        a / "tree/f4", a / "tree/c/f2")).encode())
    leasehold_command(w, "prefetch", "--from-list", os.path.join(w.path, "list"), a / "tree/*/f3")
    for name in ("tree/f4", "tree/c/f2", "tree/a/f3", "tree/c/f3"):
        expect(state(a / name), "complete", name)
    # Of a list, too, a link is what it leads to, and a pattern may stand anywhere.
    os.symlink("f4", a / "tree/a/link")
    write_file(os.path.join(w.path, "list"), ("%s\n%s\n%s\n" % (
        a / "tree/f2", a / "tree/a/link", a / "tree/*/b/f2")).encode())
    leasehold_command(w, "prefetch", "--from-list", os.path.join(w.path, "list"))
    for name in ("tree/f2", "tree/a/f4", "tree/a/b/f2"):
        expect(state(a / name), "complete", name)
    # What is not there is said, and the rest fetched.
    result = subprocess.run([BINARY, "prefetch", a / "none", a / "tree/c/f4"],
                            env=dict(os.environ, XDG_STATE_HOME=os.path.join(w.path, "home")),
                            stderr=subprocess.PIPE, check=False)
    expect(result.returncode, 1)
    expect(b"none: No such file" in result.stderr, True, result.stderr)
    expect(state(a / "tree/c/f4"), "complete")


def test_attributes_act(w):
    a, = prepare(w, "a")
    path = a / "tree/f5"
    os.setxattr(path, STATE, b"now")
    eventually(lambda: state(path) == "complete", "it was fetched")
    expect_errno(errno.EINVAL, os.setxattr, path, STATE, b"soon")
    expect_errno(errno.ENODATA, os.getxattr, path, STATE + ".soon")
    # Bytes of a file, by who may only read it.
    state(a / "tree/c/f5", STATE + ".4096-8192")
    eventually(lambda: state(a / "tree/c/f5", STATE + ".4096-8192") == "complete",
               "the range is there")
    # The files in a directory.
    os.setxattr(a / "tree/a", STATE, b"now")
    eventually(lambda: all(state(a / ("tree/a/f%d" % i)) == "complete" for i in range(6)),
               "all files of the directory are there")
    # And what is cached goes.
    leasehold_command(w, "evict", a / "tree")
    expect(a.xattr("cached", "tree/f5"), "0")
    expect(read_file(path) == TREE["tree/f5"], True)


def test_what_the_kernel_has_is_not_fetched_again(w):
    a, b = prepare(w, "a", "b", files={"small": pattern(100000)})
    expect(read_file(a / "small") == pattern(100000), True)
    leasehold_command(w, "evict", a / "small")
    before = a.status()["counters"]["fetched_bytes"]
    expect(read_file(a / "small") == pattern(100000), True)
    expect(a.status()["counters"]["fetched_bytes"] - before, 0, "bytes fetched again")
    write_file(b / "small", pattern(100000, seed=2))
    expect(read_file(a / "small") == pattern(100000, seed=2), True, "what another host wrote")


def test_what_was_fetched_is_told(w):
    a, = prepare(w, "a", files={"big": pattern(9 << 20), "other": pattern(100)})
    fetched = "user.leasehold.fetched"
    read_file(a / "other")
    expect_errno(errno.ENODATA, os.getxattr, a / "other", fetched)
    leasehold_command(w, "prefetch", a / "big")
    told = state(a / "big", fetched)
    expect(re.fullmatch(r"user %d: 9437184 bytes, \d+s ago, 0 of them read" % os.getuid(), told)
           is None, False, told)
    read_file(a / "big")
    eventually(lambda: state(a / "big", fetched).endswith(", 9437184 of them read"),
               "what was read is told")
    expect("\nfetched: user" in leasehold_command(w, "stat", a / "big"), True, "in leasehold stat")


def test_a_job_in_the_background_is_listed_and_cancelled(w):
    a, = prepare(w, "a", files={"big": pattern(8 << 20)})
    number = leasehold_command(w, "prefetch", "--detach", "--limit", "20K", a / "big").strip()
    try:
        job(w, number, "running")
        listed = leasehold_command(w, "prefetch", "list")
        expect(re.search(r"(?m)^%s  running " % number, listed) is None, False, listed)
    finally:
        leasehold_command(w, "prefetch", "cancel", number)
    job(w, number, "cancelled")


def test_a_name_says_nothing_else_of_a_job(w):
    name = "x\npid 1\nstate failed"
    a, = prepare(w, "a", files={name: b"x" * 5000})
    leasehold_command(w, "prefetch", a / name)
    listed = leasehold_command(w, "prefetch", "list")
    expect(re.match(r"1  done  .*x\?pid 1\?state failed\n$", listed) is not None, True, listed)


def test_a_job_goes_on_after_the_mount_is_back(w):
    a, = prepare(w, "a", files={"big": pattern(8 << 20)})
    number = leasehold_command(w, "prefetch", "--detach", "--limit", "1M", a / "big").strip()
    try:
        # An unmount does not wait for it.
        eventually(lambda: run("umount", a.path, check=False).returncode == 0, "it can be unmounted")
        expect(a.wait(STOP_TIMEOUT_S), 0, "exit status of the mount")
        a.start()
        job(w, number, "done")
        expect(state(a / "big"), "complete")
    finally:
        leasehold_command(w, "prefetch", "cancel", number)


def test_who_may_not_read_a_file_neither_fetches_nor_evicts_it(w):
    a, = prepare(w, "a", files={"private": pattern(5000), "public": pattern(5000)})
    evict = "user.leasehold.evict"
    os.chmod(w.path, 0o755)
    os.chmod(a / "private", 0o600)
    os.chmod(a / "public", 0o644)
    leasehold_command(w, "prefetch", a / "private", a / "public")

    def stranger():
        for name in (STATE, STATE + ".now", STATE + ".0-4096", STATE + ".cancel", evict):
            expect_errno(errno.EACCES, os.getxattr, a / "private", name)
        expect_errno(errno.EACCES, os.setxattr, a / "public", STATE, b"now")
        expect(state(a / "public", STATE + ".now"), "complete")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(1234)
            os.setuid(1234)
            stranger()
            status = 0
        except BaseException as e:  # pylint: disable=broad-except
            print("# %r" % e, flush=True)
        finally:
            os._exit(status)
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0, "the other user")
    expect(state(a / "private"), "complete")


def test_a_job_goes_on_after_the_origin_is_back(w):
    w.allow_log("")
    a, = prepare(w, "a", files={"big": pattern(4 << 20)})
    number = leasehold_command(w, "prefetch", "--detach", "--limit", "1M", a / "big").strip()
    try:
        eventually(lambda: int(a.xattr("cached", "big")) > 0, "it has begun")
        a.origin.kill()
        a.origin.start()
        job(w, number, "done")
        expect(state(a / "big"), "complete")
        expect(read_file(a / "big") == pattern(4 << 20), True)
    finally:
        leasehold_command(w, "prefetch", "cancel", number)


def test_what_is_fetched_is_coherent(w):
    a, b = prepare(w, "a", "b", files={"big": pattern(32 << 20)})
    for i in range(3):
        os.setxattr(a / "big", STATE, b"now")
        data = pattern(100000, seed=i + 1)
        with open(b / "big", "r+b") as f:
            f.write(data)
        with open(a / "big", "rb") as f:
            expect(f.read(len(data)) == data, True, "what was written while it was fetched")
    leasehold_command(w, "prefetch", a / "big")
    expect(state(a / "big"), "complete")
    with open(a / "big", "rb") as f:
        expect(f.read(len(data)) == data, True, "what was written")


if __name__ == "__main__":
    leasehold.main(globals())
