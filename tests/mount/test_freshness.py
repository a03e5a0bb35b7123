#!/usr/bin/env python3
"""
The guarantee, under load: hosts write and read the same things at the same time, each reader
notes what had been acknowledged before it began, and no answer may be older.
"""

import mmap
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Failure, expect, peek, read_file, run_together, write_file

ROUNDS = int(os.environ.get("LEASEHOLD_TEST_ROUNDS", "150"))


class Race:
    """
    One writer makes versions 1, 2, ... of something; readers look. acknowledged is the version
    whose call has returned, begun the one that may have been applied.
    """

    def __init__(self, write, readers, rounds=ROUNDS):
        self.write = write
        self.readers = readers
        self.rounds = rounds
        self.acknowledged = 0
        self.begun = 0
        self.stop = False
        self.errors = []
        self.looks = 0

    def run_writer(self):
        try:
            for version in range(1, self.rounds + 1):
                self.begun = version
                self.write(version)
                self.acknowledged = version
                if self.errors:
                    break
        finally:
            self.stop = True

    def run_reader(self, name, read):
        last = 0
        while not self.errors:
            done = self.stop
            least = self.acknowledged
            version = read()
            most = self.begun
            if version is None:
                continue
            self.looks += 1
            if version < max(least, last):
                raise Failure("%s sees version %d, though %d was acknowledged before and %d was seen"
                              % (name, version, least, last))
            if version > most:
                raise Failure("%s sees version %d before it was written" % (name, version))
            last = version
            if done:
                break

    def run(self):
        run_together([self.run_writer] + [lambda n=n, r=r: self.run_reader(n, r)
                                          for n, r in self.readers.items()], self.errors)
        expect(self.acknowledged, self.rounds)
        if self.looks < 2:
            raise Failure("nobody looked")


def test_a_counter_written_in_place(w):
    a, b, c = w.hosts("a", "b", "c")
    write_file(a / "f", b"%08d" % 0)
    writer = os.open(a / "f", os.O_WRONLY)
    descriptors = {h.name: os.open(h / "f", os.O_RDONLY) for h in (a, b, c)}
    readers = {"%s, descriptor" % n: lambda fd=fd: int(os.pread(fd, 8, 0))
               for n, fd in descriptors.items()}
    readers["b, by name"] = lambda: int(read_file(b / "f"))
    Race(lambda v: os.pwrite(writer, b"%08d" % v, 0), readers).run()
    for fd in [writer] + list(descriptors.values()):
        os.close(fd)


def test_a_counter_seen_through_mappings(w):
    a, b, c = w.hosts("a", "b", "c")
    write_file(a / "f", b"%08d" % 0 + bytes(4088))
    writer = os.open(a / "f", os.O_WRONLY)
    maps = {}
    for h in (a, b, c):
        with open(h / "f", "rb") as f:
            maps[h.name] = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    Race(lambda v: os.pwrite(writer, b"%08d" % v, 0),
         {n: lambda m=m: int(peek(m, 0, 8)) for n, m in maps.items()}).run()
    for m in maps.values():
        m.close()
    os.close(writer)


def test_a_file_replaced_by_rename(w):
    a, b, c = w.hosts("a", "b", "c")
    write_file(a / "f", b"0")

    def replace(version):
        write_file(a / "f.tmp", b"%d" % version)
        os.rename(a / "f.tmp", a / "f")
    Race(replace, {h.name: lambda h=h: int(read_file(h / "f")) for h in (a, b, c)}).run()


