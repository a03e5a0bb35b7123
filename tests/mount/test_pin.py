#!/usr/bin/env python3
"""What stays in the cache, and what comes in: pins, and policies about the cache."""

import errno
import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, LOCAL, Skip, eventually, expect, expect_errno, pattern, write_file)

PIN = "user.leasehold.pin"
POLICY = "user.leasehold.policy"
FILE = 256 << 10
CACHE = 8 << 20
# Guesses would bring in what the tests did not read.
OPTIONS = ("--cache-size", "8M", "--prefetch", "off")


def prepare(w, *options, kept=4, others=60):
    if LOCAL:
        raise Skip("a local file system has no cache")
    origin = w.origin()
    os.mkdir(origin.path_of("kept"))
    os.mkdir(origin.path_of("others"))
    for i in range(kept):
        write_file(origin.path_of("kept/%d" % i), pattern(FILE, i))
    for i in range(others):
        write_file(origin.path_of("others/%d" % i), pattern(FILE, i))
    return w.host("a", *OPTIONS, *options)


def command(*arguments):
    return subprocess.run([BINARY] + [str(a) for a in arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)


def pin(path):
    return os.getxattr(path, PIN).decode()


def cached(host, name):
    return int(host.xattr("cached", name))


def read_through(path):
    """Not from pages that the kernel has, and none are left."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        data = f.read()
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return data


def read(host, name, size=FILE):
    """Reads a file, and waits until the cache has done with it."""
    writes = host.status()["cache"]["writes"] + host.status()["cache"]["not_admitted"]
    had = cached(host, name)
    expect(len(read_through(host / name)), size)
    if had < size:
        eventually(lambda: host.status()["cache"]["writes"] +
                   host.status()["cache"]["not_admitted"] > writes, "%s was offered" % name)


def press(host, count=60):
    """Reads what does not fit, twice."""
    for i in range(2 * count):
        read_through(host / ("others/%d" % (i % count)))


def all_there(host, names):
    """Nobody reads them meanwhile: what was evicted does not come back."""
    for name in names:
        eventually(lambda: cached(host, name) == FILE, "%s is cached" % name)


def known(host, name):
    """Waits until a policy says something of it."""
    def said():
        try:
            return host.xattr("rules", name)
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise
            return None
    eventually(said, "the policy of %s is known" % name)


KEPT = ["kept/%d" % i for i in range(4)]


def test_what_is_pinned_stays_until_it_is_unpinned(w):
    a = prepare(w)
    for name in KEPT[:3]:
        read(a, name)
    expect(pin(a / "kept/0"), "off")
    ended = command("pin", a / "kept")
    expect((ended.returncode, ended.stdout), (0, ""))
    press(a)
    all_there(a, KEPT[:3])
    # What was not read yet was not fetched, and stays once it was.
    expect(cached(a, "kept/3"), 0)
    read(a, "kept/3")
    press(a)
    all_there(a, KEPT)
    for line in ("pin:     on",):
        expect(line in command("stat", a / "kept/0").stdout, True, line)
    # It survives a remount and a crash of the daemon.
    a.unmount()
    a.start()
    expect([pin(a / name) for name in KEPT], ["on"] * 4)
    a.crash()
    a.start()
    press(a)
    expect([pin(a / name) for name in KEPT], ["on"] * 4)
    all_there(a, KEPT)
    status = a.status()["cache"]
    expect(4 * FILE <= status["pinned"] <= status["pinned_max"] < CACHE, True, repr(status))
    # An attribute does the same; evict forgets what is pinned, too.
    os.setxattr(a / "kept/0", PIN, b"off")
    expect(pin(a / "kept/0"), "off")
    expect(command("evict", a / "kept/3").returncode, 0)
    expect((pin(a / "kept/3"), cached(a, "kept/3")), ("on", 0))
    expect(command("unpin", a / "kept").returncode, 0)
    expect([pin(a / name) for name in KEPT], ["off"] * 4)
    press(a)
    expect(sum(cached(a, name) for name in KEPT), 0)
    expect_errno(errno.EINVAL, os.setxattr, a / "kept/0", PIN, b"maybe")
    expect_errno(errno.EISDIR, os.setxattr, a / "kept", PIN, b"on")
    expect_errno(errno.ENODATA, os.getxattr, a / "kept", PIN)
    expect(command("pin", w.path).returncode, 1)


def test_pins_leave_room_and_say_so(w):
    a = prepare(w)
    ended = command("pin", a / "others")
    expect(ended.returncode, 1)
    expect("no space left for pins" in ended.stdout and "--cache-size" in ended.stdout, True,
           ended.stdout)
    for i in range(60):
        read_through(a / ("others/%d" % i))
    status = a.status()["cache"]
    expect(CACHE // 2 < status["pinned"] <= status["pinned_max"] <= CACHE // 4 * 3, True, repr(status))
    # Others have the rest.
    read(a, "kept/0")
    expect(cached(a, "kept/0"), FILE)
    expect(command("pin", a / "kept/0").returncode in (0, 1), True)
    write_file(a / "large", pattern(7 << 20))
    expect_errno(errno.ENOSPC, os.setxattr, a / "large", PIN, b"on")
    ended = command("pin", a / "large")
    expect((ended.returncode, "no space left for pins" in ended.stdout), (1, True), ended.stdout)
    expect(pin(a / "large"), "off")


def test_a_policy_pins_what_matches_and_unpins_at_once(w):
    a = prepare(w)
    os.setxattr(a / "", POLICY, b"/kept/** pin\n/kept/1 unpin\n")
    eventually(lambda: pin(a / "kept/0") == "policy", "the policy is known")
    for name in KEPT:
        read(a, name)
    expect([pin(a / name) for name in KEPT], ["policy", "off", "policy", "policy"])
    write_file(a / "kept/new", pattern(FILE))
    read(a, "kept/new")
    press(a)
    all_there(a, [KEPT[0], *KEPT[2:], "kept/new"])
    expect(cached(a, KEPT[1]), 0)
    # After a remount nobody has looked anything up, and it stays all the same.
    a.unmount()
    a.start()
    press(a)
    all_there(a, [KEPT[0], *KEPT[2:], "kept/new"])
    # What a policy pins the command cannot unpin, and says so.
    ended = command("unpin", a / "kept/0")
    expect((ended.returncode, "a policy has it pinned" in ended.stdout), (1, True), ended.stdout)
    # A change of it, once without a look at the files, and once of all of it.
    os.setxattr(a / "", POLICY, b"/kept/0 pin\n")
    eventually(lambda: a.status()["cache"]["pinned"] == 0 or pin(a / "kept/2") == "off",
               "the line is gone")
    eventually(lambda: pin(a / "kept/0") == "policy", "another line has it")
    press(a)
    all_there(a, KEPT[:1])
    expect(sum(cached(a, name) for name in [*KEPT[1:], "kept/new"]), 0)
    os.removexattr(a / "", POLICY)
    eventually(lambda: a.status()["cache"]["pinned"] == 0, "nothing is pinned")
    expect(pin(a / "kept/0"), "off")


def test_a_quota_is_held(w):
    a = prepare(w)
    os.setxattr(a / "", POLICY, b"/others/** quota=1M\n")
    known(a, "others/0")
    for name in KEPT:
        read(a, name)
    press(a)
    total = sum(cached(a, "others/%d" % i) for i in range(60))
    expect(FILE <= total <= 1 << 20, True, "%d bytes of others are cached" % total)
    all_there(a, KEPT)


def test_what_comes_in_at_the_second_access_and_what_never(w):
    a = prepare(w)
    os.setxattr(a / "", POLICY, b"/kept/0 admit=never\n/kept/1 admit=second\n/kept/2 admit=second\n")
    known(a, "kept/2")
    read(a, "kept/1")
    read(a, "kept/0")
    expect((cached(a, "kept/0"), cached(a, "kept/1")), (0, 0))
    a.unmount()
    a.start()
    known(a, "kept/2")
    for _ in range(2):
        for name in KEPT[:2]:
            expect(read_through(a / name) == pattern(FILE, int(name[-1])), True)
    eventually(lambda: cached(a, "kept/1") == FILE, "the second access brings it in")
    expect(cached(a, "kept/0"), 0)


def test_what_outlived_its_time_goes_first(w):
    a = prepare(w)
    os.setxattr(a / "", POLICY, b"/kept/** ttl=1s\n")
    known(a, "kept/0")
    for name in KEPT:
        read(a, name)
    for i in range(24):
        read(a, "others/%d" % i)
    all_there(a, KEPT)  # nothing needed room

    def gone():
        for i in range(24, 60):
            read_through(a / ("others/%d" % i))
        return sum(cached(a, name) for name in KEPT) == 0
    eventually(gone, "what was not used for a second makes room")


if __name__ == "__main__":
    leasehold.main(globals())
