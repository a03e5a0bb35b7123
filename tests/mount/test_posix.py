#!/usr/bin/env python3
"""
What POSIX and Linux say of a file system beyond reading and writing, on two hosts: what one does,
the other sees at once, with the result that a local file system gives.
"""

import ctypes
import errno
import mmap
import os
import stat
import struct
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (RENAME_EXCHANGE, RENAME_NOREPLACE, Skip, expect, expect_errno, pattern, peek,
                       read_file, rename2, write_file)

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
AT_FDCWD, AT_SYMLINK_FOLLOW = -100, 0x400
CLOCK_REALTIME_COARSE = 5
USER = 1000
OTHER = 1001
ACL_ACCESS = "system.posix_acl_access"
ACL_DEFAULT = "system.posix_acl_default"
USER_OBJ, NAMED_USER, GROUP_OBJ, MASK, OTHERS = 1, 2, 4, 16, 32


def hosts(w):
    os.chmod(w.path, 0o755)  # other users get to the mounts
    return w.hosts("a", "b")


_libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


def fallocate(fd, mode, offset, length):
    call("fallocate", fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))


def acl(*entries):
    """(tag, permissions, id) each, as the kernel wants it in the attribute."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, 0xffffffff if who is None else who)
        for tag, bits, who in entries)


def start_as_user(uid, function, *arguments):
    """Begins function(...) in a process of that user; what it returns is for result_of()."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            text = repr(function(*arguments))
        except OSError as e:
            text = errno.errorcode.get(e.errno, str(e.errno))
        except BaseException as e:  # the parent compares it, and says so
            text = repr(e)
        os.write(write_end, text.encode())
        os._exit(0)
    os.close(write_end)
    return child, read_end


def result_of(started):
    child, read_end = started
    with open(read_end, "rb") as f:
        text = f.read().decode()
    os.waitpid(child, 0)
    return text


def as_user(uid, function, *arguments):
    """What function(...) returns when that user calls it: its value, or the name of its errno."""
    return result_of(start_as_user(uid, function, *arguments))


def make_and_remove(path, uid, rounds):
    """How often an open that may make the file gave a file of somebody else."""
    others = 0
    for _ in range(rounds):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            others += os.fstat(fd).st_uid != uid
            os.close(fd)
        except OSError as e:
            # ESTALE: README, differences from ext4.
            if e.errno not in (errno.EACCES, errno.ENOENT, errno.ESTALE):
                raise
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    return others


def make_and_use(path, mode):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    os.write(fd, b"own")
    data = os.pread(fd, 3, 0)
    os.close(fd)
    os.unlink(path)
    return data


def test_who_makes_a_file_does_not_open_that_of_another(w):
    """The kernel looks for the name, and makes the file a moment later: meanwhile others did."""
    a, b = hosts(w)
    os.mkdir(a / "d")
    os.chmod(a / "d", 0o777)
    users = [(h, uid) for uid in (USER, OTHER) for h in (a, b)]
    started = [start_as_user(uid, make_and_remove, h / "d/f", uid, 100) for h, uid in users]
    expect([result_of(s) for s in started], ["0"] * len(users), "files of others that were opened")
    # Who makes it may use it, whatever its mode says.
    for mode in (0, 0o444):
        expect(as_user(USER, make_and_use, a / "d/own", mode), "b'own'", oct(mode))


OWNERS_MAY = {
    "chmod": lambda path: os.chmod(path, 0o640),
    "utime": lambda path: os.utime(path, (1, 2)),
    "truncate": lambda path: os.truncate(path, 3),
    "setxattr": lambda path: os.setxattr(path, "user.x", b"1"),
    "acl": lambda path: os.setxattr(path, ACL_ACCESS, acl(
        (USER_OBJ, 6, None), (GROUP_OBJ, 4, None), (OTHERS, 4, None))),
    "chgrp": lambda path: os.chown(path, -1, USER),
    "noatime": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_NOATIME)),
    "rename": lambda path: os.rename(path, path + ".new"),
    "unlink": os.unlink,
}


