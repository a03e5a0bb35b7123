#!/usr/bin/env python3
"""
Advisory locks of processes on two hosts: as if both were processes of one machine. With
LEASEHOLD_TEST_LOCAL they are, and what is expected here is what Linux does there.
"""

import errno
import fcntl
import os
import pickle
import select
import signal
import struct
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import LOCAL, Skip, eventually, expect, read_file

R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38
FLOCK = "hhqqi4x"
OK = 0


class Interrupted(Exception):
    pass


class Agent:
    """A process that locks: POSIX locks are of processes. One command at a time; wait() for it."""

    def __init__(self, w):
        down, self.to = os.pipe()
        self.back, up = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.to)
                os.close(self.back)
                self.serve(os.fdopen(down, "rb"), os.fdopen(up, "wb"))
            finally:
                os._exit(0)
        os.close(down)
        os.close(up)
        self.answers = os.fdopen(self.back, "rb")
        w.agents = getattr(w, "agents", []) + [self]

    # In the child.

    def serve(self, commands, answers):
        def interrupt(_number, _frame):
            raise Interrupted()
        signal.signal(signal.SIGUSR1, interrupt)
        while True:
            try:
                name, arguments = pickle.load(commands)
            except EOFError:
                return
            try:
                result = getattr(self, "do_" + name)(*arguments)
            except Interrupted:
                result = errno.EINTR
            except OSError as e:
                result = e.errno
            pickle.dump(result, answers)
            answers.flush()

    def do_open(self, path, flags):
        return -os.open(path, flags, 0o644)  # negative: not an errno

    def do_close(self, fd):
        os.close(fd)
        return OK

    def do_dup(self, fd):
        return -os.dup(fd)

    def do_lock(self, fd, kind, start, length, command):
        fcntl.fcntl(fd, command, struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0))
        return OK

    def do_test(self, fd, kind, start, length, command):
        answer = fcntl.fcntl(fd, command, struct.pack(FLOCK, kind, os.SEEK_SET, start, length, 0))
        return struct.unpack(FLOCK, answer)

    def do_flock(self, fd, operation):
        fcntl.flock(fd, operation)
        return OK

    def do_write(self, fd, data):
        os.pwrite(fd, data, 0)
        return OK

    def do_read(self, fd, size):
        return os.pread(fd, size, 0)

    def do_truncate(self, fd, size):
        os.ftruncate(fd, size)
        return OK

    def do_allocate(self, fd, size):
        os.posix_fallocate(fd, 0, size)
        return OK

    def do_copy(self, source, sink):
        return os.copy_file_range(source, sink, 4, 0, 10)

    def do_hog(self, fd, end):
        """Locks again as soon as it has unlocked, until there is such a file; how often it had it."""
        count = 0
        while not os.path.exists(end):
            try:
                self.do_lock(fd, W, 0, 0, fcntl.F_SETLK)
            except BlockingIOError:
                continue
            count += 1
            time.sleep(0.06)  # work
            self.do_lock(fd, U, 0, 0, fcntl.F_SETLK)
        return count

    def do_try(self, fd, tries):
        """How many of so many tries got the lock; ends after the tenth that did."""
        count = 0
        for _ in range(tries):
            try:
                self.do_lock(fd, W, 0, 0, fcntl.F_SETLK)
                self.do_lock(fd, U, 0, 0, fcntl.F_SETLK)
                count += 1
            except BlockingIOError:
                pass
            if count == 10:
                break
            time.sleep(0.025)  # as SQLite does
        return count

    def do_close_and_try(self, path, count):
        """How many tries were refused that came after the close of what had the lock."""
        other = os.open(path, os.O_RDWR | os.O_CREAT)
        refused = 0
        for i in range(count):
            fd = os.open(path, os.O_RDWR if i % 4 else os.O_RDONLY)

            def lock(fd, kind):
                if i % 2:
                    self.do_lock(fd, kind, 0, 0, OFD_SETLK)
                else:
                    fcntl.flock(fd, {R: fcntl.LOCK_SH, W: fcntl.LOCK_EX, U: fcntl.LOCK_UN}[kind] |
                                fcntl.LOCK_NB)
            lock(fd, W if i % 4 else R)
            os.close(fd)
            try:
                lock(other, W)
            except BlockingIOError:
                refused += 1
            lock(other, U)
        return refused

    def do_many(self, fd, count, step, kind):
        for i in range(count):
            self.do_lock(fd, kind, i * step, 1, fcntl.F_SETLK)
        return OK

    # In the test.

    def start(self, name, *arguments):
        os.write(self.to, pickle.dumps((name, arguments)))
        return self

    def wait(self):
        return pickle.load(self.answers)

    def call(self, name, *arguments):
        return self.start(name, *arguments).wait()

    def open(self, path, flags=os.O_RDWR | os.O_CREAT):
        fd = -self.call("open", str(path), flags)
        expect(fd > 2, True, "open of %s" % path)
        return fd

    def lock(self, fd, kind, start=0, length=0, command=fcntl.F_SETLK):
        return self.call("lock", fd, kind, start, length, command)

    def start_lock(self, fd, kind, start=0, length=0, command=fcntl.F_SETLKW):
        return self.start("lock", fd, kind, start, length, command)

    def test(self, fd, kind, start=0, length=0, command=fcntl.F_GETLK):
        return self.call("test", fd, kind, start, length, command)

    def flock(self, fd, operation):
        return self.call("flock", fd, operation)

    def sleeps(self):
        """It waits in the kernel; for a lock, if that was its last command."""
        with open("/proc/%d/stat" % self.pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] in "SD"

    def interrupt(self):
        os.kill(self.pid, signal.SIGUSR1)

    def kill(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.to)
            self.answers.close()
        self.pid = 0