def test_a_size_that_grows(w):
    a, b, c = w.hosts("a", "b", "c")
    writer = os.open(a / "f", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    readers = {"%s, stat" % h.name: lambda h=h: os.stat(h / "f").st_size for h in (a, b, c)}
    readers["b, read"] = lambda: len(read_file(b / "f"))
    Race(lambda v: os.write(writer, b"x"), readers).run()
    os.close(writer)


def test_names_that_appear(w):
    a, b, c = w.hosts("a", "b", "c")
    os.mkdir(a / "d")
    last = {"b": 0, "c": 0}

    def next_name(host):
        # Asks for the first name that it has not seen, and so for absent ones again and again.
        version = last[host.name]
        while os.path.exists(host / ("d/%d" % (version + 1))):
            version += 1
        last[host.name] = version
        return version
    Race(lambda v: os.close(os.open(a / ("d/%d" % v), os.O_CREAT | os.O_WRONLY)),
         {"b": lambda: next_name(b), "c": lambda: next_name(c),
          "b, listing": lambda: len(os.listdir(b / "d"))}).run()


def test_names_that_vanish(w):
    a, b, c = w.hosts("a", "b", "c")
    os.mkdir(a / "d")
    for v in range(1, ROUNDS + 2):
        os.close(os.open(w.main_origin.path_of("d", "%d" % v), os.O_CREAT | os.O_WRONLY))
    last = {"b": 0, "c": 0}

    def gone(host):
        version = last[host.name]
        while not os.path.exists(host / ("d/%d" % (version + 1))):
            version += 1
        last[host.name] = version
        return version
    Race(lambda v: os.unlink(a / ("d/%d" % v)),
         {"b": lambda: gone(b), "c": lambda: gone(c),
          "c, listing": lambda: ROUNDS + 1 - len(os.listdir(c / "d"))}).run()


def test_attributes_and_xattrs(w):
    a, b, c = w.hosts("a", "b", "c")
    write_file(a / "f", b"")
    os.utime(a / "f", (0, 0))
    os.setxattr(a / "f", "user.v", b"0")
    Race(lambda v: os.utime(a / "f", (v, v)),
         {h.name: lambda h=h: int(os.stat(h / "f").st_mtime) for h in (a, b, c)}).run()
    Race(lambda v: os.setxattr(a / "f", "user.v", b"%d" % v),
         {h.name: lambda h=h: int(os.getxattr(h / "f", "user.v")) for h in (a, b, c)}).run()


def test_no_read_sees_half_of_a_write(w):
    """The unit is one request: a page that is written as a whole is read as a whole."""
    a, b, c = w.hosts("a", "b", "c")
    size = 65536
    write_file(a / "f", bytes(size))
    writer = os.open(a / "f", os.O_WRONLY)
    descriptors = [os.open(h / "f", os.O_RDONLY) for h in (b, c)]

    def read(fd):
        data = os.pread(fd, 4096, 8192)
        if data != data[:1] * len(data):
            raise Failure("half of one write and half of another")
        return data[0]
    Race(lambda v: os.pwrite(writer, bytes([v]) * size, 0),
         {"b": lambda: read(descriptors[0]), "c": lambda: read(descriptors[1])},
         rounds=min(ROUNDS, 250)).run()
    for fd in [writer] + descriptors:
        os.close(fd)


def test_writers_on_all_hosts_at_once(w):
    """Each host has a cell of one file; all write theirs and read all."""
    hosts = w.hosts("a", "b", "c")
    write_file(hosts[0] / "f", b"%08d" % 0 * len(hosts))
    errors = []
    acknowledged = [0] * len(hosts)

    def work(n):
        fd = os.open(hosts[n] / "f", os.O_RDWR)
        try:
            for version in range(1, 150):
                os.pwrite(fd, b"%08d" % version, n * 8)
                acknowledged[n] = version
                least = list(acknowledged)
                data = os.pread(fd, 8 * len(hosts), 0)
                seen = [int(data[i * 8:i * 8 + 8]) for i in range(len(hosts))]
                for i, version_seen in enumerate(seen):
                    if version_seen < least[i]:
                        raise Failure("host %d sees %s, acknowledged was %s" % (n, seen, least))
                if errors:
                    break
        finally:
            os.close(fd)
    run_together([lambda n=n: work(n) for n in range(len(hosts))], errors)


leasehold.main(globals())
