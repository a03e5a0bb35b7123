#!/usr/bin/env python3
"""
The origin's machine crashes: at a random moment under load the origin is stopped, the disk that its
export and state are on is copied as it is at that instant (a reflink of the image under its loop
device: what was not written out is lost), the origin is killed, and the next one starts on the copy,
under another boot id. What is checked: everything that was fsynced is there, nothing that was
acknowledged as synced is older, and hosts that had all of it in their caches show what is there.

LEASEHOLD_CRASH_ROUNDS (default 2) says how often on each file system, LEASEHOLD_TEST_SEED when.
Needs loop devices, mkfs.xfs with reflink, and mkfs.ext4; skips without.
"""

import errno
import os
import random
import shutil
import sys
import threading
import time
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Failure, Skip, eventually, expect, is_mounted, read_file, run, write_file

ROUNDS = int(os.environ.get("LEASEHOLD_CRASH_ROUNDS", "2"))
SEED = int(os.environ.get("LEASEHOLD_TEST_SEED", "1"))
LAB_BYTES = 2 << 30
DISK_BYTES = 400 << 20
BLOCK = 4096
BLOCKS = 16
# What a caller may hear whose call was under way when the machine crashed.
UNKNOWN = (errno.EIO, errno.ESTALE)


class Disk:
    """An image on a file system of its own that can be copied in an instant."""

    def __init__(self, world, kind):
        self.lab = os.path.join(world.path, "lab")
        self.path = os.path.join(world.path, "disk")
        self.number = 0
        for tool in ("losetup", "mkfs.xfs", "mkfs." + kind):
            if not shutil.which(tool):
                raise Skip("there is no " + tool)
        if leasehold.LOCAL:
            raise Skip("there is no machine to crash")
        os.makedirs(self.lab)
        os.makedirs(self.path)
        image = os.path.join(world.path, "lab.img")
        with open(image, "wb") as f:
            f.truncate(LAB_BYTES)
        self.attempt("mkfs.xfs", "-q", "-m", "reflink=1", image)
        self.attempt("mount", "-o", "loop", image, self.lab)
        with open(self.image(), "wb") as f:
            f.truncate(DISK_BYTES)
        try:
            run("mkfs." + kind, "-q", self.image())
            self.mount()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def attempt(*command):
        result = run(*command, check=False)
        if result.returncode != 0:
            raise Skip("%s: %s" % (" ".join(command[:2]), result.stderr.strip()))

    def image(self):
        return os.path.join(self.lab, "%d.img" % self.number)

    def mount(self):
        run("mount", "-o", "loop", self.image(), self.path)

    def copy(self):
        """As the disk is now; mounted by swap()."""
        run("cp", "--reflink=always", self.image(),
            os.path.join(self.lab, "%d.img" % (self.number + 1)))

    def swap(self):
        eventually(lambda: run("umount", self.path, check=False).returncode == 0, "umount")
        # The kernel takes apart what the origin's mount namespace held a moment after it has died,
        # and XFS mounts no copy of what is still mounted.
        eventually(lambda: not run("losetup", "-j", self.image()).stdout.strip(),
                   "the kernel lets go of the disk")
        os.unlink(self.image())
        self.number += 1
        self.mount()

    def close(self):
        for path in (self.path, self.lab):
            if is_mounted(path) and run("umount", path, check=False).returncode != 0:
                run("umount", "-l", path, check=False)


class Machine(leasehold.Origin):
    """An origin whose machine has a boot id of its own."""

    def __init__(self, world, disk, options):
        super().__init__(world, "origin", options)
        self.disk = disk
        self.export = os.path.join(disk.path, "export")
        self.state = os.path.join(disk.path, "state")
        self.boot_id = os.path.join(world.path, "boot_id")
        os.makedirs(self.export)
        write_file(self.boot_id, b"first\n")

    def spawn(self, command, stdout=None):
        # Its namespace has copies of all mounts: those of other tests would outlive their umount.
        script = ('umount -a -i -l -t fuse.leasehold; '
                  'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"')
        super().spawn(["unshare", "-m", "sh", "-c", script, self.boot_id] + command, stdout)

    def crash(self):
        """The disk is as it was when the origin gave its last answer, less what it had not got."""
        self.signal(leasehold.signal.SIGSTOP)
        self.disk.copy()
        self.kill()
        self.disk.swap()
        write_file(self.boot_id, b"%s\n" % str(uuid.uuid4()).encode())