def agents(function):
    """The agents of a test end with it, pass or fail: a mount with users does not unmount."""
    def test(w):
        try:
            function(w)
        finally:
            for agent in getattr(w, "agents", []):
                agent.kill()
    return test


def pair(w, name="f"):
    """A process on each of two hosts, and the descriptor that each has of one file."""
    w.host_a, w.host_b = w.hosts("a", "b")
    p, q = Agent(w), Agent(w)
    return p, p.open(w.host_a / name), q, q.open(w.host_b / name)


def waiting(w, host, count):
    """So many requests wait at the origin for a lock."""
    if LOCAL:
        time.sleep(0.2)  # nothing tells; what follows is right either way
        return
    eventually(lambda: host.status()["locks"]["waiting"] == count,
               "%d requests wait for locks" % count)


@agents
def test_ranges_exclude_each_other(w):
    p, f, q, g = pair(w)
    expect(p.lock(f, W, 10, 10), OK, "write lock")
    expect(q.lock(g, R, 0, 10), OK, "beside it")
    expect(q.lock(g, R, 19, 1), errno.EAGAIN, "its last byte")
    expect(q.lock(g, W, 20, 0), OK, "behind it")
    expect(p.lock(f, R, 0, 10), OK, "readers share")
    expect(p.lock(f, W, 0, 1), errno.EAGAIN, "and keep writers out")
    expect(p.lock(f, U, 12, 2), OK, "a hole")
    expect(q.lock(g, W, 12, 2), OK, "in the hole")
    expect(q.lock(g, W, 11, 2), errno.EAGAIN, "before the hole")


@agents
def test_upgrades_and_downgrades(w):
    p, f, q, g = pair(w)
    expect(p.lock(f, R), OK)
    expect(q.lock(g, R), OK)
    expect(p.lock(f, W), errno.EAGAIN, "not while another reads")
    expect(q.lock(g, W), errno.EAGAIN, "and it has kept its own")
    expect(q.lock(g, U), OK)
    expect(p.lock(f, W), OK, "alone")
    expect(q.lock(g, R), errno.EAGAIN)
    expect(p.lock(f, R, 0, 100), OK, "downgrade of a part")
    expect(q.lock(g, R, 0, 100), OK)
    expect(q.lock(g, R, 100, 1), errno.EAGAIN)