def test_what_an_owner_may_is_his_on_every_host_at_once(w):
    """The kernel checks it against the owner that it heard last."""
    a, b = hosts(w)
    os.mkdir(a / "d")
    os.chmod(a / "d", 0o1777)
    cases = [(what, before, after) for what in OWNERS_MAY
             for before, after in ((OTHER, USER), (USER, OTHER))]
    for what, before, after in cases:
        path = a / ("d/%s%d" % (what, after))
        write_file(path, b"bytes")
        os.chmod(path, 0o644)
        os.chown(path, before, USER)
    os.listdir(b / "d")
    for what, before, after in cases:
        name, may = "d/%s%d" % (what, after), after == USER
        fd = os.open(b / name, os.O_RDONLY)
        expect(os.stat(b / name).st_uid, before, "owner")
        os.chown(a / name, after, USER)
        result = as_user(USER, OWNERS_MAY[what], b / name)
        expect(result if may else result in ("EPERM", "EACCES"), "None" if may else True,
               "%s by %s: %s" % (what, "its owner" if may else "its former owner", result))
        os.close(fd)


def test_a_directory_that_is_removed_while_it_is_open_has_no_links(w):
    a, b = hosts(w)
    for there, replaced in ((a, False), (a, True), (b, False), (b, True)):
        os.mkdir(a / "d", 0o751)
        fds = [os.open(h / "d", os.O_RDONLY | os.O_DIRECTORY) for h in (a, b)]
        before = [os.fstat(fd) for fd in fds]
        leasehold.eventually(lambda: time.clock_gettime_ns(CLOCK_REALTIME_COARSE) >
                             before[0].st_ctime_ns, "the clock that files have goes on")
        if replaced:
            os.mkdir(there / "new")
            os.rename(there / "new", there / "d")
        else:
            os.rmdir(there / "d")
        for fd, was in zip(fds, before):
            now = os.fstat(fd)
            expect((now.st_nlink, now.st_mode, now.st_ino), (0, was.st_mode, was.st_ino), "d")
            expect(now.st_ctime_ns > was.st_ctime_ns, True, "its ctime moved")
            expect(os.fstat(fd).st_ctime_ns, now.st_ctime_ns, "once")
            expect(os.listdir(fd), [], "what is in it")
            os.close(fd)
        if replaced:
            os.rmdir(a / "d")


