#!/usr/bin/env python3
"""
What the kernel takes in late: an answer was given to it, whoever asked is not scheduled, and the
answer is called back meanwhile. The one who asks runs only when nobody else wants the processor: on
a machine with more to do that is rarely, and there are fewer rounds.
"""

import multiprocessing
import os
import signal
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import expect, write_file

ROUNDS = 40
SECONDS = 10  # no round begins later


def hog():
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        pass


def asker(link, make, look):
    """make(i), then look(i) once the other host has written; runs when nobody else does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for i in range(ROUNDS):
        link.recv()
        make(i)
        link.send("made")
        link.recv()
        link.send(look(i))


def play(make, look, append):
    """
    The other host appends as soon as it sees what is made; what the first host saw then, round by
    round.
    """
    ours, theirs = multiprocessing.Pipe()
    processes = [multiprocessing.Process(target=asker, args=(theirs, make, look))]
    processes += [multiprocessing.Process(target=hog) for _ in range(os.cpu_count())]
    seen = []
    for process in processes:
        process.start()
    end = time.monotonic() + SECONDS
    try:
        for i in range(ROUNDS):
            if seen and time.monotonic() > end:
                break
            ours.send("go")
            while not append(i):
                pass
            expect(ours.recv(), "made")
            ours.send("written")
            seen.append(ours.recv())
    finally:
        for process in processes:
            process.kill()
            process.join()
    print("# %d rounds" % len(seen))
    return seen


def appender(path):
    def append(i):
        try:
            fd = os.open(path(i), os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return False
        os.write(fd, b"0123456789")
        os.close(fd)
        return True
    return append


def test_a_file_is_written_elsewhere_before_its_maker_knows_it(w):
    a, b = w.hosts("a", "b")
    fds = {}

    def make(i):
        fds[i] = os.open(a / ("f%d" % i), os.O_CREAT | os.O_EXCL | os.O_RDWR)

    def look(i):
        size = os.fstat(fds[i]).st_size
        os.close(fds.pop(i))
        return size
    sizes = play(make, look, appender(lambda i: b / ("f%d" % i)))
    expect(sizes, [10] * len(sizes), "sizes seen by the maker")


def test_a_file_is_written_elsewhere_while_it_is_linked(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"")
    fd = os.open(a / "f", os.O_RDONLY)
    sizes = play(lambda i: os.link(a / "f", a / ("l%d" % i)), lambda i: os.fstat(fd).st_size,
                 appender(lambda i: b / ("l%d" % i)))
    os.close(fd)
    expect(sizes, [10 * (i + 1) for i in range(len(sizes))], "sizes seen by who links")


def test_a_file_is_written_elsewhere_while_its_mode_changes(w):
    a, b = w.hosts("a", "b")
    for i in range(ROUNDS):
        write_file(b / ("f%d" % i), b"")
    fds = [os.open(a / ("f%d" % i), os.O_RDONLY) for i in range(ROUNDS)]

    def append(i):
        if os.stat(b / ("f%d" % i)).st_mode & 0o777 != 0o640:
            return False
        write_file(b / ("f%d" % i), b"0123456789", "ab")
        return True
    sizes = play(lambda i: os.fchmod(fds[i], 0o640), lambda i: os.fstat(fds[i]).st_size, append)
    for fd in fds:
        os.close(fd)
    expect(sizes, [10] * len(sizes), "sizes seen by who changes the mode")


leasehold.main(globals())
