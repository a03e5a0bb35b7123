#!/usr/bin/env python3
"""
Bad days one after the other, while three hosts write and read the same files: the origin is
killed, hosts are killed, stopped past their term, and cut off. What is checked all the time: no read
returns less than what was acknowledged before it began, and none is half of a write. What is
checked at the end: everybody sees the last version within a bounded time, and can write.

Errors are allowed while something is broken, old answers never. A write that failed may have
happened, or not: its version is never used again.

LEASEHOLD_SOAK_SECONDS: how long (30); LEASEHOLD_SOAK_SEED: the order of the faults;
LEASEHOLD_SOAK_FAULTS=no: good days only, which leaves more time for races of the hosts.
"""

import collections
import errno
import fcntl
import os
import random
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from faults import Faults
from leasehold import Failure, eventually, read_file, write_file

SECONDS = float(os.environ.get("LEASEHOLD_SOAK_SECONDS", "30"))
SEED = int(os.environ.get("LEASEHOLD_SOAK_SEED", "1"))
FAULTS = os.environ.get("LEASEHOLD_SOAK_FAULTS", "yes") != "no"
FILES = 4
START = time.monotonic()
COPIES = 256  # of the version in a file: a page, which is never half of another

# What a caller may be told while the origin, its host or the network is broken. ESTALE: a host whose
# session ended loses what it had open of files whose last name is gone. EPERM: it is not mounted.
BROKEN = (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED, errno.ETIMEDOUT, errno.ENOENT,
          errno.EINTR, errno.ENODEV, errno.ESHUTDOWN, errno.ESTALE, errno.EPERM)


def image(version):
    return b"%015d\n" % version * COPIES


def version_of(data, where):
    if len(data) != 16 * COPIES or data != data[:16] * COPIES:
        raise Failure("%s: %d bytes, not one version: %r ... %r" % (
            where, len(data), data[:16], data[-16:]))
    return int(data[:16])


class File:
    """One file, one writer at a time (of any host), any number of readers."""

    def __init__(self, name, hosts):
        self.name, self.hosts = name, hosts
        self.lock = threading.Lock()
        self.next = 1
        self.floor = 0  # acknowledged, or seen by somebody
        self.writes = self.reads = self.errors = 0
        self.events = collections.deque(maxlen=16)  # the last ones, for people

    def note(self, what, path, version, began):
        now = time.monotonic() - START
        self.events.append("%.3f..%.3f %s %s %d" % (began - START, now, path[-8:], what, version))

    def write(self, path, replace):
        with self.lock:
            version, self.next = self.next, self.next + 1
            began, what = time.monotonic(), "replaced by" if replace else "written"
            self.note("to be " + what, path, version, began)
            try:
                if replace:
                    write_file(path + ".new", image(version))
                    os.rename(path + ".new", path)
                else:
                    fd = os.open(path, os.O_WRONLY)
                    try:
                        os.pwrite(fd, image(version), 0)
                    finally:
                        os.close(fd)
            except OSError as e:
                self.errors += 1
                self.note("%s: %s" % (errno.errorcode.get(e.errno), what), path, version, began)
                if e.errno not in BROKEN:
                    raise
                return
            self.floor = max(self.floor, version)
            self.note(what, path, version, began)
            self.writes += 1

    def views(self):
        """What each host says of the file now, and what is at the origin."""
        views = []
        for host in self.hosts:
            path = host / self.name
            try:
                views.append("%s: version %s, inode %d, lease %s, change %s, cached %s" % (
                    path[-8:], read_file(path)[:15], os.stat(path).st_ino,
                    *(host.xattr(name, self.name) for name in ("lease", "change", "cached"))))
            except OSError as e:
                views.append("%s: %s" % (path[-8:], e))
        path = self.hosts[0].origin.path_of(self.name)
        return views + ["origin: version %s, inode %d" % (read_file(path)[:15],
                                                          os.stat(path).st_ino)]

    def read(self, path):
        floor, began = self.floor, time.monotonic()
        try:
            data = read_file(path)
        except OSError as e:
            self.errors += 1
            if e.errno not in BROKEN:
                raise
            return
        version = version_of(data, path)
        if version < floor:
            events = list(self.events)
            raise Failure("%s: version %d, but %d was acknowledged or seen before (%.3f..%.3f)\n%s" % (
                path, version, floor, began - START, time.monotonic() - START,
                "\n".join(events + self.views())))
        if version > self.floor:
            self.note("seen", path, version, began)
        self.floor = max(self.floor, version)
        self.reads += 1


class Soak(Faults):
    def __init__(self, world, hosts):
        super().__init__(world, random.Random(SEED), threading.Event())
        self.files = [File("f%d" % i, hosts) for i in range(FILES)]
        self.errors = []

    def guard(self, body):
        def run():
            try:
                while not self.stop.is_set() and not self.errors:
                    body()
            except BaseException as e:
                self.errors.append(e)
        return threading.Thread(target=run)

    def threads(self, host, number):
        chance = random.Random(SEED * 100 + number)

        def one_write():
            f = chance.choice(self.files)
            f.write(host / f.name, chance.random() < 0.3)
            self.stop.wait(chance.random() * 0.02)

        def one_read():
            f = chance.choice(self.files)
            f.read(host / f.name)

        return [self.guard(one_write), self.guard(one_read), self.guard(one_read)]


def immutable(fd, on):
    """chattr +i, -i: while a host is not mounted, nobody may write below its mount point."""
    get, put, flag = 0x80086601, 0x40086602, 0x10
    flags, = struct.unpack("l", fcntl.ioctl(fd, get, struct.pack("l", 0)))
    fcntl.ioctl(fd, put, struct.pack("l", flags | flag if on else flags & ~flag))


def test_bad_days(w):
    w.allow_log(r".*")  # of what is broken on purpose; sanitizers are not excused
    w.origin("--lease-term", "3s")
    hosts = [w.host(n, "-o", "timeout=20s", namespace=True, start=False) for n in ("a", "b", "c")]
    below = [os.open(h.path, os.O_RDONLY) for h in hosts]
    try:
        for fd in below:
            immutable(fd, True)
        for h in hosts:
            h.start()
        bad_days(w, hosts)
    finally:
        for fd in below:
            immutable(fd, False)
            os.close(fd)


def bad_days(w, hosts):
    soak = Soak(w, hosts)
    for f in soak.files:
        write_file(hosts[0] / f.name, image(0))
    threads = [t for i, h in enumerate(hosts) for t in soak.threads(h, i)]
    for t in threads:
        t.start()
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end and not soak.errors:
            soak.stop.wait(1 + soak.random.random() * 2)
            if FAULTS:
                soak.break_something(hosts)
    finally:
        soak.stop.set()
        for t in threads:
            t.join()
    print("# faults: %s; writes %d, reads %d, errors %d" % (
        " ".join(soak.faults), sum(f.writes for f in soak.files),
        sum(f.reads for f in soak.files), sum(f.errors for f in soak.files)))
    if soak.errors:
        raise soak.errors[0]
    for f in soak.files:
        before = f.writes

        def written():
            soak.mend_mounts(hosts)
            f.write(hosts[1] / f.name, False)
            return f.writes > before
        eventually(written, "writing %s again" % f.name)
        for h in hosts:
            def seen():
                soak.mend_mounts(hosts)
                reads = f.reads
                f.read(h / f.name)
                return f.reads > reads
            eventually(seen, "reading %s on %s again" % (f.name, h.name))


if __name__ == "__main__":
    leasehold.TEST_TIMEOUT_S = int(SECONDS * 3 + 600)
    leasehold.main(globals())
