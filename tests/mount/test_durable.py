#!/usr/bin/env python3
"""
Exactly once: the origin's process is killed at any moment, again and again, and no caller on any
host notices more than a delay. Every call succeeds, or fails as it would on a local file system.

LEASEHOLD_DURABLE_KILLS (default 5) says how often, LEASEHOLD_TEST_SEED when.
"""

import errno
import os
import random
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Failure, eventually, expect, expect_errno, pattern, read_file, write_file

KILLS = int(os.environ.get("LEASEHOLD_DURABLE_KILLS", "5"))
SEED = int(os.environ.get("LEASEHOLD_TEST_SEED", "1"))
PAGE = 4096


class Load:
    """Callers that go on until they are told to stop, or one of them was told something wrong."""

    def __init__(self):
        self.stop = threading.Event()
        self.failures = []
        self.rounds = {}
        self.threads = []

    def add(self, name, step, *arguments):
        def loop():
            number = 0
            try:
                while not self.stop.is_set():
                    step(number, *arguments)
                    number += 1
                    self.rounds[name] = number
            except Exception as e:  # the test's own thread says so
                self.failures.append("%s, round %d: %r" % (name, number, e))
                self.stop.set()
        self.rounds[name] = 0
        self.threads.append(threading.Thread(target=loop, name=name))
        self.threads[-1].start()

    def progress(self):
        """Every one of them has done something more since this was called."""
        before = dict(self.rounds)
        eventually(lambda: self.failures or all(self.rounds[n] > before[n] for n in before),
                   "every caller goes on", 200)

    def finish(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(200)
            if thread.is_alive():
                self.failures.append("%s does not come back" % thread.name)
        if self.failures:
            raise Failure("; ".join(self.failures))


def names(number, top):
    """Each of these fails when it is done twice, and the next one when it was not done at all."""
    one, two, three = (os.path.join(top, n) for n in ("one", "two", "three"))
    os.mkdir(one)
    os.rename(one, two)
    os.rmdir(two)
    os.close(os.open(one, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.link(one, two)
    expect(os.stat(one).st_nlink, 2, "links")
    os.rename(one, three)
    os.unlink(two)
    os.symlink("three", one)
    os.mkfifo(two)
    for name in (one, two, three):
        os.unlink(name)
    expect(os.listdir(top), [], "nothing is left")


def attributes(number, path):
    """The same for what is set rather than made."""
    os.setxattr(path, "user.n", b"%d" % number, os.XATTR_CREATE)
    os.setxattr(path, "user.n", b"%d" % -number, os.XATTR_REPLACE)
    expect(os.getxattr(path, "user.n"), b"%d" % -number)
    os.chmod(path, 0o600 + number % 64)
    expect(os.stat(path).st_mode & 0o777, 0o600 + number % 64)
    os.truncate(path, number % 5000)
    expect(os.stat(path).st_size, number % 5000)
    os.removexattr(path, "user.n")


def append(number, fd, host, acknowledged):
    line = b"%s %08d\n" % (host.encode(), number)
    expect(os.write(fd, line), len(line), "bytes written")
    acknowledged.append(line)


def overwrite(number, fd, rng):
    """Half a write would be seen: each is one pattern, and longer than a page."""
    pages = rng.choice([1, 2, 16, 64])
    data = bytes([number % 256]) * (PAGE * pages)
    at = PAGE * rng.randrange(128 - pages)
    expect(os.pwrite(fd, data, at), len(data), "bytes written")
    if os.pread(fd, len(data), at) != data:
        raise Failure("what was written at %d is not there" % at)


def take_turns(number, top, host):
    """A lock file: whoever made it alone has it."""
    lock, mine = os.path.join(top, "lock"), host.encode()
    try:
        fd = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    except FileExistsError:
        time.sleep(0.01)
        return
    os.pwrite(fd, mine, 0)
    expect(os.pread(fd, 10, 0), mine, "who has the lock")
    os.unlink(lock)
    expect(os.pread(fd, 10, 0), mine, "what is unlinked and open")
    os.close(fd)


def open_shared(path):
    return os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)


def start_load(load, hosts, shared, acknowledged):
    fds = []
    for host in hosts:
        top = host / host.name
        os.mkdir(top)
        os.mkdir(os.path.join(top, "names"))
        write_file(os.path.join(top, "attributes"), b"")
        write_file(os.path.join(top, "bytes"), bytes(128 * PAGE))
        fds += [os.open(os.path.join(top, "bytes"), os.O_RDWR), open_shared(host / shared)]
        load.add(host.name + " names", names, os.path.join(top, "names"))
        load.add(host.name + " attributes", attributes, os.path.join(top, "attributes"))
        load.add(host.name + " overwrite", overwrite, fds[-2],
                 random.Random("%d %s" % (SEED, host.name)))
        load.add(host.name + " append", append, fds[-1], host.name, acknowledged)
        load.add(host.name + " lock", take_turns, host.path, host.name)
    return fds


def test_every_change_is_made_exactly_once(w):
    w.allow_log("")
    origin = w.origin("--lease-term", "5s")
    a, b = w.hosts("a", "b")
    rng, load, acknowledged = random.Random(SEED), Load(), []
    fds = start_load(load, (a, b), "log", acknowledged)
    try:
        for kill in range(KILLS):
            load.progress()
            time.sleep(rng.random() * 0.3)  # a moment like any other
            origin.kill()
            origin.start()
        load.progress()
    finally:
        load.finish()
        for fd in fds:
            os.close(fd)
    for host in (a, b):
        lines = read_file(host / "log").splitlines(keepends=True)
        for who in (b"a", b"b"):
            expect([line for line in lines if line.startswith(who)],
                   sorted(line for line in acknowledged if line.startswith(who)),
                   "what %s appended, once each and in order" % who.decode())
        expect(len(lines), len(acknowledged), "lines")


def new_incarnation(origin):
    """As after a crash of its machine: whatever the store was told may be lost."""
    origin.kill()
    os.unlink(os.path.join(origin.state, "changes"))
    origin.start()


def test_each_descriptor_hears_once_of_what_may_be_lost(w):
    w.allow_log("")
    origin = w.origin("--lease-term", "5s")
    a, b = w.hosts("a", "b")
    os.mkdir(a / "d")
    fds = [os.open(a / "d/f", os.O_CREAT | os.O_RDWR), os.open(a / "d/f", os.O_RDWR),
           os.open(a / "d/f", os.O_RDWR)]
    other = os.open(a / "synced", os.O_CREAT | os.O_RDWR)
    elsewhere = os.open(b / "d/f", os.O_RDWR)
    for fd in (fds[0], other):
        os.write(fd, b"data")
    os.fsync(other)
    new_incarnation(origin)
    eventually(lambda: os.stat(a / "d/f").st_size == 4, "the origin is back")
    expect_errno(errno.EIO, os.fsync, fds[0])
    os.fsync(fds[0])
    os.write(fds[0], b"more")
    os.fsync(fds[0])
    os.close(fds[0])
    expect_errno(errno.EIO, os.close, fds[1])
    expect_errno(errno.EIO, os.fsync, fds[2])
    os.close(fds[2])
    # What was synced is not lost, nor what another host has not written.
    os.fsync(other)
    os.close(other)
    os.fsync(elsewhere)
    os.close(elsewhere)
    # The name was not synced either; whoever asks first is told.
    top = os.open(a / "d", os.O_RDONLY)
    expect_errno(errno.EIO, os.fsync, top)
    os.close(top)
    top = os.open(a / "d", os.O_RDONLY)
    os.fsync(top)
    os.close(top)
    fd = os.open(a / "d/f", os.O_RDWR)
    os.write(fd, b"x")
    os.fsync(fd)
    os.close(fd)


leasehold.main(globals())