class Writer(threading.Thread):
    """
    Writes blocks of one file and makes others in turn, and remembers what it tried and what was
    synced. An error of the crash leaves it not knowing, and it goes on.
    """

    def __init__(self, host, number):
        super().__init__(name="%s %d" % (host.name, number))
        self.top = host / ("%s-%d" % (host.name, number))
        self.rng = random.Random("%d %s" % (SEED, self.name))
        self.ended = threading.Event()
        self.failure = None
        self.tried = [0] * BLOCKS   # the highest version that each block may have
        self.synced = [0] * BLOCKS  # the lowest that it must have
        self.names = set()          # made, and synced with their directory
        self.number = 0
        self.told = 0               # errors of the crash

    def prepare(self):
        os.mkdir(self.top)
        write_file(os.path.join(self.top, "blocks"), self.block(0) * BLOCKS)
        self.sync(os.path.join(self.top, "blocks"))
        self.sync(self.top)
        self.sync(os.path.dirname(self.top))

    @staticmethod
    def sync(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    def block(version):
        return (b"%015d\n" % version) * (BLOCK // 16)

    def run(self):
        while not self.ended.is_set():
            try:
                self.step()
            except OSError as e:
                if e.errno not in UNKNOWN:
                    self.failure = repr(e)
                    return
                self.told += 1
            except Exception as e:  # said by the test's own thread
                self.failure = repr(e)
                return

    def step(self):
        if self.rng.random() < 0.1:
            self.make()
        else:
            self.write()

    def write(self):
        fd = os.open(os.path.join(self.top, "blocks"), os.O_RDWR)
        written = {}
        try:
            for _ in range(self.rng.randrange(1, 6)):
                index = self.rng.randrange(BLOCKS)
                self.tried[index] += 1
                version = self.tried[index]
                written.pop(index, None)
                os.pwrite(fd, self.block(version), index * BLOCK)
                written[index] = version
            if self.rng.random() < 0.5:
                os.fsync(fd)
                for index, version in written.items():
                    self.synced[index] = version
        finally:
            os.close(fd)

    def make(self):
        self.number += 1
        name = "n%d" % self.number
        path = os.path.join(self.top, name)
        try:
            write_file(path + ".new", name.encode())
            self.sync(path + ".new")
            os.rename(path + ".new", path)
        except FileNotFoundError:
            self.told += 1  # its name was not synced when the machine crashed
            return
        self.sync(self.top)
        self.names.add(name)

    def check(self, top):
        """`top`: where the same tree is in the export."""
        for name in sorted(self.names):
            try:
                expect(read_file(os.path.join(top, name)), name.encode(), name)
            except FileNotFoundError:
                raise Failure("%s was synced, and is gone" % name) from None
        data = read_file(os.path.join(top, "blocks"))
        for index in range(BLOCKS):
            block = data[index * BLOCK:(index + 1) * BLOCK]
            version = int(block[:15])
            expect(block, self.block(version), "block %d" % index)
            if not self.synced[index] <= version <= self.tried[index]:
                raise Failure("%s: block %d is at %d; %d was synced, %d the last written" % (
                    self.name, index, version, self.synced[index], self.tried[index]))
            # Nobody may see an older one from here on.
            self.tried[index] = max(self.tried[index], version)

    def again(self, host):
        """The next round's."""
        next_one = Writer(host, 0)
        for name in ("name", "top", "rng", "tried", "synced", "names", "number"):
            setattr(next_one, name, getattr(self, name))
        return next_one


def same_tree(path, other):
    expect(sorted(os.listdir(path)), sorted(os.listdir(other)), "names of " + path)
    for name in os.listdir(path):
        one, two = os.path.join(path, name), os.path.join(other, name)
        if os.path.isdir(one):
            same_tree(one, two)
        else:
            expect(read_file(one), read_file(two), one)
            expect(os.stat(one).st_size, os.stat(two).st_size, "size of " + one)


def read_everything(path):
    for top, directories, names in os.walk(path):
        for name in names:
            try:
                read_file(os.path.join(top, name))
            except FileNotFoundError:
                pass  # renamed since


def round_of(machine, hosts, writers, rng):
    for writer in writers:
        writer.start()
    eventually(lambda: all(w.failure or w.number > 0 for w in writers), "the load runs")
    for host in hosts:
        read_everything(host.path)
    time.sleep(rng.random())  # a moment like any other
    machine.crash()
    for writer in writers:
        writer.ended.set()
    machine.start()
    for writer in writers:
        writer.join(200)
        if writer.is_alive() or writer.failure:
            raise Failure("%s: %s" % (writer.name, writer.failure or "does not come back"))
    visible = [name for name in os.listdir(machine.export) if name != ".leasehold"]
    expect(sorted(visible), sorted(os.path.basename(w.top) for w in writers), "what is there")
    for writer in writers:
        inside = os.path.join(machine.export, os.path.basename(writer.top))
        writer.check(inside)
        for host in hosts:
            same_tree(inside, host / os.path.basename(writer.top))


def is_settled(machine):
    """The change table says on disk that nothing is to be lost."""
    with open(os.path.join(machine.state, "changes"), "rb") as f:
        return f.read(68)[64] == 2


def idle_crash(machine, hosts, writers):
    """Nothing was modified for a while: nothing is lost, and what is cached stays good."""
    eventually(lambda: is_settled(machine), "the origin has synced everything")
    known = machine.log().count(b"new_incarnation")
    for host in hosts:
        read_everything(host.path)
    machine.crash()
    machine.start()
    for writer in writers:
        inside = os.path.join(machine.export, os.path.basename(writer.top))
        writer.check(inside)
        for host in hosts:
            same_tree(inside, host / os.path.basename(writer.top))
    expect(machine.log().count(b"new_incarnation"), known, "new incarnations")
    write_file(hosts[0] / "last", b"x")
    expect(read_file(hosts[1] / "last"), b"x")


def crashes_on(w, kind):
    w.allow_log("")
    disk = Disk(w, kind)
    hosts = []
    try:
        machine = Machine(w, disk, ["--lease-term", "5s"])
        w.main_origin = machine
        machine.start()
        hosts += w.hosts("a", "b")
        rng = random.Random(SEED)
        writers = [Writer(host, number) for host in hosts for number in range(2)]
        for writer in writers:
            writer.prepare()
        for _ in range(ROUNDS):
            round_of(machine, hosts, writers, rng)
            writers = [writer.again(hosts[0]) for writer in writers]
        idle_crash(machine, hosts, writers)
    finally:
        for host in hosts:
            host.crash()
        for daemon in w.daemons:
            daemon.kill()
        disk.close()


def durable_writes(path):
    """What is written through O_SYNC and O_DSYNC, without fsync; what must be there after a crash."""
    expected = {}
    for flag in (os.O_SYNC, os.O_DSYNC):
        name = "sync%x" % flag
        fd = os.open(os.path.join(path, name), os.O_RDWR | os.O_CREAT | flag, 0o644)
        os.write(fd, b"a" * BLOCK)
        os.pwrite(fd, b"b" * BLOCK, BLOCK)
        os.posix_fallocate(fd, 2 * BLOCK, BLOCK)
        source = os.open(os.path.join(path, name), os.O_RDONLY)
        os.copy_file_range(source, fd, BLOCK, 0, 3 * BLOCK)
        os.close(source)
        os.close(fd)
        expected[name] = b"a" * BLOCK + b"b" * BLOCK + bytes(BLOCK) + b"a" * BLOCK
    name = "flags"
    fd = os.open(os.path.join(path, name), os.O_RDWR | os.O_CREAT, 0o644)
    os.fsync(fd)
    os.pwritev(fd, [b"c" * BLOCK], 0, os.RWF_DSYNC)
    os.pwritev(fd, [b"d" * BLOCK], BLOCK, os.RWF_SYNC)
    os.close(fd)
    expected[name] = b"c" * BLOCK + b"d" * BLOCK
    return expected


def test_what_was_written_synchronously_survives_the_machine(w):
    w.allow_log("")
    disk = Disk(w, "ext4")
    hosts = []
    try:
        machine = Machine(w, disk, ["--lease-term", "5s"])
        w.main_origin = machine
        machine.start()
        hosts.append(w.host("a"))
        os.mkdir(hosts[0] / "d")
        Writer.sync(hosts[0] / "d")
        Writer.sync(hosts[0].path)
        # No fsync from here on: a journal that is committed for it would take the rest along.
        expected = durable_writes(hosts[0] / "d")
        machine.crash()
        machine.start()
        for name, data in expected.items():
            expect(read_file(os.path.join(machine.export, "d", name)), data, name)
            expect(read_file(hosts[0] / ("d/" + name)), data, name)
    finally:
        for host in hosts:
            host.crash()
        for daemon in w.daemons:
            daemon.kill()
        disk.close()


def test_what_was_synced_survives_the_machine_on_xfs(w):
    crashes_on(w, "xfs")


def test_what_was_synced_survives_the_machine_on_ext4(w):
    crashes_on(w, "ext4")


leasehold.main(globals())
