"""
worker.py MOUNT OUTPUT PROCESS SEED - does operations on what other workers use too, and records
each with its times (CLOCK_MONOTONIC), for linear.py. It ends when its standard input does.

Objects are new ones every EPOCH_S seconds, since operations of unknown outcome make the check of
an object's history ever harder. It works below a descriptor of the mount's root, so that an
unmounted mount point is not taken for an empty one.
"""

import ctypes
import os
import pickle
import random
import select
import struct
import sys
import time

EPOCH_S = 2
PAGE = 4096
RECORD = 16  # bytes of what is appended
LOG_MAX = PAGE // RECORD - 16  # then it is truncated: one page is one request, and never torn
LISTING_BYTES = 32768  # a listing is one call, since several are several requests
NAMES = ("n0", "n1", "n2", "n3")
OBJECTS = ("r0", "r1", "l0", "d0", "d1")

libc = ctypes.CDLL(None, use_errno=True)
libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p,
                           ctypes.c_uint]




class Nothing(Exception):
    """Nothing was done that anyone could see."""


class Torn(Exception):
    """What was read is half of something."""


def close(fd):
    try:
        os.close(fd)
    except OSError:
        pass  # the mount is gone, or says late what was said


def listing(fd):
    buffer = ctypes.create_string_buffer(LISTING_BYTES)
    size = libc.getdents64(fd, buffer, LISTING_BYTES)
    if size < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
    names, at = [], 0
    while at < size:
        _inode, _place, length, _kind = struct.unpack_from("=QqHB", buffer.raw, at)
        name = buffer.raw[at + 19:at + length].split(b"\0")[0].decode()
        names += [name] if name not in (".", "..") else []
        at += length
    if len(set(names)) != len(names):
        raise Torn("a listing has a name twice: %r" % names)
    return frozenset(names)


