#!/usr/bin/env python3
"""
The mount against ext4: random operations by several processes, of root and of other users, must
do what they do on ext4, in result, errno, content, attributes and the tree they leave. The
processes are on one host, or spread over hosts. Operations follow each other, so that there is
one right answer.

A sequence is generated whole from its seed; one that fails is cut down to the operations that it
needs and printed, in a form that LEASEHOLD_TEST_REPLAY=FILE runs again.

LEASEHOLD_TEST_SEED picks the first sequence, LEASEHOLD_TEST_SEQUENCES their number,
LEASEHOLD_TEST_STEPS the length of each; LEASEHOLD_TEST_SECONDS goes on until so much time is over,
LEASEHOLD_TEST_FAILURES until so many sequences have failed.
"""

import ast
import os
import pickle
import random
import stat
import struct
import subprocess
import sys
import time
import zlib

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Failure, run

SEED = int(os.environ.get("LEASEHOLD_TEST_SEED", "1"))
SEQUENCES = int(os.environ.get("LEASEHOLD_TEST_SEQUENCES", "4"))
STEPS = int(os.environ.get("LEASEHOLD_TEST_STEPS", "600"))
SECONDS = int(os.environ.get("LEASEHOLD_TEST_SECONDS", "0"))
REPLAY = os.environ.get("LEASEHOLD_TEST_REPLAY")
FAILURES = int(os.environ.get("LEASEHOLD_TEST_FAILURES", "1"))
SHRINK_SECONDS = 30
TREE_EVERY = 100  # steps; what is in trees is found out then

# Operations that the mount does not pass on yet; LEASEHOLD_TEST_ALL=1 compares them all the same.
NOT_YET = () if os.environ.get("LEASEHOLD_TEST_ALL") else (
    "map_write", "lock", "lock_test", "flock")

# uid, gid, groups of the processes; process i is on host i % hosts.
USERS = ((0, 0, []), (0, 0, []), (1001, 1001, [3000]), (1002, 1002, [3000, 1001]))

SLOTS = 3  # for descriptors, of each process
LONG = "n" * 255
FILES = ("f0", "f1", "f2", "f3")
DIRECTORIES = ("d0", "d1", "d2")
OTHERS = ("s0", "s1", "p0", LONG, LONG + "x", ".", "f0/", "d0/", "d0/.", "d0/..", "")
SIZES = (0, 1, 10, 100, 511, 4095, 4096, 4097, 10000, 65536, 70001)
OFFSETS = (0, 0, 0, 1, 100, 4095, 4096, 4097, 8192, 30000, 65536, 131072)
MODES = (0o600, 0o644, 0o640, 0o666, 0o755, 0o777, 0o777, 0o777, 0o000, 0o4755,
         0o2755, 0o6777, 0o2770, 0o1777)
FLAGS = (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_SYNC,
         os.O_DSYNC, os.O_NOATIME, os.O_PATH, os.O_CLOEXEC)
OF_OWNERS = ("chmod", "fchmod", "chown", "fchown", "utimens", "setxattr", "removexattr", "open")
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
TIMES = ((0, 0), (1, 1), (-2, 500000000), (1 << 31, 7), (1000000000, 999999999), (0, UTIME_NOW),
         (0, UTIME_OMIT), (1234567890, 123456789), (0, 1000000000))


