#!/usr/bin/env python3
"""What is there before it is asked for: trees, swept directories, series; and that it is never stale."""

import os
import random
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import eventually, expect, pattern, read_file, run_together, write_file

SIZE = 40000  # more than what comes with a lookup


def figures(host, predictor):
    return host.status()["prefetch"][predictor]


def calls(host):
    return host.status()["counters"]["calls"]


def make_files(o, directory, count, size=SIZE):
    os.makedirs(o.path_of(directory), exist_ok=True)
    for i in range(count):
        write_file(o.path_of(directory, "f%d" % i), pattern(size, i))


def cached(host, path, size):
    return host.xattr("cached", path) == str(size)


def test_a_tree_is_listed_ahead(w):
    o = w.origin()
    for i in range(60):
        os.makedirs(o.path_of("tree", "%d" % (i % 6), "%d" % i, "leaf"))
        write_file(o.path_of("tree", "%d" % (i % 6), "%d" % i, "file"), b"x" * i)
    a = w.slow_host("a", 20)
    found = sum(len(files) for _, _, files in os.walk(a / "tree"))
    expect(found, 60, "files")
    walk = figures(a, "walk")
    expect(walk["fetched"] >= 40, True, "%r" % walk)
    # Names and attributes came along: what is asked now is known.
    before = calls(a)
    for i in range(60):
        path = "tree/%d/%d/file" % (i % 6, i)
        expect(os.stat(a / path).st_size, i, path)
    expect(calls(a) - before <= 5, True, "%d calls" % (calls(a) - before))


def test_a_directory_that_is_read_in_any_order_is_fetched(w):
    o = w.origin()
    make_files(o, "d", 120)
    a = w.slow_host("a", 10)
    order = list(range(120))
    random.Random(3).shuffle(order)
    for i in order[:60]:
        expect(read_file(a / ("d/f%d" % i)) == pattern(SIZE, i), True, "file %d" % i)
    expect(figures(a, "sweep")["fetched"] > 0, True, "it was recognised")
    eventually(lambda: all(cached(a, "d/f%d" % i, SIZE) for i in range(120)), "all are cached")
    before = a.status()["counters"]["fetched_bytes"]
    for i in order[60:]:
        expect(read_file(a / ("d/f%d" % i)) == pattern(SIZE, i), True, "file %d" % i)
    expect(a.status()["counters"]["fetched_bytes"], before, "bytes fetched")


def test_the_next_of_a_series_are_fetched(w):
    o = w.origin()
    os.mkdir(o.path_of("s"))
    for i in range(12):
        write_file(o.path_of("s", "shard-%05d.tar" % i), pattern(300000, i))
    a = w.host("a")
    for i in range(3):
        read_file(a / ("s/shard-%05d.tar" % i))
    eventually(lambda: os.stat(a / "s/shard-00003.tar").st_size == 300000 and
               cached(a, "s/shard-00003.tar", 300000), "the next one is cached")
    expect(read_file(a / "s/shard-00003.tar") == pattern(300000, 3), True, "bytes")


def test_off_means_off(w):
    o = w.origin()
    make_files(o, "d", 30)
    a = w.host("a", "--prefetch", "off")
    expect(len(os.listdir(a / "d")), 30)
    for i in range(20):
        read_file(a / ("d/f%d" % i))
    expect(a.status()["prefetch"], {"on": False})
    expect(a.status()["counters"]["fetched_bytes"], 20 * SIZE, "bytes fetched")
    refused = leasehold.run(leasehold.BINARY, "mount", "--prefetch", "maybe", a.url(), a / "d",
                            check=False)
    expect(refused.returncode != 0 and "on|off" in refused.stderr, True, refused.stderr)


def test_random_reads_of_a_large_file_fetch_nothing_more(w):
    o = w.origin()
    size = 64 << 20
    write_file(o.path_of("big"), pattern(1 << 20) * 64)
    a = w.host("a")
    rng = random.Random(11)
    fd = os.open(a / "big", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    before = a.status()["counters"]["fetched_bytes"]
    pages = rng.sample(range(size // 4096), 800)
    for page in pages:
        os.pread(fd, 4096, page * 4096)
    os.close(fd)
    fetched = a.status()["counters"]["fetched_bytes"] - before
    expect(fetched <= 1.1 * 800 * 4096, True, "%d bytes were fetched for %d" % (fetched, 800 * 4096))


def rewritten_under_a_reader(w, write):
    """One host sweeps a directory over and over, another one rewrites it with write(path, bytes)."""
    o = w.origin()
    count = 40
    make_files(o, "d", count)
    a, b = w.slow_host("a", 3), w.host("b")
    begun, done = [0] * count, [0] * count  # versions; of the second the writer was answered
    stop = threading.Event()

    def content(i, version):
        return (b"%08d" % version) * (SIZE // 8) if version else pattern(SIZE, i)

    def writing():
        rng = random.Random(1)
        for version in range(1, 150):
            i = rng.randrange(count)
            begun[i] = version
            write(b / ("d/f%d" % i), content(i, version))
            done[i] = version
        stop.set()

    def reading():
        rng = random.Random(2)
        while not stop.is_set():
            for i in rng.sample(range(count), count):
                least = done[i]
                data = read_file(a / ("d/f%d" % i))
                if data == content(i, least):
                    continue
                # Else somebody was at it meanwhile; of several pages each is of before or after that.
                expect(begun[i] > least, True, "file %d: %r after %d" % (i, data[:8], least))
    try:
        run_together([writing, reading])
    finally:
        stop.set()
    for i in range(count):
        expect(read_file(a / ("d/f%d" % i)) == content(i, done[i]), True, "file %d at the end" % i)


def test_what_was_fetched_ahead_is_never_stale(w):
    def in_place(path, data):
        fd = os.open(path, os.O_WRONLY)
        os.pwrite(fd, data, 0)
        os.close(fd)
    rewritten_under_a_reader(w, in_place)


def test_what_was_fetched_ahead_of_a_truncation_is_never_stale(w):
    rewritten_under_a_reader(w, write_file)


def test_unmounting_does_not_wait_for_it(w):
    o = w.origin()
    make_files(o, "d", 200, 1 << 18)
    a = w.slow_host("a", 100)
    for i in range(0, 20, 3):
        read_file(a / ("d/f%d" % i))
    start = time.monotonic()
    a.unmount()
    expect(time.monotonic() - start < 20, True, "%.1f s" % (time.monotonic() - start))


leasehold.main(globals())