@agents
def test_a_test_names_who_has_it(w):
    p, f, q, g = pair(w)
    other = Agent(w)
    h = other.open(w.host_a / "f")
    expect(p.lock(f, W, 10, 10), OK)
    kind, _whence, start, length, pid = other.test(h, R)
    expect((kind, start, length, pid), (W, 10, 10, p.pid), "on the same host")
    kind, _whence, start, length, pid = q.test(g, R, 15, 100)
    expect((kind, start, length), (W, 10, 10), "on the other")
    expect(pid, p.pid if LOCAL else 0, "a process of another host has no number here")
    expect(q.test(g, R, 20, 5)[0], U, "nothing is in the way")
    expect(p.test(f, W)[0], U, "its own is not in its way")


@agents
def test_a_waiter_gets_what_becomes_free(w):
    p, f, q, g = pair(w)
    for _ in range(5):
        expect(p.lock(f, W), OK)
        q.start_lock(g, W)
        waiting(w, w.host_b, 1)
        expect(p.lock(f, U), OK)
        expect(q.wait(), OK, "the waiter has it")
        expect(p.lock(f, R), errno.EAGAIN)
        expect(q.lock(g, U), OK)
        p, f, q, g = q, g, p, f
        w.host_a, w.host_b = w.host_b, w.host_a


@agents
def test_waiters_are_served_one_after_another(w):
    p, f, q, g = pair(w)
    others = [Agent(w) for _ in range(4)]
    fds = [x.open((w.host_a, w.host_b)[i % 2] / "f") for i, x in enumerate(others)]
    expect(p.lock(f, W), OK)
    for x, fd in zip(others, fds):
        x.start_lock(fd, W)
    p.call("close", f)
    left = list(zip(others, fds))
    while left:
        ready, _, _ = select.select([x.answers for x, _ in left], [], [], 150)
        expect(len(ready), 1, "one at a time")
        x, fd = next((x, fd) for x, fd in left if x.answers is ready[0])
        left.remove((x, fd))
        expect(x.wait(), OK)
        expect(q.lock(g, R), errno.EAGAIN, "while one has it")
        expect(x.lock(fd, U), OK)
    expect(q.lock(g, W), OK)


@agents
def test_a_signal_ends_a_wait(w):
    p, f, q, g = pair(w)
    expect(p.lock(f, W, 0, 10), OK)
    q.start_lock(g, W, 0, 20)
    waiting(w, w.host_b, 1)
    q.interrupt()
    expect(q.wait(), errno.EINTR, "interrupted")
    expect(p.lock(f, U), OK)
    expect(p.lock(f, W), OK, "nobody has it, and nobody waits")
    expect(p.lock(f, U), OK)
    expect(q.lock(g, W), OK, "it can ask again")


@agents
def test_a_killed_process_lets_go(w):
    p, f, q, g = pair(w)
    r = Agent(w)
    h = r.open(w.host_a / "f")
    expect(p.lock(f, W), OK)
    r.start_lock(h, W)  # waits, and dies
    q.start_lock(g, W)
    waiting(w, w.host_b, 1)
    r.kill()
    p.kill()
    expect(q.wait(), OK, "the next has it")


@agents
def test_closing_any_descriptor_drops_the_locks_of_the_process(w):
    p, f, q, g = pair(w)
    second = p.open(w.host_a / "f")
    expect(p.lock(f, W), OK)
    expect(q.lock(g, W), errno.EAGAIN)
    expect(p.call("close", second), OK)
    expect(q.lock(g, W), OK, "after the close of another descriptor")


@agents
def test_a_lock_through_a_reader_goes_with_it(w):
    p, f, q, g = pair(w)
    expect(p.call("close", f), OK)
    f = p.open(w.host_a / "f", os.O_RDONLY)
    expect(p.lock(f, R), OK)
    expect(q.lock(g, W), errno.EAGAIN)
    expect(p.call("close", f), OK)
    # The descriptor was open before anything was locked there: the kernel tells of its end only.
    eventually(lambda: q.lock(g, W) == OK, "it is free")


@agents
def test_what_was_closed_is_free_on_this_host(w):
    p = Agent(w)
    # The kernel tells of the end of a descriptor behind the back of who closed it.
    expect(p.call("close_and_try", w.host("a") / "f", 1000), 0, "tries that were refused")


