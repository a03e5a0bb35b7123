#!/usr/bin/env python3
"""
Mounts of trees of small files (--small): the kernel tells no opens and keeps names; what is changed on
another host is seen at once all the same.
"""

import errno
import fcntl
import mmap
import os
import signal
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (Reader, Skip, eventually, expect, expect_errno, pattern, peek, read_file,
                       write_file)

REFUSALS = ("EIO", "ETIMEDOUT", "ENOTCONN", "ECONNABORTED", "SIGBUS", "ESTALE")


def hosts(w, *options):
    """One that writes, and a small one."""
    if leasehold.LOCAL:
        raise Skip("a plain directory has no --small")
    w.origin(*options)
    a, b = w.host("a"), w.host("b", "--small")
    if b"names do not stay" in b.log() or b"tells every open" in b.log():
        raise Skip("this kernel tells every open, or cannot keep names")
    return a, b


def requests(host):
    return host.status()["counters"]["requests"]


def test_what_was_read_costs_no_request(w):
    a, b = hosts(w)
    os.mkdir(a / "d")
    for i in range(50):
        write_file(a / "d/%d" % i, b"%d" % i)

    def look():
        for i in range(50):
            expect(read_file(b / "d/%d" % i), b"%d" % i)
            os.stat(b / "d/%d" % i)
            expect(os.path.exists(b / "d/none-%d" % i), False)
    # What ends in between, the term or a name's first lease, is asked for again.
    def costs():
        look()
        before = requests(b)
        look()
        return requests(b) - before
    eventually(lambda: costs() <= 10, "nothing is asked for")


def test_bytes_and_sizes_follow(w):
    a, b = hosts(w)
    data = bytearray(pattern(16 * 4096))
    write_file(a / "f", bytes(data))
    with open(b / "f", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        writer = os.open(a / "f", os.O_WRONLY)
        for i in range(50):
            expect(peek(m), bytes(data), "before round %d" % i)
            expect(os.pread(f.fileno(), len(data), 0), bytes(data))
            at = (i * 104729) % (len(data) - 16)
            data[at:at + 16] = b"%016d" % i
            os.pwrite(writer, b"%016d" % i, at)
            expect(peek(m, at, at + 16), b"%016d" % i, "the mapping")
            expect(os.pread(f.fileno(), 16, at), b"%016d" % i, "the descriptor")
            expect(read_file(b / "f"), bytes(data), "opened again")
        os.close(writer)
        for size in (40000, 4096, 4095, 0, 10, 70000, 3):
            os.truncate(a / "f", size)
            expect(os.stat(b / "f").st_size, size, "stat")
            expect(os.fstat(f.fileno()).st_size, size, "fstat")
            expect(len(read_file(b / "f")), size, "read")
    os.chmod(a / "f", 0o600)
    expect(os.stat(b / "f").st_mode & 0o777, 0o600)
    os.setxattr(a / "f", "user.x", b"1")
    expect(os.getxattr(b / "f", "user.x"), b"1")


def test_names_follow(w):
    a, b = hosts(w)
    os.mkdir(a / "d")
    for i in range(30):
        expect(os.path.exists(b / "d/new"), False, "absent, round %d" % i)
        write_file(a / "d/new", b"%d" % i)
        expect(read_file(b / "d/new"), b"%d" % i, "made")
        expect(os.listdir(b / "d"), ["new"])
        write_file(a / "d/other", b"other %d" % i)
        os.rename(a / "d/other", a / "d/new")
        expect(read_file(b / "d/new"), b"other %d" % i, "replaced")
        expect(os.path.exists(b / "d/other"), False, "renamed")
        os.rename(a / "d", a / "e")
        expect_errno(errno.ENOENT, os.stat, b / "d/new")
        expect(read_file(b / "e/new"), b"other %d" % i, "moved with its directory")
        os.rename(a / "e", a / "d")
        os.unlink(a / "d/new")
        expect_errno(errno.ENOENT, os.open, b / "d/new", os.O_RDONLY)


def test_what_it_gives_up_is_refused(w):
    a, b = hosts(w)
    write_file(a / "f", b"x")
    expect_errno(errno.EROFS, os.open, b / "f", os.O_RDWR)
    expect_errno(errno.EROFS, os.open, b / "new", os.O_CREAT | os.O_WRONLY)
    expect_errno(errno.EROFS, os.mkdir, b / "d")
    expect_errno(errno.EROFS, os.unlink, b / "f")
    expect_errno(errno.EROFS, os.chmod, b / "f", 0o600)
    fd = os.open(b / "f", os.O_RDONLY)
    expect_errno(errno.ENOLCK, fcntl.flock, fd, fcntl.LOCK_SH)
    expect_errno(errno.ENOLCK, fcntl.lockf, fd, fcntl.LOCK_SH)
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.fsync(fd)
    expect(os.lseek(fd, 0, os.SEEK_DATA), 0)
    expect(os.getxattr(b / "f", "user.leasehold.mode"), b"pages: not sealed")
    direct = os.open(b / "f", os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as page:
        expect(os.preadv(direct, [page], 0), 1)
        expect(page[:1], b"x")
    os.close(direct)
    write_file(a / "new", b"y")
    os.rename(a / "new", a / "f")
    expect(read_file(b / "f"), b"y")
    # It is gone where it is not cached: nobody knew that it is open.
    try:
        expect(os.pread(fd, 1, 0) in (b"x", b""), True)
    except OSError as e:
        expect(e.errno, errno.ESTALE)
    os.close(fd)


def after_the_daemon_is(w, number):
    w.allow_log("")
    a, b = hosts(w, "--lease-term", "2s")
    write_file(a / "f", b"%08d" % 1)
    questions = ("read", "map", "newmap", "open")
    readers = {q: Reader(w, b / "f") for q in questions}
    for question, reader in readers.items():
        expect(reader.look(question), "%08d" % 1, question + " before")
    b.signal(number)
    write_file(a / "f", b"%08d" % 2, "r+b")
    for reader_question, reader in readers.items():
        reader.ask(reader_question)
    for question, reader in readers.items():
        answer = reader.answer()
        if answer != "%08d" % 2 and answer not in REFUSALS:
            raise leasehold.Failure("%s: %s" % (question, answer))
    return b


def test_a_killed_daemon_serves_nothing_old(w):
    b = after_the_daemon_is(w, signal.SIGKILL)
    b.wait()
    b.detach()
    b.start()
    expect(read_file(b / "f"), b"%08d" % 2, "after the restart")


def test_a_stopped_daemon_serves_nothing_old(w):
    b = after_the_daemon_is(w, signal.SIGSTOP)
    b.signal(signal.SIGCONT)

    def mended():
        if not b.running():
            b.detach()
            b.start()
        try:
            return read_file(b / "f") == b"%08d" % 2
        except OSError:
            return False
    eventually(mended, "b reads again")


if __name__ == "__main__":
    leasehold.main(globals())
