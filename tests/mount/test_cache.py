#!/usr/bin/env python3
"""What is kept on the host's disk, what it costs the origin, and what users can see of it."""

import errno
import os
import random
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import eventually, expect, expect_errno, pattern, read_file, write_file

def fetched(host):
    return host.status()["transport"]["bytes_in"]


def disk_bytes(directory):
    total = 0
    for path, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


def test_a_second_read_costs_the_origin_nothing(w):
    o = w.origin()
    data = pattern(4 << 20)
    write_file(o.path_of("f"), data)
    a = w.host("a")
    expect(read_file(a / "f"), data)
    after_first = fetched(a)
    expect(after_first >= 4 << 20, True, "the first read fetches")
    for _ in range(5):
        expect(read_file(a / "f"), data)
        os.listdir(a.path)
        os.stat(a / "f")
    expect(fetched(a) - after_first < 100000, True,
           "%d bytes more" % (fetched(a) - after_first))


def test_readers_of_one_range_share_one_fetch(w):
    o = w.origin()
    data = pattern(8 << 20)
    write_file(o.path_of("f"), data)
    a = w.host("a")
    os.stat(a / "f")
    before = fetched(a)
    results = []
    threads = [threading.Thread(target=lambda: results.append(read_file(a / "f") == data))
               for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(results, [True] * 6)
    cost = fetched(a) - before
    expect(cost < 12 << 20, True, "six readers of 8 MiB fetched %d bytes" % cost)


def test_random_reads_fetch_little_more_than_was_asked(w):
    o = w.origin()
    size = 64 << 20
    with open(o.path_of("f"), "wb") as f:
        for i in range(size >> 20):
            f.write(pattern(1 << 20, i))
    a = w.host("a")
    fd = os.open(a / "f", os.O_RDONLY)
    rng = random.Random(3)
    offsets = rng.sample(range(0, size >> 12, 64), 108)
    costs = []
    for at in offsets:
        before = fetched(a)
        expect(os.pread(fd, 4096, at << 12),
               pattern(1 << 20, at >> 8)[(at & 255) << 12:((at & 255) << 12) + 4096])
        costs.append(fetched(a) - before)
    os.close(fd)
    slack = 2048  # headers, keep-alives
    expect(max(costs) <= (128 << 10) + slack, True, "dearest read: %d bytes" % max(costs))
    later = sum(costs[8:])
    expect(later <= 100 * (4096 * 1.1 + slack), True, "100 later reads cost %d bytes" % later)


def test_attributes_tell_what_is_cached(w):
    o = w.origin()
    data = pattern(3 << 20)
    write_file(o.path_of("f"), data)
    os.mkdir(o.path_of("d"))
    a = w.host("a")
    expect(a.xattr("cached", "f"), "0", "before a read")
    read_file(a / "f")
    # Bytes go to the disk beside the answer, not before it.
    eventually(lambda: a.xattr("cached", "f") == str(3 << 20), "all of it is cached")
    expect(a.xattr("ranges", "f"), "0-%d" % (3 << 20))
    expect(a.xattr("lease", "f").startswith("read"), True, a.xattr("lease", "f"))
    change = a.xattr("change", "f")
    write_file(a / "f", b"!", "r+b")
    read_file(a / "f")
    expect(a.xattr("change", "f") != change, True, "a write moves the change")
    os.listdir(a / "d")
    for name in ("lease", "change", "version", "cached", "ranges"):
        a.xattr(name, "d")
    expect_errno(errno.ENODATA, os.getxattr, a / "f", "user.leasehold.nonesuch")
    expect(os.listxattr(a / "f"), [], "they are not listed")
    expect(os.listxattr(a.path), [], "nor at the root")
    expect_errno((errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL), os.setxattr, a / "f",
                 "user.leasehold.cached", b"1")


def test_a_lease_ends_when_another_host_writes(w):
    a, b = w.hosts("a", "b")
    write_file(a / "f", pattern(100000))
    read_file(b / "f")
    change = b.xattr("change", "f")
    recalls = b.status()["leases"]["recalls"]
    write_file(a / "f", b"!", "r+b")
    expect(b.status()["leases"]["recalls"] > recalls, True, "a recall came")
    expect(b.xattr("change", "f") != change, True, "the old change is gone")
    expect(read_file(b / "f")[:1], b"!")


def test_the_cap_is_never_exceeded(w):
    o = w.origin()
    for i in range(48):
        write_file(o.path_of("f%d" % i), pattern(1 << 20, i))
    a = w.host("a", "--cache-size", "16M")
    most = 0
    for round in range(2):
        for i in range(48):
            expect(read_file(a / ("f%d" % i)), pattern(1 << 20, i), "file %d" % i)
            status = a.status()["cache"]
            expect(status["bytes"] <= status["bytes_max"] == 16 << 20, True, repr(status))
            most = max(most, disk_bytes(a.cache))
    expect(most <= 17 << 20, True, "on disk: %d bytes" % most)
    status = a.status()["cache"]
    expect(status["bytes"] > 4 << 20, True, "the cache is used")
    # The kernel knows all of them all the while; that keeps nothing in the cache.
    expect(status["evicted_files"] > 16, True, repr(status))


def test_the_cap_holds_under_parallel_readers(w):
    o = w.origin()
    for i in range(24):
        write_file(o.path_of("f%d" % i), pattern(3 << 20, i))
    a = w.host("a", "--cache-size", "16M")
    errors, over = [], []
    ended = threading.Event()

    def reader(seed):
        rng = random.Random(seed)
        try:
            for _ in range(16):
                i = rng.randrange(24)
                expect(read_file(a / ("f%d" % i)), pattern(3 << 20, i), "file %d" % i)
        except BaseException as e:
            errors.append(e)

    def watcher():
        while not ended.is_set():
            cache = a.status()["cache"]
            if cache["bytes"] > 16 << 20:
                over.append("the counter says %d" % cache["bytes"])
            if disk_bytes(os.path.join(a.cache, "objects")) > 17 << 20:
                over.append("the disk has %d" % disk_bytes(a.cache))
    watch = threading.Thread(target=watcher)
    readers = [threading.Thread(target=reader, args=(n,)) for n in range(6)]
    for thread in [watch] + readers:
        thread.start()
    for thread in readers:
        thread.join()
    ended.set()
    watch.join()
    if errors:
        raise errors[0]
    expect(over, [], "16 MiB are exceeded")
    expect(a.status()["cache"]["bytes"] > 4 << 20, True, "the cache is used")


def test_epochs_over_twice_the_cache_hit_nearly_half(w):
    o = w.origin()
    count, size = 128, 512 << 10
    for i in range(count):
        write_file(o.path_of("f%d" % i), pattern(size, i))
    a = w.host("a", "--cache-size", "%d" % (count * size // 2))
    rng = random.Random(5)
    shares = []
    for _ in range(4):
        before = a.status()["counters"]["fetched_bytes"]
        for i in rng.sample(range(count), count):
            fd = os.open(a / ("f%d" % i), os.O_RDONLY)
            try:
                # Not from the kernel's own cache.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                expect(os.read(fd, size), pattern(size, i), "file %d" % i)
            finally:
                os.close(fd)
        shares.append((a.status()["counters"]["fetched_bytes"] - before) / (count * size))
    # It is 0.53 of each, and plain recency has 0.85. On a slow machine bytes come to the cache late,
    # and not always: test_policy.c has the exact bound.
    expect(min(shares[1:]) <= 0.6, True, "fetched in each epoch: %r" % shares)


def test_what_is_damaged_is_fetched_again(w):
    o = w.origin()
    for i in range(12):
        write_file(o.path_of("f%d" % i), pattern(300000, i))
    a = w.host("a")
    for i in range(12):
        read_file(a / ("f%d" % i))
    a.unmount()
    w.allow_log("")
    files = [os.path.join(p, f) for p, _, fs in os.walk(os.path.join(a.cache, "objects"))
             for f in fs]
    expect(len(files) >= 12, True, "files in the cache")
    for n, path in enumerate(sorted(files)):
        name = next((x for x in os.listxattr(path) if "leasehold" in x), None)
        if n % 4 == 0:
            os.truncate(path, 100000)
        elif n % 4 == 1 and name:
            record = bytearray(os.getxattr(path, name))
            record[len(record) // 2] ^= 0xff
            os.setxattr(path, name, bytes(record))
        elif n % 4 == 2 and name:
            os.setxattr(path, name, os.getxattr(path, name)[:10])
    write_file(os.path.join(a.cache, "objects", "no-handle"), b"rubbish")
    a.start()
    for i in range(12):
        expect(read_file(a / ("f%d" % i)), pattern(300000, i), "file %d" % i)
    status = a.status()["cache"]
    expect(status["dropped_corrupt"] >= 6, True, "counted: %r" % status)


def test_a_killed_daemon_keeps_the_ranges_that_it_had(w):
    o = w.origin("--lease-term", "5s")
    data = {name: pattern(4 << 20, n) for n, name in enumerate(("whole", "parts", "moved"))}
    for name, value in data.items():
        write_file(o.path_of(name), value)
    a = w.host("a")
    expect(read_file(a / "whole"), data["whole"])
    parts = [(at << 16, 16384) for at in (3, 17, 40, 60)]

    def read_parts():
        fd = os.open(a / "parts", os.O_RDONLY)
        for at, size in parts:
            expect(os.pread(fd, size, at), data["parts"][at:at + size], "at %d" % at)
        os.close(fd)
    read_parts()
    expect(read_file(a / "moved"), data["moved"])
    read = 2 * (4 << 20) + len(parts) * 16384
    eventually(lambda: a.recorded_bytes() >= read, "the records are written")
    a.crash()
    w.allow_log("")
    os.rename(o.path_of("moved"), o.path_of("elsewhere"))  # the same file by another name
    a.start()
    expect(read_file(a / "whole"), data["whole"])
    read_parts()
    counted = a.status()["counters"]
    expect(counted["fetched_bytes"], 0, "bytes fetched again")
    expect(counted["read_bytes"] >= (4 << 20) + 4 * 16384, True, "they came from the cache")
    expect(read_file(a / "elsewhere"), data["moved"])


def test_a_cache_that_is_taken_away_costs_no_answer(w):
    o = w.origin()
    for i in range(6):
        write_file(o.path_of("f%d" % i), pattern(300000, i))
    a = w.host("a")
    w.allow_log("")
    for i in range(3):
        read_file(a / ("f%d" % i))
    # What was read last may just be put there.
    leasehold.eventually(lambda: leasehold.run("rm", "-rf", os.path.join(a.cache, "objects"),
                                               check=False).returncode == 0, "it is gone")
    for i in range(6):
        expect(read_file(a / ("f%d" % i)), pattern(300000, i), "file %d" % i)
    write_file(a / "f0", b"written")
    expect(read_file(o.path_of("f0")), b"written")


def test_a_full_disk_costs_no_answer(w):
    o = w.origin()
    a = w.host("a", "--cache-free", "0", start=False)
    w.allow_log("")
    leasehold.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", a.cache)
    try:
        if not _has_user_xattrs(a.cache):
            raise leasehold.Skip("tmpfs has no user xattrs here")
        for i in range(8):
            write_file(o.path_of("f%d" % i), pattern(1 << 20, i))
        a.start()
        for _ in range(2):
            for i in range(8):
                expect(read_file(a / ("f%d" % i)), pattern(1 << 20, i), "file %d" % i)
        a.unmount()
    finally:
        leasehold.run("umount", "-l", a.cache)


def _has_user_xattrs(directory):
    try:
        os.setxattr(directory, "user.probe", b"1")
        os.removexattr(directory, "user.probe")
        return True
    except OSError:
        return False


leasehold.main(globals())
