#!/usr/bin/env python3
"""
A store that is full: what is removed makes room at once, errors are those of the file system, and
what was written in part is there. The export is an ext4 of its own in a loop device; skips without.
"""

import errno
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (Skip, eventually, expect, expect_errno, is_mounted, pattern, read_file, run,
                       write_file)

DISK_BYTES = 24 << 20
ROUNDS = 20


def on_a_small_disk(w, test):
    if leasehold.LOCAL:
        raise Skip("the exported directory would be on a large disk")
    for tool in ("losetup", "mkfs.ext4"):
        if not shutil.which(tool):
            raise Skip("there is no " + tool)
    disk, image = os.path.join(w.path, "disk"), os.path.join(w.path, "disk.img")
    os.makedirs(disk)
    with open(image, "wb") as f:
        f.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-m", "0", image)
    result = run("mount", "-o", "loop", image, disk, check=False)
    if result.returncode != 0:
        raise Skip("mount -o loop: " + result.stderr.strip())
    host = None
    try:
        origin = w.origin(start=False)
        origin.export = os.path.join(disk, "export")
        os.makedirs(origin.export)
        origin.start()
        host = w.host("a")
        test(host)
        host.unmount()
        host = None
        origin.stop()
    finally:
        if host:
            host.crash()
        for daemon in w.daemons:
            daemon.kill()
        if is_mounted(disk) and run("umount", disk, check=False).returncode != 0:
            run("umount", "-l", disk, check=False)


def fill(path):
    """Writes until there is no room; how much went in."""
    done = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                done += os.pwrite(fd, pattern(300000, done // 1000), done)
            except OSError as e:
                expect(e.errno, errno.ENOSPC, "error of a write to a full disk")
                break
    finally:
        os.close(fd)
    expect(os.stat(path).st_size, done, "size of what filled the disk")
    return done


def test_what_is_removed_makes_room_at_once(w):
    def test(host):
        first = fill(host / "big")
        write_file(host / "empty", b"")
        private = os.path.join(host.origin.export, ".leasehold")
        for number in range(ROUNDS):
            os.unlink(host / "big")
            # The kernel tells of a close after it has returned: to the origin it may be open still.
            late = bool(os.listdir(private))
            fd = os.open(host / "big", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            # All of it in one piece: a write that finds less room than there was is a short one.
            allocate(fd, first - (1 << 20), late)
            os.pwrite(fd, pattern(8192, number), first - (2 << 20))
            expect(os.pread(fd, 8192, first - (2 << 20)), pattern(8192, number), "what was written")
            os.close(fd)
            fill(host / "rest")
            expect_errno(errno.ENOSPC, fill_one, host / "empty")
            os.unlink(host / "rest")
    on_a_small_disk(w, test)


def test_what_is_replaced_makes_room_at_once(w):
    """What a rename replaces can be opened for a moment yet; not if that costs somebody the room."""
    def test(host):
        space = os.statvfs(host.path)
        data = pattern(space.f_bavail * space.f_frsize * 6 // 10)
        for number in range(ROUNDS // 4):
            # Made there, so that no close of it is on its way.
            write_file(os.path.join(host.origin.export, "big"), data)
            eventually(lambda: os.path.exists(host / "big"), "it is seen")
            write_file(host / "new", b"")
            os.rename(host / "new", host / "big")
            fd = os.open(host / "other", os.O_WRONLY | os.O_CREAT, 0o644)
            expect(os.pwrite(fd, data, 0), len(data), "bytes written in round %d" % number)
            os.close(fd)
            expect(read_file(host / "other"), data, "what was written")
            os.unlink(host / "other")
            os.unlink(host / "big")
            eventually(lambda: os.statvfs(host.path).f_bavail >= space.f_bavail * 9 // 10,
                       "there is room again")
    on_a_small_disk(w, test)


def allocate(fd, size, late):
    def done():
        try:
            os.posix_fallocate(fd, 0, size)
            return True
        except OSError as e:
            if e.errno != errno.ENOSPC or not late:
                raise
            return False
    eventually(done, "there is room")


def fill_one(path):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, bytes(1 << 20), 0)
        raise OSError(errno.ENOSPC, "it was a short write")
    finally:
        os.close(fd)


def test_a_write_in_part_is_there_in_part(w):
    def test(host):
        fd = os.open(host / "rest", os.O_WRONLY | os.O_CREAT, 0o644)
        space = os.statvfs(host.path)
        os.posix_fallocate(fd, 0, space.f_bavail * space.f_frsize - (1 << 20))
        data = pattern(8 << 20, 3)
        whole = os.open(host / "part", os.O_WRONLY | os.O_CREAT, 0o644)
        count = os.pwrite(whole, data, 0)
        if not 0 < count < len(data):
            raise leasehold.Failure("%d of %d bytes went to a full disk" % (count, len(data)))
        expect_errno(errno.ENOSPC, os.pwrite, whole, data[count:], count)
        expect(read_file(host / "part"), data[:count], "what was written in part")
        os.close(whole)
        os.close(fd)
        os.unlink(host / "rest")
        write_file(host / "part", data)
        expect(read_file(host / "part"), data, "with room again")
    on_a_small_disk(w, test)


leasehold.main(globals())
