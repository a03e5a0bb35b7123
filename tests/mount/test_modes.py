#!/usr/bin/env python3
"""
In which mode files are read, and what the user is told of it. Coherence in each mode is what all the
other tests are about: LEASEHOLD_TEST_MOUNT=OPTIONS runs them with further mount options.
"""

import errno
import mmap
import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, Skip, eventually, expect, expect_errno, pattern, read_file, run,
                       write_file)

SIZE = 1 << 20


def mode(path):
    return os.getxattr(path, "user.leasehold.mode").decode()


def test_the_mode_is_told(w):
    a = w.host("a")
    path = a / "file"
    write_file(path, pattern(100000))
    with open(path, "rb") as reader:
        expect(reader.read(), pattern(100000))
        # The kernel does not wait for the release of who wrote.
        eventually(lambda: mode(path) == "pages: not sealed", "who wrote is forgotten")
        with open(path, "r+b") as writer:
            writer.write(b"x")
            expect(mode(path), "direct: open for writing")
        eventually(lambda: mode(path) == "pages: not sealed", "the writer is forgotten")
    expect_errno(errno.ENODATA, mode, a.path)
    expect("user.leasehold.mode" in os.listxattr(path), False)


def test_passthrough_can_be_off(w):
    a = w.host("a", "--passthrough", "off")
    write_file(a / "file", pattern(100000))
    expect(read_file(a / "file"), pattern(100000))
    eventually(lambda: mode(a / "file") == "pages: not sealed", "who wrote is forgotten")
    expect(a.status()["passthrough"], False)
    expect(b"no passthrough: passthrough is off" in a.log(), True)


def prepare(w, *names, options=()):
    """Hosts, and a sealed file that `b` or the last of them has in its cache."""
    w.seals = True
    w.origin(*options)
    hosts = w.hosts(*names)
    if leasehold.LOCAL or not hosts[-1].status()["passthrough"]:
        raise Skip("no passthrough here")
    write_file(hosts[0] / "file", pattern(SIZE, 1))
    run(BINARY, "seal", hosts[0] / "file")
    expect(read_file(hosts[-1] / "file"), pattern(SIZE, 1))
    return hosts


def is_passed(host, path="file"):
    """A descriptor that the kernel serves from the cache. What was released may be told late."""
    def opened():
        fd = os.open(host / path, os.O_RDONLY)
        if mode(host / path).startswith("passthrough: "):
            return fd
        os.close(fd)
        return None
    return eventually(opened, "it is opened in passthrough")


def test_a_sealed_file_is_read_by_the_kernel(w):
    a, b = prepare(w, "a", "b")
    fd = is_passed(b)
    before = b.status()["counters"]["requests"]
    for offset in range(0, SIZE, 4096):
        expect(os.pread(fd, 4096, offset), pattern(SIZE, 1)[offset:offset + 4096])
    expect(b.status()["counters"]["requests"] - before < SIZE // 4096, True, "asked for each read")
    with mmap.mmap(fd, SIZE, prot=mmap.PROT_READ) as mapping:
        expect(mapping[:], pattern(SIZE, 1))
    other = os.open(b / "file", os.O_RDONLY)
    expect(os.pread(other, SIZE, 0), pattern(SIZE, 1))
    for host in (a, b):
        expect_errno(errno.EPERM, os.open, host / "file", os.O_RDWR)
    os.close(fd)
    os.close(other)


def test_final_bytes_outlive_seal_and_attributes(w):
    a, b = prepare(w, "a", "b")
    fd = is_passed(b)
    run(BINARY, "unseal", a / "file")
    os.chmod(a / "file", 0o600)
    expect(os.stat(b / "file").st_mode & 0o777, 0o600)
    expect_errno(errno.EPERM, os.open, b / "file", os.O_RDWR)
    more = os.open(b / "file", os.O_RDONLY)
    expect(os.pread(more, SIZE, 0), pattern(SIZE, 1), "opened again")
    write_file(a / "new", pattern(SIZE, 2))
    os.rename(a / "new", a / "file")
    expect(read_file(b / "file"), pattern(SIZE, 2), "what took its place")
    for descriptor in (fd, more):
        expect(os.pread(descriptor, SIZE, 0), pattern(SIZE, 1), "the old file")
        os.close(descriptor)
    write_file(b / "file", pattern(SIZE, 3))
    expect(read_file(a / "file"), pattern(SIZE, 3))


def test_open_bytes_outlive_the_session_and_the_origin(w):
    w.allow_log("")
    a, b = prepare(w, "a", "b", options=("--lease-term", "2s"))
    fd = is_passed(b)
    mapping = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)
    w.main_origin.kill()
    b.wait_until_disconnected()
    expect(os.pread(fd, SIZE, 0), pattern(SIZE, 1), "read without an origin")
    expect(mapping[:], pattern(SIZE, 1), "mapped without an origin")
    w.main_origin.start()
    eventually(lambda: b.status()["state"] == "connected", "b is back")
    run(BINARY, "unseal", a / "file")
    write_file(a / "new", pattern(SIZE, 2))
    os.rename(a / "new", a / "file")
    expect(read_file(b / "file"), pattern(SIZE, 2))
    expect(os.pread(fd, SIZE, 0), pattern(SIZE, 1))
    expect(mapping[:], pattern(SIZE, 1))
    mapping.close()
    os.close(fd)