@agents
def test_a_descriptor_that_others_have_too_keeps_its_lock(w):
    p, f, _q, _g = pair(w)
    other = Agent(w)
    h = other.open(w.host_a / "f")
    copy = -p.call("dup", f)
    expect(p.flock(f, fcntl.LOCK_EX), OK)
    expect(p.lock(f, W, 0, 10, OFD_SETLK), OK)
    expect(p.call("close", copy), OK)
    for _ in range(2):
        expect(other.flock(h, fcntl.LOCK_EX | fcntl.LOCK_NB), errno.EAGAIN)
        expect(other.lock(h, W, 5, 1), errno.EAGAIN)
        expect(other.test(h, W)[0], W, "what is in the way")
    expect(p.call("close", f), OK)
    expect(other.flock(h, fcntl.LOCK_EX | fcntl.LOCK_NB), OK)
    expect(other.lock(h, W, 5, 1), OK)


@agents
def test_who_tries_again_and_again_gets_a_turn(w):
    if LOCAL:
        raise Skip("on one machine it is a matter of luck")
    p, f, q, g = pair(w)
    end = os.path.join(w.path, "end")
    p.start("hog", f, end)
    eventually(lambda: q.lock(g, W) == errno.EAGAIN or q.lock(g, U) != OK, "the other has it")
    # A try falls into the gap between two of the other's locks once in hundreds of times.
    expect(q.call("try", g, 300), 10, "times that it got the lock")
    leasehold.write_file(end, b"")
    expect(p.wait() >= 3, True, "so does the other")


@agents
def test_locks_of_open_descriptions(w):
    p, f, q, g = pair(w)
    expect(p.lock(f, W, 0, 10, OFD_SETLK), OK)
    expect(q.lock(g, W, 5, 10, OFD_SETLK), errno.EAGAIN, "OFD against OFD")
    expect(q.lock(g, W, 5, 10), errno.EAGAIN, "POSIX against OFD")
    second = p.open(w.host_a / "f")
    expect(p.lock(second, W, 0, 10, OFD_SETLK), errno.EAGAIN, "another of the same process")
    expect(p.call("close", second), OK)
    expect(q.lock(g, W, 5, 10), errno.EAGAIN, "another's close does not matter")
    copy = -p.call("dup", f)
    expect(p.call("close", f), OK)
    expect(q.lock(g, W, 5, 10), errno.EAGAIN, "a duplicate keeps it")
    q.start_lock(g, W, 5, 10, OFD_SETLKW)
    waiting(w, w.host_b, 1)
    expect(p.call("close", copy), OK)
    expect(q.wait(), OK, "the last one is closed")


@agents
def test_flock(w):
    p, f, q, g = pair(w)
    expect(p.flock(f, fcntl.LOCK_SH), OK)
    expect(q.flock(g, fcntl.LOCK_SH), OK)
    expect(q.flock(g, fcntl.LOCK_EX | fcntl.LOCK_NB), errno.EAGAIN)
    expect(p.flock(f, fcntl.LOCK_EX), OK, "the failed conversion gave the other's up")
    expect(p.lock(f, R), OK, "fcntl does not see flock")
    expect(q.lock(g, W), errno.EAGAIN)
    q.start("flock", g, fcntl.LOCK_EX)
    waiting(w, w.host_b, 1)
    expect(p.flock(f, fcntl.LOCK_UN), OK)
    expect(q.wait(), OK)
    p.start("flock", f, fcntl.LOCK_SH)
    waiting(w, w.host_a, 1)
    q.kill()
    expect(p.wait(), OK, "the holder died")


@agents
def test_a_circle_is_a_deadlock(w):
    p, f, q, g = pair(w)
    expect(p.lock(f, W, 0, 10), OK)
    expect(q.lock(g, W, 10, 10), OK)
    p.start_lock(f, W, 10, 10)
    waiting(w, w.host_a, 1)
    expect(q.call("lock", g, W, 0, 10, fcntl.F_SETLKW), errno.EDEADLK, "a circle of two")
    expect(q.lock(g, U, 10, 10), OK)
    expect(p.wait(), OK, "the other goes on")