class Worker:
    def __init__(self, mount, output, process, seed):
        self.mount = mount
        self.below = os.stat(os.path.dirname(mount)).st_dev
        self.output = open(output, "wb")
        self.process = process
        self.rng = random.Random(seed)
        self.root = None
        self.open = {}  # descriptors of this epoch's objects
        self.epoch = None
        self.count = 0

    def ready(self):
        """Whether the mount is there; a new epoch begins with nothing open."""
        epoch = int(time.monotonic() / EPOCH_S)
        if epoch != self.epoch or self.root is None:
            self.forget()
            self.epoch = epoch
        if self.root is None:
            try:
                fd = os.open(self.mount, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return False
            try:
                below = os.fstat(fd).st_dev == self.below
            except OSError:  # what was opened is gone since
                below = True
            if below:
                close(fd)
                return False
            self.root = fd
        return True

    def forget(self):
        for fd in list(self.open.values()) + ([] if self.root is None else [self.root]):
            close(fd)
        self.open, self.root = {}, None

    def record(self, thing, name, value, function, changes):
        """Calls function(), whose result is the answer; `changes`: it may have been done anyway."""
        called = time.monotonic()
        try:
            answer, returned = function(), time.monotonic()
        except (Nothing, OSError) as e:
            if isinstance(e, OSError):
                self.forget()
            if isinstance(e, Nothing) or not changes:
                return
            answer, returned = None, None
        pickle.dump(("%s.%d" % (thing, self.epoch), called, returned, self.process, name, value,
                     answer), self.output)

    def file(self, thing):
        """Open now, or since a while; making it makes what an object begins as."""
        name = "%s.%d" % (thing, self.epoch)
        if name in self.open and self.rng.random() < 0.5:
            close(self.open.pop(name))
        if name not in self.open:
            flags = os.O_RDWR | os.O_CREAT | (os.O_APPEND if thing[0] == "l" else 0)
            try:
                self.open[name] = os.open(name, flags, 0o600, dir_fd=self.root)
            except OSError:
                raise Nothing from None
        return self.open[name]

    def value(self):
        self.count += 1
        return "%03d:%011d\n" % (self.process, self.count)

    # Registers: a page that is written whole.

    def on_register(self, thing):
        if self.rng.random() < 0.3:
            value = self.value()

            def write():
                if os.pwrite(self.file(thing), value.encode() * (PAGE // RECORD), 0) != PAGE:
                    raise Torn("a page was written half")
            self.record(thing, "write", value, write, True)
            return

        def read():
            data = os.pread(self.file(thing), PAGE + 1, 0)
            if data != data[:RECORD] * (PAGE // RECORD):
                raise Torn("half of a page: %r...%r" % (data[:RECORD], data[-RECORD:]))
            return data[:RECORD].decode() or None
        self.record(thing, "read", None, read, False)

    # Logs: what is appended, and all of it.

    def on_log(self, thing):
        def read():
            data = os.pread(self.file(thing), PAGE + 1, 0)
            if len(data) % RECORD:
                raise Torn("%d bytes in a log" % len(data))
            return tuple(data[i:i + RECORD].decode() for i in range(0, len(data), RECORD))

        def size():
            return os.fstat(self.file(thing)).st_size // RECORD

        def append():
            fd = self.file(thing)
            if os.fstat(fd).st_size > LOG_MAX * RECORD:
                raise Nothing
            if os.write(fd, value.encode()) != RECORD:
                raise Torn("an append was done half")
        chance = self.rng.random()
        if chance < 0.3:
            value = self.value()
            self.record(thing, "append", value, append, True)
        elif chance < 0.33:
            self.record(thing, "truncate", None, lambda: os.ftruncate(self.file(thing), 0), True)
        elif chance < 0.6:
            self.record(thing, "size", None, size, False)
        else:
            self.record(thing, "read", None, read, False)

    # Directories: a few names.

    def on_directory(self, thing):
        place = "%s.%d" % (thing, self.epoch)
        if place not in self.open:
            try:
                os.mkdir(place, 0o700, dir_fd=self.root)
            except FileExistsError:
                pass
            except OSError:
                self.forget()
                return
            try:
                self.open[place] = os.open(place, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.root)
            except OSError:
                self.forget()
                return
        fd, name = self.open[place], self.rng.choice(NAMES)

        def create():
            try:
                close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd))
                return True
            except FileExistsError:
                return False

        def absent_is_false(function):
            def call():
                try:
                    function()
                    return True
                except FileNotFoundError:
                    return False
            return call

        def list_names():
            again = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            try:
                return listing(again)
            finally:
                close(again)

        def rename():
            os.rename(name, other, src_dir_fd=fd, dst_dir_fd=fd)
        chance = self.rng.random()
        if chance < 0.15:
            self.record(thing, "create", name, create, True)
        elif chance < 0.25:
            self.record(thing, "unlink", name,
                        absent_is_false(lambda: os.unlink(name, dir_fd=fd)), True)
        elif chance < 0.35:
            other = self.rng.choice([n for n in NAMES if n != name])
            self.record(thing, "rename", (name, other), absent_is_false(rename), True)
        elif chance < 0.8:
            self.record(thing, "lookup", name, absent_is_false(
                lambda: os.stat(name, dir_fd=fd, follow_symlinks=False)), False)
        else:
            self.record(thing, "list", None, list_names, False)

    def step(self):
        if not self.ready():
            time.sleep(0.01)
            return
        thing = self.rng.choice(OBJECTS)
        {"r": self.on_register, "l": self.on_log, "d": self.on_directory}[thing[0]](thing)


def main():
    mount, output, process, seed = sys.argv[1:]
    worker = Worker(mount, output, int(process), int(seed))
    try:
        while not select.select([sys.stdin], [], [], 0)[0]:
            worker.step()
    except Torn as e:
        pickle.dump(("wrong", "process %s: %s" % (process, e)), worker.output)
    worker.output.close()


main()
