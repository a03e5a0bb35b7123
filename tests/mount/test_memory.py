#!/usr/bin/env python3
"""
--memory: a daemon in a cgroup that has little more than its limit walks a tree and reads files that
would take more, is not killed for it, and refuses nothing. Needs a memory controller (cgroups of
either version) and Linux 6.18; skips without.
"""

import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (Failure, Skip, eventually, expect, pattern, read_file, run, run_together,
                       write_file)

MIB = 1 << 20
LIMIT = 64 * MIB
GROUP_MORE = 16 * MIB  # for the guardian and what the kernel counts
DIRECTORIES, FILES = 120, 1000
NAME = "%d" + "-" * 200  # so that few files take much
LARGE, LARGE_BYTES = 4, 24 * MIB


class Group:
    """A cgroup with a limit. What a process had before it came in counts elsewhere."""

    def __init__(self, limit):
        old = os.path.isdir("/sys/fs/cgroup/memory")
        base = "/sys/fs/cgroup/memory" if old else "/sys/fs/cgroup"
        self.path = os.path.join(base, "leasehold-test-%d" % os.getpid())
        self.events = os.path.join(self.path, "memory.oom_control" if old else "memory.events")
        if not os.path.exists(os.path.join(base, "cgroup.procs")):
            raise Skip("there is no memory controller at " + base)
        try:
            os.mkdir(self.path)
        except OSError as e:
            raise Skip("a cgroup: " + str(e)) from None
        try:
            write_file(os.path.join(self.path, "memory.limit_in_bytes" if old else "memory.max"),
                       b"%d" % limit)
        except OSError as e:
            os.rmdir(self.path)
            raise Skip("a cgroup of limited memory: " + str(e)) from None

    def enter(self, pids):
        for pid in pids:
            write_file(os.path.join(self.path, "cgroup.procs"), b"%d" % pid)

    def kills(self):
        for line in read_file(self.events).decode().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        return 0

    def remove(self):
        def gone():
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                pass
            except OSError:
                return False
            return True
        eventually(gone, "nobody is left in " + self.path)


def walk(host, directories):
    seen = 0
    for i in range(directories):
        directory = host / ("tree/%d" % i)
        for name in os.listdir(directory):
            seen += os.stat(os.path.join(directory, name)).st_size == 0
    expect(seen, directories * FILES, "files seen")


def read_large(host, number):
    if read_file(host / ("large%d" % number)) != pattern(LARGE_BYTES, number):
        raise Failure("large%d has other bytes" % number)


def test_a_tree_larger_than_the_limit_is_walked(w):
    if leasehold.LOCAL:
        raise Skip("a plain directory needs no memory")
    if tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) < (6, 18):
        raise Skip("this kernel cannot be told to forget inodes")
    binary = read_file(shutil.which(leasehold.BINARY))
    if b"__asan_init" in binary or b"__tsan_init" in binary:
        raise Skip("sanitizers take more than the limit")
    origin = w.origin()
    for i in range(DIRECTORIES):
        os.makedirs(origin.path_of("tree", str(i)))
        for k in range(FILES):
            os.close(os.open(origin.path_of("tree", str(i), NAME % k), os.O_CREAT | os.O_WRONLY))
    for number in range(LARGE):
        write_file(origin.path_of("large%d" % number), pattern(LARGE_BYTES, number))
    host = w.host("a", "--memory", str(LIMIT))
    group = Group(LIMIT + GROUP_MORE)
    try:
        group.enter(host.pids())
        walk(host, DIRECTORIES)
        status = host.status()
        if status["counters"]["shed"] == 0:
            raise Failure("nothing was given up: %d bytes" % status["memory"])
        expect(status["memory_max"], LIMIT, "limit in the status")
        # Both at once, and what was given up is there as before.
        run_together([lambda: walk(host, DIRECTORIES // 12)] +
                    [lambda n=number: read_large(host, n) for number in range(LARGE)])
        write_file(host / "written", pattern(LARGE_BYTES, 9))
        expect(read_file(origin.path_of("written")) == pattern(LARGE_BYTES, 9), True,
               "what was written is at the origin")
        expect(group.kills(), 0, "processes killed for memory")
        expect(host.status()["counters"]["calls_refused"], 0, "requests refused")
        host.unmount()
    finally:
        if host.running():
            host.crash()
        group.remove()


def test_too_little_is_refused(w):
    if leasehold.LOCAL:
        raise Skip("nothing is mounted")
    w.origin()
    host = w.host("a", start=False)
    result = run(*host.command("--memory", "1M"), check=False)
    expect(result.returncode != 0, True, "exit status")
    expect("64M" in result.stderr, True, "the error says what is enough")


leasehold.main(globals())