@agents
def test_many_ranges(w):
    p, f, q, g = pair(w)
    expect(p.call("many", f, 1000, 10, W), OK)
    for i in (0, 1, 500, 999):
        expect(q.lock(g, W, i * 10, 1), errno.EAGAIN, "range %d" % i)
        expect(q.lock(g, W, i * 10 + 1, 9), OK, "beside range %d" % i)
    expect(p.lock(f, U), OK)
    expect(q.lock(g, W), OK)


@agents
def test_locks_end_with_their_host(w):
    if LOCAL:
        raise Skip("there are no hosts")
    w.origin("--lease-term", "5s")
    p, f, q, g = pair(w)
    expect(p.lock(f, W), OK)
    w.allow_log("session|locks")
    q.start_lock(g, W)
    waiting(w, w.host_b, 1)
    w.host_a.kill()
    expect(q.wait(), OK, "after the term of the dead host")
    p.kill()
    w.host_a.detach()


@agents
def test_locks_outlive_the_origin(w):
    if LOCAL:
        raise Skip("there is no origin")
    origin = w.origin("--lease-term", "20s")
    p, f, q, g = pair(w)
    expect(p.lock(f, W, 0, 10), OK)
    expect(p.flock(f, fcntl.LOCK_EX), OK)
    expect(q.lock(g, R, 20, 10), OK)
    q.start_lock(g, W, 0, 10)
    waiting(w, w.host_b, 1)
    origin.kill()
    origin.start()
    other = Agent(w)
    h = other.open(w.host_b / "f")
    expect(other.flock(h, fcntl.LOCK_EX | fcntl.LOCK_NB), errno.EAGAIN, "flock is still held")
    expect(other.lock(h, W, 5, 1), errno.EAGAIN, "so are ranges")
    expect(p.lock(f, W, 20, 10), errno.EAGAIN, "of both hosts")
    expect(p.call("write", f, b"mine"), OK, "its descriptor is good")
    waiting(w, w.host_b, 1)
    expect(p.lock(f, U), OK)
    expect(q.wait(), OK, "who waited before waits on, and gets it")
    expect(w.host_a.status()["locks"]["lost"], 0, "locks lost")


@agents
def test_a_lost_lock_is_told(w):
    if LOCAL:
        raise Skip("there is no network")
    w.origin("--lease-term", "5s")
    w.allow_log("session|locks|origin")
    b = w.host("b")
    a = w.host("a", namespace=True)
    p, q = Agent(w), Agent(w)
    f, reader = p.open(a / "f"), p.open(a / "f", os.O_RDONLY)
    g, h = q.open(b / "f"), p.open(a / "h")
    expect(p.lock(f, W), OK)
    expect(p.call("write", f, b"before"), OK)
    expect(p.call("write", h, b"other"), OK)
    q.start_lock(g, W)
    waiting(w, b, 1)
    a.namespace.cut()
    expect(q.wait(), OK, "after the term of who cannot be heard")
    expect(q.call("write", g, b"theirs"), OK)
    p.start("write", f, b"stale!")
    a.namespace.mend()
    expect(p.wait(), errno.EIO, "what was written without the lock")
    expect(p.call("read", f, 6), errno.EIO, "read")
    expect(p.lock(f, W), errno.EIO, "until it is closed")
    expect(p.call("truncate", f, 0), errno.EIO, "truncation")
    expect(p.call("allocate", f, 100), errno.EIO, "allocation")
    expect(p.call("copy", h, f), errno.EIO, "a copy into it")
    expect(p.call("copy", f, h), errno.EIO, "a copy from it")
    expect(p.call("read", reader, 6), b"theirs", "another descriptor")
    expect(p.call("close", f), OK)
    f = p.open(a / "f")
    expect(p.call("read", f, 6), b"theirs")
    expect(p.lock(f, W), errno.EAGAIN)
    expect(q.lock(g, U), OK)
    expect(p.lock(f, W), OK)
    expect(a.status()["locks"]["lost"], 1, "locks lost")
    expect(read_file(b / "f"), b"theirs")


leasehold.main(globals())