class Generator:
    """Operations as literals: (process, name, arguments...)."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.kinds = [(n[4:], getattr(self, n)) for n in dir(self) if n.startswith("gen_")]
        self.weights = [getattr(f, "weight", 1) for _, f in self.kinds]

    def sequence(self, steps):
        # Something to begin with: most of what follows would only find nothing.
        operations = [(0, "mkdir", d, 0o777) for d in ("d0", "d1", "d2", "d0/d1", "d1/d0")]
        for process in range(len(USERS)):
            for slot in range(SLOTS):
                path = "%s/f%d" % (self.directory(), self.rng.randrange(4))
                operations.append((process, "open", slot, path, os.O_RDWR | os.O_CREAT, 0o666))
        while len(operations) < steps:
            kind = self.rng.choices(self.kinds, self.weights)[0]
            operation = kind[1]()
            if operation and operation[0] not in NOT_YET:
                operations.append((self.process(),) + operation)
        return operations

    def process(self):
        return self.rng.choices(range(len(USERS)), (4, 3, 2, 1))[0]

    def one(self, *of):
        return self.rng.choice(of)

    def slot(self):
        return self.rng.randrange(SLOTS)

    def path(self):
        rare = self.rng.random()
        names = OTHERS if rare < 0.08 else FILES * 3 + DIRECTORIES * 2 + ("s0", "p0")
        return os.path.join(self.one("", "", "", self.directory()), self.rng.choice(names))

    def where(self):
        """Sometimes below what is open."""
        return (self.slot(), self.path()) if self.rng.random() < 0.06 else self.path()

    def directory(self):
        return self.one(".", ".", "d0", "d1", "d2", "d0/d1", "d1/d0", "s0", "f0")

    def data(self):
        return b"%06x," % self.rng.randrange(1 << 24)

    def size(self):
        return self.rng.choice(SIZES)

    def offset(self):
        return self.rng.choice(OFFSETS)

    def far(self):
        return self.one(self.offset(), self.offset(), self.offset(), -1, 1 << 33, (1 << 33) + 5)

    def mode(self):
        return self.rng.choice(MODES)

    def owner(self):
        return self.one(0, 1001, 1002, 3000, 4242, -1)

    def gen_open(self):
        flags = self.one(os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR, 3)
        for flag in FLAGS:
            if self.rng.random() < (0.5 if flag == os.O_CREAT else 0.12):
                flags |= flag
        if flags & os.O_CREAT and flags & os.O_DIRECTORY:
            flags &= ~os.O_DIRECTORY  # not the same in all kernels
        return "open", self.slot(), self.where(), flags, self.mode()
    gen_open.weight = 8

    def gen_open_directory(self):
        return "open", self.slot(), self.directory(), os.O_RDONLY | os.O_DIRECTORY, 0

    def gen_tmpfile(self):
        return "tmpfile", self.slot(), self.directory(), self.one(0, os.O_EXCL), self.mode()

    def gen_link_descriptor(self):
        return "link_descriptor", self.slot(), self.path()

    def gen_close(self):
        return "close", self.slot()

    def gen_dup(self):
        return "dup", self.slot(), self.slot()

    def gen_read(self):
        return "read", self.slot(), self.size()

    def gen_pread(self):
        return "pread", self.slot(), self.size(), self.far()
    gen_pread.weight = 3

    def gen_write(self):
        return "write", self.slot(), self.data(), self.size()
    gen_write.weight = 3

    def gen_pwrite(self):
        return "pwrite", self.slot(), self.data(), self.size(), self.far()
    gen_pwrite.weight = 3

    def gen_lseek(self):
        return "lseek", self.slot(), self.far(), self.one(0, 1, 2)

    def gen_ftruncate(self):
        return "ftruncate", self.slot(), self.far()

    def gen_fsync(self):
        return "fsync", self.slot(), self.one(True, False)

    def gen_fstat(self):
        return "fstat", self.slot()
    gen_fstat.weight = 2

    def gen_fchmod(self):
        return "fchmod", self.slot(), self.mode()

    def gen_fchown(self):
        return "fchown", self.slot(), self.owner(), self.one(0, 1001, 3000, 4242)

    def gen_flist(self):
        return "flist", self.slot()

    def gen_fallocate(self):
        keep, punch, zero = 1, 2, 16  # FUSE does not pass on the others
        mode = self.one(0, keep, keep | punch, zero, zero | keep, punch)
        return "fallocate", self.slot(), mode, self.offset(), self.size()
    gen_fallocate.weight = 2

    def gen_copy_range(self):
        return ("copy_range", self.slot(), self.offset(), self.slot(), self.offset(), self.size())

    def gen_seek_data(self):
        return "seek_data", self.slot(), self.far()

    def gen_seek_hole(self):
        return "seek_hole", self.slot(), self.far()

    def gen_map_read(self):
        return "map_read", self.slot(), self.one(0, 0, 4096, 65536), self.size(), self.shared()

    def shared(self):
        """A shared mapping of what is open for writing could be made writable."""
        return self.one(True, False) and "map_write" not in NOT_YET

    def gen_map_write(self):
        return "map_write", self.slot(), self.data(), self.one(0, 0, 4096, 65536), self.size()

    def gen_lock(self):
        return ("lock", self.slot(), self.one("posix", "posix", "ofd"), self.one(0, 1, 2),
                self.one(0, 10, 20), self.one(0, 5, 10, 20))
    gen_lock.weight = 3

    def gen_lock_test(self):
        return "lock_test", self.slot(), self.one(0, 1), self.one(0, 10, 20), self.one(0, 5, 10)

    def gen_flock(self):
        return "flock", self.slot(), self.one(1, 2, 8)

    def gen_stat(self):
        return "stat", self.where(), self.one(True, False)
    gen_stat.weight = 4

    def gen_access(self):
        return "access", self.where(), self.rng.randrange(8)

    def gen_list(self):
        return "list", self.directory()
    gen_list.weight = 2

    def gen_seekdir(self):
        return "seekdir", self.directory(), self.rng.randrange(4)

    def gen_stream_open(self):
        return "stream_open", self.directory()

    def gen_stream_read(self):
        return "stream_read", self.one(1, 1, 2, 1000)
    gen_stream_read.weight = 2

    def gen_mkdir(self):
        return "mkdir", self.where(), self.one(0o755, 0o777, 0o777, 0o2777, 0o1777, 0o700)
    gen_mkdir.weight = 4

    def gen_rmdir(self):
        return "rmdir", self.where()

    def gen_unlink(self):
        return "unlink", self.where()
    gen_unlink.weight = 2

    def gen_mknod(self):
        kind = self.one(stat.S_IFIFO, stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK, stat.S_IFCHR,
                        stat.S_IFBLK)
        return "mknod", self.where(), kind | self.mode(), self.one(0, 0x103, 0x12345678)

    def gen_rename(self):
        return "rename", self.where(), self.where(), self.one(0, 0, 0, 1, 2, 3)
    gen_rename.weight = 4

    def gen_link(self):
        return "link", self.where(), self.where(), self.one(True, False)
    gen_link.weight = 2

    def gen_symlink(self):
        target = self.one("f0", "d0", "../f1", "d1/f2", "s0", "t" * 4095, "t" * 4096, "", "d0/s0")
        return "symlink", target, self.where()

    def gen_readlink(self):
        return "readlink", self.where()

    def gen_truncate(self):
        return "truncate", self.path(), self.far()

    def gen_chmod(self):
        return "chmod", self.where(), self.mode()
    gen_chmod.weight = 2

    def gen_chown(self):
        # Not -1, -1, of which the kernel tells the mount nothing: README.
        uid, gid = self.one((self.owner(), 0), (-1, 1001), (1002, self.owner()), (-1, 3000))
        return "chown", self.where(), uid, gid, self.one(True, False)
    gen_chown.weight = 2

    def gen_utimens(self):
        times = (self.rng.choice(TIMES), self.rng.choice(TIMES))
        return "utimens", self.where(), self.one(None, times, times), self.one(True, False)
    gen_utimens.weight = 3

    def gen_set_acl(self):
        """POSIX access control lists: user::, user:UID:, group::, mask::, other::."""
        def entry(tag, permissions, who=0xffffffff):
            return struct.pack("<HHI", tag, permissions, who)
        bits = [self.rng.randrange(8) for _ in range(5)]
        value = struct.pack("<I", 2) + entry(1, bits[0]) + entry(2, bits[1], self.one(1001, 1002)) \
            + entry(4, bits[2]) + entry(0x10, bits[3]) + entry(0x20, bits[4])
        kind = self.one("access", "access", "default")
        return ("setxattr", self.path(), "system.posix_acl_" + kind,
                self.one(value, value, value, value[:-3]), 0, True)
    gen_set_acl.weight = 2

    def xattr(self):
        return self.one("system.posix_acl_access", "system.posix_acl_default", "security.mine",
                        "trusted.a", "user.a", "user.b", "user." + "l" * 250, "user." + "l" * 251,
                        "user.", "a", "nothing.a")

    def gen_setxattr(self):
        value = self.data() * self.one(0, 1, 1, 20)
        return ("setxattr", self.path(), self.xattr(), value, self.one(0, 0, 1, 2),
                self.one(True, False))
    gen_setxattr.weight = 2

    def gen_getxattr(self):
        return "getxattr", self.path(), self.xattr(), self.one(True, False)

    def gen_listxattr(self):
        return "listxattr", self.path(), self.one(True, False)

    def gen_removexattr(self):
        return "removexattr", self.path(), self.xattr(), self.one(True, False)

    def gen_umask(self):
        return "umask", self.one(0o022, 0o022, 0o000, 0o077)


def short(value):
    """Values as a message shows them: bytes by length and what they are."""
    if isinstance(value, bytes) and len(value) > 40:
        return "<%d bytes, crc %08x, %r...>" % (len(value), zlib.crc32(value), value[:16])
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(str(short(v)) for v in value) + ")"
    return repr(value)


class Actor:
    """A process of ours (tests/lib/actor.py)."""

    def __init__(self):
        program = os.path.join(os.path.dirname(leasehold.__file__), "actor.py")
        self.process = subprocess.Popen([sys.executable, "-B", program], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def ask(self, *request):
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()

    def answer(self):
        return pickle.load(self.process.stdout)

    def do(self, *request):
        self.ask(*request)
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait(leasehold.STOP_TIMEOUT_S)


class Stream:
    """What a listing that goes on while names change may and must contain."""

    def __init__(self, names):
        self.always, self.ever, self.seen = set(names), set(names), []
        self.unknown = False  # its process may not look there any more: what came since is unknown

    def changed(self, names):
        self.unknown |= names is None
        names = names or ()
        self.always &= set(names)
        self.ever |= set(names)

    def read(self, names, ended):
        """None, or what is wrong."""
        for name in names:
            if name not in self.ever and not self.unknown:
                return "%r was never there" % name
            if name in self.seen and name in self.always:
                return "%r is listed twice" % name
        self.seen += names
        if ended and not self.always <= set(self.seen):
            return "%r was there all the time and is not listed" % (self.always - set(self.seen))
        return None


class Difference(Exception):
    def __init__(self, step, message):
        super().__init__(message)
        self.step = step


class Known(Exception):
    """A difference that is none to look for; behind it nothing can be compared."""


class Comparison:
    """Runs sequences in fresh directories of the reference and of the hosts."""

    def __init__(self, reference, hosts):
        self.reference, self.hosts = reference, hosts
        self.left = [Actor() for _ in USERS]
        self.right = [Actor() for _ in USERS]
        # Others look at trees: processes lose their locks by closing.
        self.looker = Actor()
        self.lookers = [Actor() for _ in hosts]
        self.runs = self.done = self.succeeded = self.cut = 0
        self.failures = []

    def actors(self):
        return self.left + self.right + [self.looker] + self.lookers

    def close(self):
        for actor in self.actors():
            actor.close()

    def play(self, operations):
        """Raises Difference when there is one."""
        self.runs += 1
        # Two levels, since symlinks may lead to the directory above.
        name = os.path.join("run%d" % self.runs, "root")
        hosts = [h.path for h in self.hosts]
        for top in (self.reference, hosts[0]):
            os.makedirs(os.path.join(top, name))
            os.chmod(os.path.join(top, name), 0o777)
        for i, user in enumerate(USERS):
            self.left[i].do("begin", os.path.join(self.reference, name), *user)
            self.right[i].do("begin", os.path.join(hosts[i % len(hosts)], name), *user)
        self.looker.do("begin", os.path.join(self.reference, name), 0, 0, [])
        for host, looker in zip(hosts, self.lookers):
            looker.do("begin", os.path.join(host, name), 0, 0, [])
        try:
            self.steps(operations)
        except Known:
            self.cut += 1
        finally:
            for actor in self.actors():
                actor.do("end")
            for top in (self.reference, hosts[0]):
                run("rm", "-rf", os.path.join(top, "run%d" % self.runs), check=False)

    def steps(self, operations):
        streams = {}
        trees = TREE_EVERY if len(operations) > TREE_EVERY else 10
        for step, (process, *operation) in enumerate(operations):
            left, right = self.left[process], self.right[process]
            left.ask(*operation)
            right.ask(*operation)
            expected, actual = left.answer(), right.answer()
            self.done += 1
            self.succeeded += expected[0] == "ok"
            what = "step %d: %s by process %d" % (step, operation[0], process)
            if operation[0].startswith("stream_") and expected[0] == actual[0] == "ok":
                self.stream(streams, step, process, operation[0], actual[1])
            elif actual != expected:
                if not self.known(operation, expected, actual):
                    raise Difference(step, "%s%s: got %s, ext4: %s" % (
                        what, short(operation[1:]), short(actual), short(expected)))
                raise Known
            for other, stream in streams.items():
                outcome, names = self.left[other].do("stream_names")
                stream.changed(names if outcome == "ok" else None)
            if step % trees == trees - 1:
                self.compare_trees(step)
        self.compare_trees(len(operations))

    def stream(self, streams, step, process, name, value):
        if name == "stream_open":
            streams[process] = Stream(self.left[process].do("stream_names")[1])
            return
        wrong = streams[process].read(*value)
        if wrong:
            raise Difference(step, "step %d: listing by process %d: %s" % (step, process, wrong))

    def known(self, operation, expected, actual):
        """Differences that README names, or that are to be removed: why this one is no surprise."""
        if actual == ("error", "ESTALE"):
            return "a directory that was removed while it was open"
        if operation[0] == "stream_read" and expected == ("error", "ENOENT"):
            return "such a directory, at its end"
        if operation[0] == "link_descriptor" and expected[0] == actual[0] == "error":
            return "what was removed and is only open with O_PATH is gone"
        if len(self.hosts) == 1:
            return None
        if operation[0] == "copy_range" and actual == ("error", "EINVAL") and \
                expected[0] == "ok" and operation[1] == operation[3]:
            return "and finds that source and destination overlap up to there"
        if operation[0] == "copy_range" and actual[0] == "ok":
            return "the kernel copies up to the size that it heard last"
        if actual == ("error", "EPERM") and expected[0] == "ok" and operation[0] in OF_OWNERS:
            return "the kernel asks the owner that it heard of last"
        if operation[0] == "fstat" and expected[0] == actual[0] == "ok" and not (
                expected[1]["nlink"] or actual[1]["nlink"]) and expected[1]["size"] is None:
            return "a directory that was removed on another host is as it was last seen here"
        return None

    def compare_trees(self, step):
        expected = self.looker.do("tree")
        for host, looker in zip(self.hosts, self.lookers):
            actual = looker.do("tree")
            if actual == expected:
                continue
            if actual[0] != "ok" or expected[0] != "ok":
                raise Difference(step, "step %d: the tree on %s: %r, ext4: %r" % (
                    step, host.name, actual[:80], expected[:80]))
            for path in sorted(set(expected[1]) | set(actual[1])):
                mine, theirs = expected[1].get(path, {}), actual[1].get(path, {})
                for key in sorted(set(mine) | set(theirs)):
                    if mine.get(key) != theirs.get(key):
                        raise Difference(step, "step %d: %s of %s on %s: got %s, ext4: %s" % (
                            step, key, path, host.name, short(theirs.get(key)),
                            short(mine.get(key))))

    def difference(self, operations):
        try:
            self.play(operations)
        except Difference as e:
            return e
        return None

    def shrink(self, operations, found):
        """Fewer operations that still end in a difference: chunks are left out, ever smaller."""
        operations = operations[:found.step + 1]
        size, end = max(1, len(operations) // 2), time.monotonic() + SHRINK_SECONDS
        while size:
            start = 0
            while start < len(operations) and time.monotonic() < end:
                shorter = operations[:start] + operations[start + size:]
                again = self.difference(shorter)
                if again:
                    operations, found = shorter[:again.step + 1], again
                else:
                    start += size
            size //= 2
        return operations, found

    def check(self, operations, title):
        found = self.difference(operations)
        if not found:
            return
        text = "%s: %s" % (title, found)
        print("# %s; cutting it down" % text, flush=True)
        operations, found = self.shrink(operations, found)
        self.failures.append("%s\ncut down: %s\n%s" % (
            text, found, "\n".join(repr(o) for o in operations)))


def mount_image(w):
    """A file system of the kind that the reference is: ext4, where this machine can."""
    image, place = os.path.join(w.path, "image"), os.path.join(w.path, "ext4")
    os.mkdir(place)
    with open(image, "wb") as f:
        f.truncate(1 << 30)
    made = run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", image, check=False)
    done = made.returncode == 0 and run(
        "mount", "-o", "loop,noatime", image, place, check=False).returncode == 0
    if not done:
        raise leasehold.Skip("no ext4 in a loop device here")
    return place


def play_seeds(comparison):
    end = time.monotonic() + SECONDS
    seed = SEED
    while seed < SEED + SEQUENCES or time.monotonic() < end:
        comparison.check(Generator(seed).sequence(STEPS), "seed %d" % seed)
        if len(comparison.failures) == FAILURES:
            return
        seed += 1
    print("# %d sequences (%d ended at a known difference), %d operations, %d successful" % (
        seed - SEED, comparison.cut, comparison.done, comparison.succeeded))
    if comparison.succeeded < comparison.done // 4:
        raise Failure("too much fails: this compares nothing")


def compare(w, *names):
    place = mount_image(w)
    for directory in ("reference", "export"):
        os.mkdir(os.path.join(place, directory))
    origin = w.origin(start=False)
    origin.export = os.path.join(place, "export")
    origin.start()
    comparison = Comparison(os.path.join(place, "reference"), w.hosts(*names))
    try:
        if REPLAY:
            with open(REPLAY) as f:
                operations = [ast.literal_eval(line) for line in f if line.startswith("(")]
            comparison.check(operations, REPLAY)
        else:
            play_seeds(comparison)
        if comparison.failures:
            raise Failure("\n\n".join(comparison.failures))
    finally:
        comparison.close()


def test_one_host_does_what_ext4_does(w):
    compare(w, "a")


def test_two_hosts_do_what_one_ext4_does(w):
    compare(w, "a", "b")


if SECONDS:
    leasehold.TEST_TIMEOUT_S = SECONDS * 2 + 600
leasehold.main(globals())
