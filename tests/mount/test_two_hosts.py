#!/usr/bin/env python3
"""
Two hosts, one step after the other: what one was told is done, the other sees at once. Nothing
here waits: the first answer after the change must be the new one.
"""

import ctypes
import errno
import mmap
import os
import struct
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import expect, expect_errno, pattern, peek, read_file, run_together, write_file


def names(path):
    return sorted(os.listdir(path))


def test_bytes_written_on_one_are_read_on_the_other(w):
    a, b = w.hosts("a", "b")
    for round in range(30):
        data = pattern(1 + round * 5000, round)
        write_file(a / "f", data)
        for host in (b, a):
            expect(read_file(host / "f"), data, "round %d" % round)
            expect(os.stat(host / "f").st_size, len(data), "size")
        a, b = b, a


def test_changes_in_place_reach_an_open_descriptor(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", pattern(200000))
    reader = os.open(b / "f", os.O_RDONLY)
    writer = os.open(a / "f", os.O_RDWR)
    for round in range(100):
        at = (round * 7919) % 190000
        data = b"round %d" % round
        os.pread(reader, 20000, max(0, at - 10000))
        os.pwrite(writer, data, at)
        expect(os.pread(reader, len(data), at), data, "round %d" % round)
        expect(os.pread(writer, len(data), at), data, "the writer's own, round %d" % round)
    os.close(reader)
    os.close(writer)


def submit_write(fd, length, offset):
    """Of zeros, by io_submit(2); returns what io_getevents(2) says came of it."""
    setup, destroy, submit, getevents = {"x86_64": (206, 207, 209, 208),
                                         "aarch64": (0, 1, 2, 4)}[os.uname().machine]
    libc = ctypes.CDLL(None, use_errno=True)
    context, buffer = ctypes.c_ulong(), mmap.mmap(-1, length)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    block = ctypes.create_string_buffer(struct.pack("QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, address,
                                                    length, offset, 0, 0, 0))
    blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
    events = ctypes.create_string_buffer(32)
    expect(libc.syscall(setup, 1, ctypes.byref(context)), 0, "io_setup")
    expect(libc.syscall(submit, context, ctypes.c_long(1), blocks), 1, "io_submit")
    expect(libc.syscall(getevents, context, ctypes.c_long(1), ctypes.c_long(1), events, None), 1,
           "io_getevents")
    expect(libc.syscall(destroy, context), 0, "io_destroy")
    return struct.unpack("QQqq", events.raw)[2]


def test_an_asynchronous_write_that_fails_cuts_nothing_off(w):
    a, b = w.hosts("a", "b")
    too_large = 1 << 60
    try:
        write_file(w.main_origin.path_of("g"), b"")
        with open(w.main_origin.path_of("g"), "r+b") as f:
            os.pwrite(f.fileno(), b"x", too_large)
        raise leasehold.Skip("the origin's file system has files of %d bytes" % too_large)
    except OSError as e:
        expect(e.errno, errno.EFBIG)
    write_file(a / "f", pattern(4096))
    fd = os.open(a / "f", os.O_RDWR | os.O_DIRECT)
    expect(os.fstat(fd).st_size, 4096)
    expect(submit_write(fd, 4096, 4096), 4096)
    write_file(b / "f", pattern(4096), "ab")
    expect(submit_write(fd, 4096, too_large), -errno.EFBIG)
    for host in (a, b):
        expect(os.stat(host / "f").st_size, 3 * 4096, "the size there")
    expect(read_file(a / "f")[8192:], pattern(4096), "what was appended")
    # A truncation that is asked for is done, after such a write, too.
    expect(submit_write(fd, 4096, too_large), -errno.EFBIG)
    os.ftruncate(fd, 8192)
    expect_errno(errno.EFBIG, os.pwrite, fd, mmap.mmap(-1, 4096), too_large)
    os.ftruncate(fd, 4096)
    expect(os.stat(b / "f").st_size, 4096)
    os.close(fd)


def test_changes_reach_a_mapping(w):
    a, b = w.hosts("a", "b")
    data = bytearray(pattern(64 * 4096))
    write_file(a / "f", bytes(data))
    with open(b / "f", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        writer = os.open(a / "f", os.O_WRONLY)
        for round in range(100):
            expect(peek(m), bytes(data), "before round %d" % round)
            at = (round * 104729) % (len(data) - 16)
            new = b"%016d" % round
            os.pwrite(writer, new, at)
            data[at:at + 16] = new
            expect(peek(m, at, at + 16), new, "round %d" % round)
        os.close(writer)


def test_a_mapping_ends_where_the_file_does(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", pattern(8 * 4096))
    with open(b / "f", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        expect(peek(m), pattern(8 * 4096))
        os.truncate(a / "f", 4096 + 10)
        expect(peek(m, 4096, 8192), pattern(8 * 4096)[4096:4106] + bytes(4086), "then zeros")
        os.truncate(a / "f", 8 * 4096)
        # The kernel does not ask for the size at a fault: whoever maps past the end looks first
        # (README, differences from ext4).
        expect(os.stat(b / "f").st_size, 8 * 4096, "size")
        expect(peek(m, 2 * 4096), bytes(6 * 4096), "grown again: zeros")


def test_truncation_is_seen(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", pattern(50000))
    reader = os.open(b / "f", os.O_RDONLY)
    for size in (40000, 4096, 4095, 1, 0, 10, 70000, 3):
        os.pread(reader, 100000, 0)
        os.fstat(reader)
        os.truncate(a / "f", size)
        expect(os.fstat(reader).st_size, size, "fstat")
        expect(len(os.pread(reader, 100000, 0)), size, "bytes read")
        expect(os.stat(b / "f").st_size, size, "stat")
        expect(os.lseek(reader, 0, os.SEEK_END), size, "end")
    write_file(b / "f", b"x" * 10)
    os.truncate(a / "f", 0)
    os.truncate(a / "f", 10)
    expect(read_file(b / "f"), bytes(10), "no byte from before the truncation")
    os.close(reader)


def test_appends_take_turns(w):
    a, b = w.hosts("a", "b")
    expected = b""
    fds = [os.open(h / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND) for h in (a, b)]
    for i in range(200):
        line = b"line %d of host %d\n" % (i, i % 2)
        os.write(fds[i % 2], line)
        expected += line
        expect(os.fstat(fds[1 - i % 2]).st_size, len(expected), "size at %d" % i)
    expect(read_file(a / "log"), expected)
    expect(read_file(b / "log"), expected)
    for fd in fds:
        os.close(fd)


def test_appends_at_the_same_time_lose_nothing(w):
    hosts = w.hosts("a", "b", "c")
    count = 100

    def append(host, n):
        fd = os.open(host / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for i in range(count):
            os.write(fd, b"%d %d\n" % (n, i))
        os.close(fd)
    run_together([lambda h=h, n=n: append(h, n) for n, h in enumerate(hosts)])
    for host in hosts:
        lines = read_file(host / "log").split(b"\n")[:-1]
        expect(len(lines), count * len(hosts), "lines seen by " + host.name)
        for n in range(len(hosts)):
            mine = [line for line in lines if line.startswith(b"%d " % n)]
            expect(mine, [b"%d %d" % (n, i) for i in range(count)], "in order")


def test_rename_over_an_open_file(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"old")
    reader = os.open(b / "f", os.O_RDONLY)
    expect(os.pread(reader, 10, 0), b"old")
    for round in range(20):
        data = b"new %d" % round
        write_file(a / "f.tmp", data)
        os.rename(a / "f.tmp", a / "f")
        expect(read_file(b / "f"), data, "by name")
        expect(os.pread(reader, 10, 0), b"old", "through the old descriptor")
        expect(names(b.path), ["f"])
    expect(os.fstat(reader).st_nlink, 0, "links of what was replaced")
    os.close(reader)


def test_unlink_while_open_elsewhere(w):
    a, b = w.hosts("a", "b")
    data = pattern(300000)
    write_file(a / "f", data)
    reader = os.open(b / "f", os.O_RDWR)
    os.pread(reader, 4096, 0)
    os.unlink(a / "f")
    expect_errno(errno.ENOENT, os.stat, b / "f")
    expect_errno(errno.ENOENT, os.open, b / "f", os.O_RDONLY)
    expect(names(b.path), [])
    got = b"".join(os.pread(reader, 65536, at) for at in range(0, 300000, 65536))
    expect(got, data, "all of it, also what was never read before")
    os.pwrite(reader, b"still", 10)
    expect(os.pread(reader, 5, 10), b"still")
    write_file(a / "f", b"another")
    expect(read_file(b / "f"), b"another", "the name's new file")
    expect(os.pread(reader, 5, 10), b"still", "the descriptor's old file")
    os.close(reader)


def test_one_of_many_creates_exclusively(w):
    hosts = w.hosts("a", "b", "c")
    for round in range(40):
        winners = []

        def create(host):
            try:
                fd = os.open(host / ("f%d" % round), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return
            os.write(fd, host.name.encode())
            os.close(fd)
            winners.append(host.name)
        run_together([lambda h=h: create(h) for h in hosts])
        expect(len(winners), 1, "winners of round %d" % round)
        for host in hosts:
            expect(read_file(host / ("f%d" % round)), winners[0].encode(), host.name)


def test_absent_names_appear_and_vanish(w):
    a, b = w.hosts("a", "b")
    for round in range(50):
        expect_errno(errno.ENOENT, os.stat, b / "f")
        expect_errno(errno.ENOENT, os.stat, b / "f")
        write_file(a / "f", b"%d" % round)
        expect(os.stat(b / "f").st_size, len("%d" % round))
        expect(read_file(b / "f"), b"%d" % round)
        os.unlink(a / "f")
        expect_errno(errno.ENOENT, os.stat, b / "f")
        a, b = b, a


def test_every_way_a_name_comes_to_be(w):
    a, b = w.hosts("a", "b")
    write_file(a / "source", b"s")
    ways = {
        "mkdir": lambda p: os.mkdir(p),
        "symlink": lambda p: os.symlink("source", p),
        "link": lambda p: os.link(a / "source", p),
        "mknod": lambda p: os.mkfifo(p),
        "create": lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY)),
        "rename": lambda p: os.rename(a / "source", p),
    }
    for name, make in ways.items():
        expect_errno(errno.ENOENT, os.lstat, b / name)
        before = names(b.path)
        make(a / name)
        os.lstat(b / name)
        expect(name in names(b.path), True, name + " is listed")
        expect(name in before, False)
    expect_errno(errno.ENOENT, os.stat, b / "source")


def test_listings_follow(w):
    a, b = w.hosts("a", "b")
    os.mkdir(a / "d")
    expected = set()
    for i in range(120):
        name = "n%d" % (i * 37 % 60)
        if name in expected:
            os.unlink(a / ("d/" + name))
            expected.remove(name)
        else:
            write_file(a / ("d/" + name), b"")
            expected.add(name)
        expect(set(os.listdir(b / "d")), expected, "step %d" % i)
        expect(os.stat(b / "d").st_mtime_ns, os.stat(a / "d").st_mtime_ns, "mtime")


def test_a_directory_changes_while_it_is_listed(w):
    a, b = w.hosts("a", "b")
    os.mkdir(a / "d")
    stay = ["stay%04d" % i for i in range(2000)]
    for name in stay:
        os.close(os.open(w.main_origin.path_of("d", name), os.O_CREAT | os.O_WRONLY))
    stop = threading.Event()

    def churn():
        n = 0
        while not stop.is_set():
            path = a / ("d/come%d" % (n % 50))
            write_file(path, b"")
            os.rename(path, path + ".moved")
            os.unlink(path + ".moved")
            n += 1

    def list_often():
        try:
            for _ in range(15):
                seen = os.listdir(b / "d")
                expect(len(seen), len(set(seen)), "no name twice")
                expect(sorted(n for n in seen if n.startswith("stay")), stay, "no name lost")
        finally:
            stop.set()
    run_together([churn, list_often])
    expect(names(b / "d"), stay)


def test_directories_move_under_the_other_host(w):
    a, b = w.hosts("a", "b")
    os.makedirs(a / "one/two/three")
    write_file(a / "one/two/three/f", b"deep")
    expect(read_file(b / "one/two/three/f"), b"deep")
    here = os.open(b / "one/two/three", os.O_RDONLY | os.O_DIRECTORY)
    os.rename(a / "one/two", a / "moved")
    expect_errno(errno.ENOENT, os.stat, b / "one/two/three/f")
    expect(read_file(b / "moved/three/f"), b"deep")
    expect(os.listdir(here), ["f"], "through a descriptor of it")
    write_file(a / "moved/three/g", b"g")
    expect(sorted(os.listdir(here)), ["f", "g"], "through a descriptor of it")
    os.close(here)
    for name in ("moved/three/f", "moved/three/g"):
        os.unlink(a / name)
    os.rmdir(a / "moved/three")
    expect_errno(errno.ENOENT, os.stat, b / "moved/three")
    os.rmdir(b / "moved")
    expect_errno(errno.ENOENT, os.stat, a / "moved")


def test_hard_links_share_everything(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"one")
    expect(os.stat(b / "f").st_nlink, 1)
    os.mkdir(a / "d")
    os.link(a / "f", a / "d/g")
    expect(os.stat(b / "f").st_nlink, 2, "links")
    expect(os.stat(b / "d/g").st_ino, os.stat(b / "f").st_ino, "one inode")
    read_file(b / "d/g")
    write_file(a / "f", b"second")
    expect(read_file(b / "d/g"), b"second", "through the other name")
    os.chmod(b / "d/g", 0o600)
    expect(os.stat(a / "f").st_mode & 0o777, 0o600)
    os.unlink(b / "f")
    expect(os.stat(a / "d/g").st_nlink, 1, "links")
    expect_errno(errno.ENOENT, os.stat, a / "f")


def test_attributes_are_one(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"1")
    os.mkdir(a / "d")
    for name in ("f", "d"):
        for round in range(20):
            os.stat(b / name)
            os.chmod(a / name, 0o700 + round)
            expect(os.stat(b / name).st_mode & 0o777, 0o700 + round, "mode")
            os.chown(a / name, round, round + 1)
            expect(os.stat(b / name).st_uid, round, "uid")
            os.utime(a / name, ns=(round * 10**9 + 1, round * 10**9 + 2))
            expect(os.stat(b / name).st_mtime_ns, round * 10**9 + 2, "mtime")
            a, b = b, a


def test_xattrs_are_one(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"1")
    for round in range(20):
        expect_errno(errno.ENODATA, os.getxattr, b / "f", "user.k")
        os.setxattr(a / "f", "user.k", b"%d" % round)
        expect(os.getxattr(b / "f", "user.k"), b"%d" % round)
        expect(os.listxattr(b / "f"), ["user.k"])
        os.removexattr(a / "f", "user.k")
        a, b = b, a


def test_a_symlink_is_replaced(w):
    a, b = w.hosts("a", "b")
    for i in range(20):
        write_file(a / ("v%d" % i), b"%d" % i)
        os.symlink("v%d" % i, a / "next")
        os.rename(a / "next", a / "current")
        expect(os.readlink(b / "current"), "v%d" % i)
        expect(read_file(b / "current"), b"%d" % i)


def test_permission_is_withdrawn_at_once(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"1")
    os.chmod(w.path, 0o755)
    for mode, may in ((0o644, True), (0o600, False), (0o644, True)):
        os.chmod(a / "f", mode)
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                read_file(b / "f")
                os._exit(0)
            except PermissionError:
                os._exit(1)
            except BaseException:
                os._exit(2)
        expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0 if may else 1, oct(mode))


def test_a_file_is_replaced_by_a_directory(w):
    a, b = w.hosts("a", "b")
    for round in range(10):
        write_file(a / "x", b"file")
        expect(read_file(b / "x"), b"file")
        os.unlink(a / "x")
        os.mkdir(a / "x")
        write_file(a / "x/in", b"in")
        expect(read_file(b / "x/in"), b"in")
        os.unlink(a / "x/in")
        os.rmdir(a / "x")
        a, b = b, a


def test_two_hosts_create_in_one_directory(w):
    """Neither may wait for a lease to expire: with terms of a minute, that would be seen."""
    w.origin("--lease-term", "60s")
    a, b = w.hosts("a", "b")
    os.mkdir(a / "d")

    def create(host):
        for i in range(150):
            write_file(host / ("d/%s%d" % (host.name, i)), b"%d" % i)
            with open(host / "d/log", "ab", buffering=0) as f:
                f.write(b"x")
    run_together([lambda: create(a), lambda: create(b)])
    expected = sorted(["log"] + ["%s%d" % (n, i) for n in "ab" for i in range(150)])
    for host in (a, b):
        expect(names(host / "d"), expected)
        expect(os.stat(host / "d/log").st_size, 300)


leasehold.main(globals())