def test_what_is_open_otherwise_stays_so(w):
    a, = prepare(w, "a")
    write_file(a / "other", pattern(SIZE, 1))
    reader = os.open(a / "other", os.O_RDONLY)
    expect(os.pread(reader, SIZE, 0), pattern(SIZE, 1))
    writer = os.open(a / "other", os.O_RDWR)
    run(BINARY, "seal", a / "other")
    expect(read_file(a / "other"), pattern(SIZE, 1))
    expect_errno(errno.EPERM, os.pwrite, writer, b"x", 0)
    os.close(writer)
    expect(read_file(a / "other"), pattern(SIZE, 1))
    expect(os.pread(reader, SIZE, 0), pattern(SIZE, 1))
    os.close(reader)
    fd = is_passed(a, "other")
    expect(os.pread(fd, SIZE, 0), pattern(SIZE, 1))
    os.close(fd)


def test_holes_are_zeros_in_a_mapping(w):
    a, = prepare(w, "a")
    with open(w.main_origin.path_of("sparse"), "wb") as f:
        f.write(b"a" * 5000)
        f.seek(3000000)
        f.write(b"b" * 10)
        f.truncate(5000000)
    data = read_file(w.main_origin.path_of("sparse"))
    run(BINARY, "seal", a / "sparse")
    expect(read_file(a / "sparse"), data)
    fd = is_passed(a, "sparse")
    with mmap.mmap(fd, len(data), prot=mmap.PROT_READ) as mapping:
        expect(mapping[:], data)
    expect(os.pread(fd, len(data) + 1, 0), data)
    os.close(fd)


OPEN_ALL = """
import sys
for i in range(200):
    for name in ("same", "f%d" % (i % 8)):
        with open(sys.argv[1] + "/" + name, "rb", buffering=0) as f:
            data = f.readall()
        if len(data) != 300000 or data.count(data[:1]) != 300000:
            sys.exit("%s: other bytes" % name)
"""


def test_no_open_fails_for_the_mode_of_another(w):
    a, = prepare(w, "a")
    for i, name in enumerate(["same"] + ["f%d" % i for i in range(8)]):
        write_file(w.main_origin.path_of(name), bytes([65 + i]) * 300000)
        run(BINARY, "seal", a / name)
    # Cold: they get into the cache while they are opened and closed.
    children = [subprocess.Popen([sys.executable, "-c", OPEN_ALL, a.path], stdin=subprocess.DEVNULL)
                for _ in range(3)]
    for child in children:
        expect(child.wait(), 0, "exit status of a reader")
    os.close(is_passed(a, "same"))


def test_unbuffered_readers_and_advice(w):
    a, = prepare(w, "a")
    fd = is_passed(a)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    expect(os.pread(fd, SIZE + 1, 0), pattern(SIZE, 1))
    try:
        direct = os.open(a / "file", os.O_RDONLY | os.O_DIRECT)
    except OSError as e:
        # As on the file system that the cache is on.
        expect(e.errno, errno.EINVAL)
    else:
        block = mmap.mmap(-1, SIZE)
        expect(os.preadv(direct, [block], 0), SIZE)
        expect(block[:], pattern(SIZE, 1))
        os.close(direct)
    os.close(fd)


def test_open_bytes_outlive_the_daemon(w):
    a, = prepare(w, "a")
    w.allow_log("guardian|daemon")
    fd = is_passed(a)
    mapping = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)
    a.kill()
    expect_errno((errno.ENOTCONN, errno.ECONNABORTED), os.open, a / "file", os.O_RDONLY)
    expect(os.pread(fd, SIZE, 0), pattern(SIZE, 1))
    expect(mapping[:], pattern(SIZE, 1))
    mapping.close()
    os.close(fd)


if __name__ == "__main__":
    leasehold.main(globals())