def run_as_id(program):
    """As whom it runs, for the user that calls this; `program` is a copy of id(1) or a descriptor."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write_end, 1)
        os.execve(program, ["id", "-u"], {})
    os.close(write_end)
    with open(read_end, "rb") as f:
        text = f.read().decode().strip()
    os.waitpid(child, 0)
    return int(text)


def change_the_end(path, how):
    size = os.stat(path).st_size
    if how == "truncate":
        os.truncate(path, size + 1)
        return
    fd = os.open(path, os.O_RDWR | (os.O_APPEND if how == "append" else 0))
    if how == "store":
        with mmap.mmap(fd, size) as m:
            m[size - 1:size] = b"x"
            m.flush()
    else:
        os.write(fd, b"x")
    os.close(fd)


def test_a_change_by_others_takes_the_rights_of_a_program_at_once(w):
    a, b = hosts(w)
    # A store through a mapping takes them here when it is written back; on ext4 it never does.
    ways = ("append", "truncate") if leasehold.LOCAL else ("append", "truncate", "store")
    program = read_file("/usr/bin/id")
    for writer, how in ((writer, how) for writer in (a, b) for how in ways):
        write_file(a / "id", program)
        os.chown(a / "id", OTHER, OTHER)
        os.setxattr(a / "id", "security.capability", struct.pack(
            "<IIIII", 0x02000001, 1 << 10, 0, 0, 0))
        os.chmod(a / "id", 0o4777)
        fds = [os.open(h / "id", os.O_RDONLY) for h in (a, b)]
        for path in (a / "id", b / "id", *fds):
            expect(as_user(USER, run_as_id, path), str(OTHER), "its owner's rights")
        expect(as_user(USER, change_the_end, writer / "id", how), "None", how)
        for fd in fds:
            if how == "store":  # the kernel hears of it right after what is written back
                leasehold.eventually(lambda fd=fd: as_user(USER, run_as_id, fd) == str(USER),
                                     "what was stored to is run as its user")
            expect(as_user(USER, run_as_id, fd), str(USER), "%s on %s, descriptor" % (
                how, writer.name))
            os.close(fd)
        for h in (a, b):
            expect(as_user(USER, run_as_id, h / "id"), str(USER), "%s on %s, seen by %s" % (
                how, writer.name, h.name))
            expect(os.stat(h / "id").st_mode & 0o7777, 0o777, how)
            expect_errno(errno.ENODATA, os.getxattr, h / "id", "security.capability")


def set_acl(path, name, value):
    try:
        os.setxattr(path, name, value)
    except OSError as e:
        if e.errno == errno.EOPNOTSUPP:
            raise Skip("the file system under %s has no access control lists" % path) from e
        raise


def test_access_control_lists_count_on_every_host_at_once(w):
    a, b = hosts(w)
    write_file(a / "f", b"secret")
    os.chmod(a / "f", 0o640)
    only_mode = acl((USER_OBJ, 6, None), (GROUP_OBJ, 4, None), (OTHERS, 0, None))
    with_user = acl((USER_OBJ, 6, None), (NAMED_USER, 4, USER), (GROUP_OBJ, 0, None),
                    (MASK, 4, None), (OTHERS, 0, None))
    for round in range(10):
        expect(as_user(USER, read_file, b / "f"), "EACCES", "without a list, round %d" % round)
        set_acl(a / "f", ACL_ACCESS, with_user)
        expect(as_user(USER, read_file, b / "f"), "b'secret'", "listed, round %d" % round)
        expect(as_user(USER, read_file, a / "f"), "b'secret'", "on the host that did it")
        expect(as_user(OTHER, read_file, b / "f"), "EACCES", "somebody else")
        expect(os.getxattr(b / "f", ACL_ACCESS), with_user, "the list")
        expect(stat.S_IMODE(os.stat(b / "f").st_mode), 0o640, "the mask in the mode")
        os.chmod(b / "f", 0o600)  # empties the mask
        expect(as_user(USER, read_file, a / "f"), "EACCES", "masked, round %d" % round)
        set_acl(b / "f", ACL_ACCESS, only_mode)
        expect_errno(errno.ENODATA, os.getxattr, a / "f", ACL_ACCESS)
        a, b = b, a


def test_default_lists_and_umasks_decide_what_new_files_may(w):
    a, b = hosts(w)
    os.mkdir(a / "plain", 0o755)
    os.mkdir(a / "listed", 0o755)
    set_acl(a / "listed", ACL_DEFAULT, acl((USER_OBJ, 7, None), (NAMED_USER, 7, USER),
                                           (GROUP_OBJ, 5, None), (MASK, 7, None),
                                           (OTHERS, 0, None)))
    before = os.umask(0o077)
    try:
        for directory, modes in (("plain", (0o600, 0o700, 0o600)),
                                 ("listed", (0o660, 0o770, 0o660))):
            os.close(os.open(b / (directory + "/f"), os.O_CREAT | os.O_WRONLY, 0o666))
            os.mkdir(b / (directory + "/d"), 0o777)
            os.mkfifo(b / (directory + "/p"), 0o666)
            for host in (a, b):
                expect(tuple(stat.S_IMODE(os.stat(host / (directory + "/" + name)).st_mode)
                             for name in "fdp"), modes, directory)
    finally:
        os.umask(before)
    expect(len(os.getxattr(a / "listed/d", ACL_DEFAULT)) > 4, True, "inherited by directories")
    expect(as_user(USER, lambda: os.open(a / "listed/f", os.O_WRONLY) > 0), "True", "may write")


def test_privileges_of_a_file_go_when_it_is_changed(w):
    a, b = hosts(w)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")

    def write(path):
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, b"x")

    for change in (write, lambda path: os.truncate(path, 1),
                   lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))):
        for mode, left in ((0o6777, 0o777), (0o2767, 0o767)):
            write_file(a / "f", b"program")
            os.setxattr(a / "f", "security.capability", capability)
            os.chmod(a / "f", mode)
            expect(stat.S_IMODE(os.stat(b / "f").st_mode), mode, "before")
            expect(as_user(USER, change, b / "f"), "None", "changed by somebody else")
            expect(stat.S_IMODE(os.stat(a / "f").st_mode), left, "afterwards")
            expect_errno(errno.ENODATA, os.getxattr, a / "f", "security.capability")
            os.unlink(a / "f")


def test_space_changes_on_one_host_and_is_seen_on_the_other(w):
    a, b = hosts(w)
    data = bytearray(pattern(1 << 20))
    write_file(a / "f", bytes(data))
    fd = os.open(a / "f", os.O_RDWR)
    reader = os.open(b / "f", os.O_RDONLY)
    with mmap.mmap(reader, 0, prot=mmap.PROT_READ) as m:
        expect(peek(m), bytes(data), "before")
        for mode, offset, length in ((PUNCH_HOLE | KEEP_SIZE, 65536, 262144),
                                     (ZERO_RANGE, 500000, 12345),
                                     (ZERO_RANGE | KEEP_SIZE, 1 << 20, 4096),
                                     (KEEP_SIZE, 2 << 20, 4096)):
            try:
                fallocate(fd, mode, offset, length)
            except OSError as e:
                expect(e.errno, errno.EOPNOTSUPP, "fallocate %d" % mode)
                continue
            if not mode & KEEP_SIZE or offset < len(data):
                data[offset:offset + length] = bytes(min(length, len(data) - offset))
            for host in (a, b):
                expect(read_file(host / "f"), bytes(data), "after fallocate %d" % mode)
                expect(os.stat(host / "f").st_size, len(data), "size after fallocate %d" % mode)
            expect(peek(m), bytes(data), "mapped, after fallocate %d" % mode)
    fallocate(fd, 0, 0, 3 << 20)
    expect(os.stat(b / "f").st_size, 3 << 20, "extended")
    expect(os.pread(reader, 4096, (3 << 20) - 4096), bytes(4096), "allocated")
    expect(os.stat(b / "f").st_blocks * 512 >= (3 << 20) - 262144, True, "blocks")
    expect_errno(errno.EBADF, fallocate, reader, 0, 0, 4096)
    expect_errno(errno.EOPNOTSUPP, fallocate, fd, 8, 0, 4096)  # FALLOC_FL_COLLAPSE_RANGE
    os.close(fd)
    os.close(reader)


def test_holes_are_found(w):
    a, b = hosts(w)
    fd = os.open(a / "f", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 8 << 40)
    os.pwrite(fd, b"data", 1 << 40)
    reader = os.open(b / "f", os.O_RDONLY)
    at = os.lseek(reader, 0, os.SEEK_DATA)
    expect(0 < at <= 1 << 40, True, "data at %d" % at)
    expect(os.lseek(reader, 0, os.SEEK_HOLE), 0, "the hole before it")
    expect(1 << 40 < os.lseek(reader, 1 << 40, os.SEEK_HOLE) < 2 << 40, True, "the hole behind it")
    expect_errno(errno.ENXIO, os.lseek, reader, 2 << 40, os.SEEK_DATA)
    expect_errno(errno.ENXIO, os.lseek, reader, 8 << 40, os.SEEK_HOLE)
    os.pwrite(fd, b"more", 3 << 40)
    expect(2 << 40 < os.lseek(reader, 2 << 40, os.SEEK_DATA) <= 3 << 40, True, "written elsewhere")
    expect(os.pread(reader, 8, (3 << 40) - 2), b"\0\0more\0\0", "bytes around")
    os.close(fd)
    os.close(reader)


def test_holes_are_neither_sent_nor_stored(w):
    a, b = hosts(w)
    expected = {0: bytes(1 << 20), (40 << 20) - 100: bytes(100) + b"data" + bytes(1000),
                (64 << 20) - 10: bytes(6) + b"tail"}
    fd = os.open(a / "f", os.O_CREAT | os.O_WRONLY)
    os.ftruncate(fd, 64 << 20)
    os.pwrite(fd, b"data", 40 << 20)
    os.pwrite(fd, b"tail", (64 << 20) - 4)
    os.close(fd)
    if os.stat(w.main_origin.path_of("f")).st_blocks * 512 > 1 << 20:
        raise Skip("the file system of the origin makes no holes")
    for round in range(2):
        data = read_file(b / "f")
        expect(len(data), 64 << 20, "length")
        expect(data.count(0), (64 << 20) - 8, "zeros")
        for offset, piece in expected.items():
            expect(data[offset:offset + len(piece)], piece, "at %d, round %d" % (offset, round))
        with open(b / "f", "rb", buffering=0) as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    expect(b.status()["counters"]["fetched_bytes"] < 4 << 20, True, "bytes fetched")
    stored = sum(os.stat(os.path.join(path, name)).st_blocks * 512
                 for path, _, names in os.walk(b.cache) for name in names)
    expect(stored < 4 << 20, True, "bytes in the cache: %d" % stored)
    # A hole that is filled elsewhere is no hole any more.
    with open(a / "f", "r+b", buffering=0) as f:
        f.seek(10 << 20)
        f.write(b"filled")
    with open(b / "f", "rb", buffering=0) as f:
        expect(os.pread(f.fileno(), 8, (10 << 20) - 1), b"\0filled\0", "filled")


class Dirent(ctypes.Structure):
    _fields_ = [("inode", ctypes.c_uint64), ("offset", ctypes.c_int64),
                ("length", ctypes.c_uint16), ("type", ctypes.c_uint8), ("name", ctypes.c_char * 256)]


def test_a_position_in_a_directory_stays_right_while_names_change(w):
    a, b = hosts(w)
    _libc.opendir.restype = ctypes.c_void_p
    _libc.readdir.restype = ctypes.POINTER(Dirent)
    _libc.telldir.restype = ctypes.c_long
    os.mkdir(a / "d")
    stays = {"stays-%04d" % i for i in range(3000)}
    for name in stays:
        os.mknod(w.main_origin.path_of("d", name))
    directory = ctypes.c_void_p(_libc.opendir(os.fsencode(b / "d")))

    def read(count=None):
        names = []
        while count is None or len(names) < count:
            entry = _libc.readdir(directory)
            if not entry:
                break
            expect(entry.contents.type in (4, 8), True, "d_type")  # DT_DIR, DT_REG
            names.append(entry.contents.name.decode())
        return names

    def change():
        for i in range(200):
            write_file(a / "d/comes-%d" % i, b"")
            if i % 2:
                os.unlink(a / "d/comes-%d" % i)

    first = read(1000)
    position = _libc.telldir(directory)
    thread = threading.Thread(target=change)
    thread.start()
    rest = read()
    thread.join()
    expect(len(set(first + rest)), len(first + rest), "no name twice")
    expect(stays - set(first + rest), set(), "what was there all the time")
    for _ in range(2):
        _libc.seekdir(directory, ctypes.c_long(position))
        expect([name for name in read() if name in stays],
               [name for name in rest if name in stays], "from the position again")
        change()
    _libc.rewinddir(directory)
    expect({name for name in read() if name[0] != "."}, set(os.listdir(a / "d")), "from the start")
    _libc.closedir(directory)


def test_a_directory_that_is_removed_while_open_is_empty(w):
    a, b = hosts(w)
    for remover in (a, b):
        os.mkdir(a / "d")
        fd = os.open(b / "d", os.O_RDONLY)
        expect(os.listdir(fd), [], "before")
        os.rmdir(remover / "d")
        expect(os.listdir(fd), [], "removed")
        expect(os.fstat(fd).st_nlink, 0, "links")
        expect_errno((errno.ENOENT, errno.ESTALE), os.open, "f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.close(fd)


def test_copies_are_made_at_the_origin(w):
    a, b = hosts(w)
    data = pattern(5 << 20)
    write_file(a / "from", data)
    write_file(a / "to", b"old" * 1000)
    expect(read_file(b / "to"), b"old" * 1000, "cached on the other host")
    before = a.status()["counters"]
    source, target = os.open(a / "from", os.O_RDONLY), os.open(a / "to", os.O_RDWR)
    done = 0
    while done < len(data):
        count = os.copy_file_range(source, target, len(data) - done, done, done)
        expect(count > 0, True, "copied something at %d" % done)
        done += count
    after = a.status()["counters"]
    expect(read_file(b / "to"), data, "copied, on the other host")
    expect(read_file(a / "to"), data, "copied")
    for counter in ("read_bytes", "written_bytes"):
        expect(after[counter], before[counter], counter + " of the host")
    expect(os.copy_file_range(source, target, 100, len(data), 0), 0, "from the end")
    expect_errno(errno.EINVAL, os.copy_file_range, target, target, 100, 0, 50)
    expect(os.copy_file_range(target, target, 100, 0, 200), 100, "within a file")
    expect(os.pread(target, 100, 200), data[:100], "within a file")
    expect(read_file(b / "to")[200:300], data[:100], "within a file, on the other host")
    os.close(source)
    os.close(target)


def test_a_copy_has_what_another_host_stored_through_a_mapping(w):
    a, b = hosts(w)
    write_file(a / "from", b"old." * 4096)
    write_file(b / "to", b"")
    with open(a / "from", "r+b") as f:
        try:
            m = mmap.mmap(f.fileno(), 0)
        except OSError as e:
            expect(e.errno, errno.ENODEV, "mmap")
            raise Skip("no shared writable mappings on this kernel") from e
        with m:
            for round in range(5):
                stored = b"%03d." % round
                m[4096:4100] = stored
                source, target = os.open(b / "from", os.O_RDONLY), os.open(b / "to", os.O_RDWR)
                expect(os.copy_file_range(source, target, 16384, 0, 0), 16384, "copied")
                expect(os.pread(target, 8, 4096), stored + b"old.", "round %d" % round)
                os.close(source)
                os.close(target)
    # What is stored into a hole is data, before it was written back.
    os.truncate(a / "from", 1 << 20)
    with open(a / "from", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[1 << 19:(1 << 19) + 4] = b"data"
        for host in (a, b):
            with open(host / "from", "rb") as reader:
                expect(os.lseek(reader.fileno(), 65536, os.SEEK_DATA) <= 1 << 19, True, "found")


def test_a_file_without_a_name_gets_one(w):
    a, b = hosts(w)
    os.mkdir(a / "d")
    names = os.listdir(b / "d")
    fd = os.open(a / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"hidden")
    expect(os.fstat(fd).st_nlink, 0, "links")
    for host in (a, b):
        expect(os.listdir(host / "d"), names, "names")
    expect_errno(errno.ENOENT, os.stat, b / "d/f")
    call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(a / "d/f"),
         AT_SYMLINK_FOLLOW)
    expect(read_file(b / "d/f"), b"hidden", "on the other host")
    expect(os.fstat(fd).st_nlink, 1, "links afterwards")
    os.write(fd, b", now seen")
    expect(read_file(b / "d/f"), b"hidden, now seen", "written through the first descriptor")
    os.unlink(b / "d/f")
    expect(os.fstat(fd).st_nlink, 0, "links at the end")
    expect(os.pread(fd, 6, 0), b"hidden", "unlinked, and open")
    expect_errno(errno.ENOENT, call, "linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD,
                 os.fsencode(a / "d/again"), AT_SYMLINK_FOLLOW)
    os.close(fd)
    unnamed = [os.open(a / "d", os.O_TMPFILE | os.O_RDWR, 0o600) for _ in range(20)]
    for fd in unnamed:
        os.close(fd)
    leasehold.eventually(lambda: not os.listdir(w.main_origin.path_of(".leasehold")),
                         "nothing is left of what had no name")


def test_what_is_removed_while_it_is_being_closed_goes(w):
    """The close must not come to the origin before the unlink, or rename, that says it is open."""
    a, _ = hosts(w)
    os.mkdir(a / "d")
    for round_ in range(150):
        path = a / "d/f"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.write(fd, b"bytes")
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)  # closes it
        os.close(fd)
        os.close(read_end)
        if round_ % 2:
            write_file(a / "d/new", b"other bytes")
        os.close(write_end)
        if round_ % 2:
            os.rename(a / "d/new", path)
        else:
            os.unlink(path)
        os.waitpid(child, 0)
    leasehold.eventually(lambda: not os.listdir(w.main_origin.path_of(".leasehold")),
                         "nothing is left of what was removed")


def file_handle(path):
    """What open_by_handle_at(2) takes."""
    handle = ctypes.create_string_buffer(struct.pack("<Ii", 128, 0), 8 + 128)
    call("name_to_handle_at", AT_FDCWD, os.fsencode(path), handle, ctypes.byref(ctypes.c_int()), 0)
    return handle


def open_handle(mount_path, handle, flags):
    mount_fd = os.open(mount_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd = _libc.open_by_handle_at(mount_fd, handle, flags)
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), mount_path)
        return fd
    finally:
        os.close(mount_fd)


def test_file_handles_outlive_a_mount(w):
    a, b = hosts(w)
    os.makedirs(a / "one/two")
    write_file(a / "one/two/f", b"found by its handle")
    write_file(a / "gone", b"")
    handles = {name: file_handle(a / name) for name in ("one/two/f", "one/two", "gone", ".")}
    inode = os.stat(a / "one/two/f").st_ino
    for _ in range(2):
        a.unmount()
        a.start()
        fd = open_handle(a.path, handles["one/two/f"], os.O_RDONLY)
        expect(os.read(fd, 100), b"found by its handle", "bytes")
        expect(os.fstat(fd).st_ino, inode, "inode number")
        os.close(fd)
        fd = open_handle(a.path, handles["one/two"], os.O_RDONLY | os.O_DIRECTORY)
        expect(os.listdir(fd), ["f"], "names")
        expect(os.readlink("/proc/self/fd/%d" % fd), a / "one/two", "connected up to the root")
        os.close(fd)
        os.close(open_handle(a.path, handles["."], os.O_RDONLY | os.O_DIRECTORY))
    os.rename(b / "one/two/f", b / "moved")
    fd = open_handle(a.path, handles["one/two/f"], os.O_RDONLY)
    expect(os.read(fd, 100), b"found by its handle", "renamed on the other host")
    os.close(fd)
    os.unlink(b / "gone")
    write_file(b / "gone", b"another one")
    expect_errno(errno.ESTALE, open_handle, a.path, handles["gone"], os.O_RDONLY)


def test_two_names_are_exchanged(w):
    a, b = hosts(w)
    for round in range(10):
        write_file(a / "file", b"file %d" % round)
        os.mkdir(a / "dir")
        write_file(a / "dir/inside", b"inside")
        expect(read_file(b / "file"), b"file %d" % round, "before")
        expect(os.listdir(b / "dir"), ["inside"], "before")
        rename2(a / "file", a / "dir", RENAME_EXCHANGE)
        expect(read_file(b / "dir"), b"file %d" % round, "exchanged")
        expect(read_file(b / "file/inside"), b"inside", "exchanged")
        expect_errno(errno.EEXIST, rename2, b / "file", b / "dir", RENAME_NOREPLACE)
        expect_errno(errno.EINVAL, rename2, b / "file", b / "new", 4)  # RENAME_WHITEOUT
        os.unlink(b / "dir")
        os.unlink(b / "file/inside")
        os.rmdir(b / "file")
        expect(os.listdir(a / "."), [], "removed")
        a, b = b, a


leasehold.main(globals())
