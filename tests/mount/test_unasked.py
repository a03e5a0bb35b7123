#!/usr/bin/env python3
"""What policies have fetched without anybody doing anything on the host: on-mount and on-create."""

import errno
import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import BINARY, LOCAL, Skip, eventually, expect, write_file

SIZE = 50000  # more than a lookup brings


def prepare(w, *names):
    if LOCAL:
        raise Skip("a local file system has no policies")
    w.origin()
    return w.hosts(*names)


def put(text, directory):
    subprocess.run([BINARY, "policy", "set", directory], input=text, text=True, check=True,
                   stderr=subprocess.DEVNULL)


def make(host, directory, count, size=SIZE):
    os.makedirs(host / directory, exist_ok=True)
    for i in range(count):
        write_file(host / ("%s/f%d" % (directory, i)), b"y" * size)


def cached(host, name):
    return int(os.getxattr(host / name, "user.leasehold.cached"))


def all_cached(host, directory, count, size=SIZE):
    eventually(lambda: all(cached(host, "%s/f%d" % (directory, i)) == size for i in range(count)),
               directory)


def says(path):
    """Some policy, as far as the host knows."""
    try:
        return os.getxattr(path, "user.leasehold.rules")
    except OSError as e:
        if e.errno != errno.ENODATA:
            raise
        return b""


def idle(host):
    prefetch = host.status()["prefetch"]
    return prefetch["waiting"] == 0 and prefetch["bytes_in_flight"] == 0


def test_a_mount_fetches_what_is_to_be_there(w):
    b, = prepare(w, "b")
    for directory in ("data/a", "data/a/b/c", "data/off", "data/deep/x/y", "other", "late", "own/z"):
        make(b, directory, 10)
    write_file(b / "one", b"1" * SIZE)
    put("/data/** prefetch=on-mount\n/data/off/** prefetch=off\n"
        "/data/deep/x/** prefetch=on-mount depth=1 bandwidth=100M\n/one prefetch=on-mount\n", b.path)
    a = w.host("a")
    # In this order: what is looked at is known to who walks, too.
    eventually(lambda: a.status()["prefetch"]["sent"] > 21 and idle(a), "it has walked")
    for directory in ("data/a", "data/a/b/c"):
        all_cached(a, directory, 10)
    eventually(lambda: cached(a, "one") == SIZE, "one")
    # The policy changes, and another directory has one of its own that is known by now.
    put("/data/** prefetch=on-mount\n/data/off/** prefetch=off\n/late/** prefetch=on-mount\n", b.path)
    all_cached(a, "late", 10)
    put("** prefetch=on-mount\n", b / "own")
    all_cached(a, "own/z", 10)
    eventually(lambda: idle(a), "all is fetched")
    for directory in ("data/off", "other"):
        expect([cached(a, "%s/f%d" % (directory, i)) for i in range(10)], [0] * 10)


def test_a_mount_ends_while_it_fetches(w):
    b, = prepare(w, "b")
    for i in range(5):
        make(b, "d/%d" % i, 10)
    put("** prefetch=on-mount bandwidth=100K\n", b.path)
    a = w.host("a")
    eventually(lambda: a.status()["prefetch"]["sent"] > 0, "it walks")
    a.unmount()
    a.start()
    eventually(lambda: a.status()["prefetch"]["sent"] > 0, "it walks again")


def test_what_others_make_and_change_is_fetched(w):
    a, b = prepare(w, "a", "b")
    for directory in ("in", "out"):
        make(b, directory, 3)
    put("/in/** prefetch=on-create\n", b.path)
    eventually(lambda: says(a / "in/f1"), "a knows it")
    for directory in ("in", "out"):
        os.listdir(a / directory)
    # What is made is fetched; from then on what changes of it, too.
    make(b, "in/new/deep", 5)
    all_cached(a, "in/new/deep", 5)
    make(b, "in/new/deep", 5, 2 * SIZE)
    all_cached(a, "in/new/deep", 5, 2 * SIZE)
    # What is renamed to there; many names at a time; what is not there.
    make(b, "out", 3, 2 * SIZE)
    os.rename(b / "out/f2", b / "in/moved")
    make(b, "in/new", 100)
    eventually(lambda: cached(a, "in/moved") == 2 * SIZE, "in/moved")
    all_cached(a, "in/new", 100)
    eventually(lambda: idle(a), "all is fetched")
    expect([cached(a, "out/f%d" % i) for i in range(2)], [0, 0])


if __name__ == "__main__":
    leasehold.main(globals())
