"""
actor.py - a process that does file operations when told, and says what came of them.

An operation is data: a name and arguments, all of them literals, so that a sequence of operations
can be printed, cut down and replayed. Standard input carries pickled requests, standard output the
answers. ("begin", directory, uid, gid, groups) forks a child that works there as that user, with
descriptors of its own, until ("end",). Everything else is (operation, arguments...), answered with
("ok", value), ("error", name of the errno) or ("wrong", what is wrong whatever others answer).

Paths are relative to the directory; (slot, path) is relative to what is open in that slot. What
cannot be the same on two file systems is left out of values or made the same: inode numbers,
sizes of directories, times of "about now", the order of listings, where exactly holes are.

A process loses its POSIX locks of a file with the close of any descriptor of it. So nothing here
closes one that the sequence does not close, not even a duplicate: os.listdir() and mmap.mmap() make
and close one of the descriptor that they are given.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import pickle
import stat
import struct
import sys
import time
import zlib

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long)
libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.msync.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
MAP_FAILED = ctypes.c_void_p(-1).value
MS_SYNC = 4
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
READ_MAX = 1 << 18  # of a file's content that is compared, at both ends
LISTING_BYTES = 300  # for getdents64(2): a few names at a time, and the longest one


class Wrong(Exception):
    """The answer is wrong by itself."""


def called(result, *where):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *where)
    return result


def about(ns):
    """A time as it can be compared: the present is one time."""
    return "now" if abs(ns / 1e9 - time.time()) < 86400 else ns


def facts(s, noatime):
    kind = stat.S_IFMT(s.st_mode)
    return {
        "mode": oct(s.st_mode),
        "nlink": s.st_nlink,
        "uid": s.st_uid,
        "gid": s.st_gid,
        "size": s.st_size if kind != stat.S_IFDIR else None,
        "rdev": s.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
        "atime": about(s.st_atime_ns) if noatime else None,
        "mtime": about(s.st_mtime_ns),
    }


class Mapping:
    """Of a descriptor, without a duplicate of it."""

    def __init__(self, fd, size, flags, protection, offset):
        self.size = size
        self.address = libc.mmap(None, size, protection, flags, fd, offset)
        if self.address == MAP_FAILED:
            called(-1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        called(libc.munmap(self.address, self.size))

    def read(self):
        return ctypes.string_at(self.address, self.size)

    def store(self, data):
        ctypes.memmove(self.address, data, self.size)
        called(libc.msync(self.address, self.size, MS_SYNC))


def is_zero(fd, start, end):
    """Whether a region reads as zeros; looked at in at most 2 MiB of it."""
    places = [start]
    if end - start > READ_MAX * 8:
        places += [end - READ_MAX]
        end = max(end, start + READ_MAX)
    else:
        places = range(start, end, READ_MAX)
    for at in places:
        data = os.pread(fd, min(READ_MAX, end - at), at)
        if data.strip(b"\0"):
            return False
    return True


class Actor:
    def __init__(self, directory, uid, gid, groups):
        os.chdir(directory)
        self.noatime = bool(os.statvfs(".").f_flag & os.ST_NOATIME)
        self.slots = {}
        self.stream = None
        os.umask(0o022)
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    # Where: a path, or a slot and a path.

    def at(self, where):
        if isinstance(where, tuple):
            return {"path": where[1], "dir_fd": self.fd(where[0])}
        return {"path": where}

    def pair(self, where):
        at = self.at(where)
        return at.get("dir_fd", AT_FDCWD), os.fsencode(at["path"])

    def two(self, old, new):
        a, b = self.at(old), self.at(new)
        return {"src": a["path"], "dst": b["path"],
                "src_dir_fd": a.get("dir_fd"), "dst_dir_fd": b.get("dir_fd")}

    def fd(self, slot):
        if slot not in self.slots:
            raise OSError(errno.EBADF, "nothing in the slot")
        return self.slots[slot]

    def put(self, slot, fd):
        if slot in self.slots:
            os.close(self.slots.pop(slot))
        self.slots[slot] = fd

    # Descriptors.

    def do_open(self, slot, where, flags, mode):
        # Nothing may block: both ends of a fifo would be needed.
        fd = os.open(**self.at(where), flags=flags | os.O_NONBLOCK, mode=mode)
        s = os.fstat(fd)
        if not (stat.S_ISREG(s.st_mode) or stat.S_ISDIR(s.st_mode) or flags & os.O_PATH):
            os.close(fd)  # what comes out of it is not the file system's
            return stat.filemode(s.st_mode)
        self.put(slot, fd)
        return oct(fcntl.fcntl(fd, fcntl.F_GETFL)), facts(s, self.noatime)

    def do_tmpfile(self, slot, where, flags, mode):
        fd = os.open(**self.at(where), flags=flags | os.O_TMPFILE | os.O_RDWR, mode=mode)
        self.put(slot, fd)
        return facts(os.fstat(fd), self.noatime)

    def do_link_descriptor(self, slot, where):
        fd, path = self.pair(where)
        target = b"/proc/self/fd/%d" % self.fd(slot)
        called(libc.linkat(AT_FDCWD, target, fd, path, 0x400))

    def do_close(self, slot):
        self.fd(slot)
        os.close(self.slots.pop(slot))

    def do_dup(self, slot, other):
        self.put(other, os.dup(self.fd(slot)))

    def do_read(self, slot, size):
        return os.read(self.fd(slot), size)

    def do_pread(self, slot, size, at):
        return os.pread(self.fd(slot), size, at)

    def do_write(self, slot, data, size):
        fd = self.fd(slot)
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
            os.fstat(fd)  # the kernel takes the descriptor's place from the size that it knows
        return os.write(fd, (data * (size // len(data) + 1))[:size])

    def do_pwrite(self, slot, data, size, at):
        return os.pwrite(self.fd(slot), (data * (size // len(data) + 1))[:size], at)

    def do_lseek(self, slot, at, whence):
        fd = self.fd(slot)
        if whence == os.SEEK_END:
            self.size_of_file(fd)
        return os.lseek(fd, at, whence)

    def do_ftruncate(self, slot, size):
        os.ftruncate(self.fd(slot), size)

    def do_fsync(self, slot, data_only):
        (os.fdatasync if data_only else os.fsync)(self.fd(slot))

    def do_fstat(self, slot):
        return facts(os.fstat(self.fd(slot)), self.noatime)

    def do_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def do_fchown(self, slot, uid, gid):
        os.fchown(self.fd(slot), uid, gid)

    def do_flist(self, slot):
        return sorted(os.fsdecode(name) for name in self.all_names(self.fd(slot)))

    def do_fallocate(self, slot, mode, at, size):
        called(libc.fallocate(self.fd(slot), mode, ctypes.c_long(at), ctypes.c_long(size)))

    def do_copy_range(self, source, source_at, sink, sink_at, size):
        return os.copy_file_range(self.fd(source), self.fd(sink), size, source_at, sink_at)

    def size_of_file(self, fd):
        s = os.fstat(fd)
        if not stat.S_ISREG(s.st_mode):
            raise OSError(errno.EISDIR, "sizes of directories and places in them are nobody's business")
        return s.st_size

    def do_seek_data(self, slot, at):
        """Only that what is passed over is a hole: file systems may keep holes as data."""
        fd = self.fd(slot)
        size = self.size_of_file(fd)
        try:
            found = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO or at < 0 or at >= size:
                raise
            found = size
        readable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)
        if found < at or found > size or readable and not is_zero(fd, at, found):
            raise Wrong("SEEK_DATA from %d found %d, not all before that is zero" % (at, found))
        os.lseek(fd, 0, os.SEEK_SET)

    def do_seek_hole(self, slot, at):
        fd = self.fd(slot)
        size = self.size_of_file(fd)
        found = os.lseek(fd, at, os.SEEK_HOLE)
        os.lseek(fd, 0, os.SEEK_SET)
        if found < at or found > size:
            raise Wrong("SEEK_HOLE from %d found %d in %d bytes" % (at, found, size))

    def do_map_read(self, slot, at, size, shared):
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        fd = self.fd(slot)
        size = min(size, max(0, self.size_of_file(fd) - at))  # behind the end is SIGBUS
        if not size:
            return None
        with Mapping(fd, size, flags, mmap.PROT_READ, at) as m:
            return m.read()

    def do_map_write(self, slot, data, at, size):
        fd = self.fd(slot)
        size = min(size, max(0, self.size_of_file(fd) - at))
        if not size:
            return None
        with Mapping(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, at) as m:
            m.store((data * (size // len(data) + 1))[:size])
            return m.read()

    def file(self, slot):
        """What is locked; locks of directories hold within one host (README)."""
        fd = self.fd(slot)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        return fd

    def do_lock(self, slot, command, kind, at, size):
        """fcntl's: of the process, or of the open file ("ofd")."""
        number = 37 if command == "ofd" else fcntl.F_SETLK
        fcntl.fcntl(self.file(slot), number, struct.pack("hhqqi4x", kind, os.SEEK_SET, at, size, 0))

    def do_lock_test(self, slot, kind, at, size):
        wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, at, size, 0)
        found = struct.unpack("hhqqi4x", fcntl.fcntl(self.file(slot), fcntl.F_GETLK, wanted))
        return found[:4] if found[0] != fcntl.F_UNLCK else None

    def do_flock(self, slot, how):
        fcntl.flock(self.file(slot), how | fcntl.LOCK_NB)

    # Names.

    def do_stat(self, where, follow):
        return facts(os.stat(**self.at(where), follow_symlinks=follow), self.noatime)

    def do_access(self, where, mode):
        return os.access(**self.at(where), mode=mode, effective_ids=True)

    def do_list(self, path):
        """Names, and that type and inode number are those that stat says."""
        names = []
        with os.scandir(path) as entries:
            for entry in entries:
                names.append(entry.name)
                try:
                    s = os.lstat(os.path.join(path, entry.name))
                except OSError:
                    continue  # no permission to search
                if entry.inode() != s.st_ino:
                    raise Wrong("%s: listed as inode %d, is %d" % (
                        entry.name, entry.inode(), s.st_ino))
                if entry.is_dir(follow_symlinks=False) != stat.S_ISDIR(s.st_mode):
                    raise Wrong("%s: not the type that was listed" % entry.name)
        if len(set(names)) != len(names):
            raise Wrong("a name is listed twice: %r" % sorted(names))
        return sorted(names)

    def some_names(self, fd, calls):
        """What so many calls of getdents64(2) list, and where that ended; fewer at the end."""
        names, place = [], None
        buffer = ctypes.create_string_buffer(LISTING_BYTES)
        for _ in range(calls):
            size = called(libc.getdents64(fd, buffer, LISTING_BYTES))
            if not size:
                return names, place, True
            at = 0
            while at < size:
                _inode, place, length, _kind = struct.unpack_from("=QqHB", buffer.raw, at)
                name = buffer.raw[at + 19:at + length].split(b"\0")[0]
                names += [name] if name not in (b".", b"..") else []
                at += length
        return names, place, False

    def all_names(self, fd):
        """What an open directory has; the descriptor is where it was."""
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        place = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, 0, os.SEEK_SET)
        try:
            return self.some_names(fd, 1 << 20)[0]
        except FileNotFoundError:
            return []  # it was removed: readdir(3) says that it is at its end
        finally:
            os.lseek(fd, place, os.SEEK_SET)

    def do_seekdir(self, path, calls):
        """What follows a place is the same when it is gone back to."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            first, place, _ = self.some_names(fd, calls)
            rest, _, _ = self.some_names(fd, 1 << 20)
            again = rest
            if place is not None:
                os.lseek(fd, place, os.SEEK_SET)
                again, _, _ = self.some_names(fd, 1 << 20)
            os.lseek(fd, 0, os.SEEK_SET)
            whole, _, _ = self.some_names(fd, 1 << 20)
        finally:
            os.close(fd)
        if again != rest or sorted(whole) != sorted(first + rest):
            raise Wrong("%r, then %r; from there again %r; from the start %r" % (
                first, rest, again, whole))
        return sorted(whole)

    def do_stream_open(self, path):
        """A listing that goes on while names change; one at a time."""
        if self.stream is not None:
            os.close(self.stream)
            self.stream = None
        self.stream = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def do_stream_read(self, calls):
        if self.stream is None:
            raise OSError(errno.EBADF, "no stream")
        names, _, ended = self.some_names(self.stream, calls)
        return names, ended

    def do_stream_names(self):
        """What is there now."""
        if self.stream is None:
            return None
        return self.all_names(self.stream)

    def do_mkdir(self, where, mode):
        os.mkdir(**self.at(where), mode=mode)

    def do_rmdir(self, where):
        os.rmdir(**self.at(where))

    def do_unlink(self, where):
        os.unlink(**self.at(where))

    def do_mknod(self, where, mode, device):
        os.mknod(**self.at(where), mode=mode, device=device)

    def do_rename(self, old, new, flags):
        old_fd, old_path = self.pair(old)
        new_fd, new_path = self.pair(new)
        called(libc.renameat2(old_fd, old_path, new_fd, new_path, flags))

    def do_link(self, old, new, follow):
        os.link(**self.two(old, new), follow_symlinks=follow)

    def do_symlink(self, target, where):
        at = self.at(where)
        os.symlink(target, at["path"], dir_fd=at.get("dir_fd"))

    def do_readlink(self, where):
        return os.readlink(**self.at(where))

    def do_truncate(self, path, size):
        os.truncate(path, size)

    def do_chmod(self, where, mode):
        os.chmod(**self.at(where), mode=mode)

    def do_chown(self, where, uid, gid, follow):
        os.chown(**self.at(where), uid=uid, gid=gid, follow_symlinks=follow)

    def do_utimens(self, where, times, follow):
        """times: None, or two of (seconds, nanoseconds), with UTIME_NOW and UTIME_OMIT."""
        fd, path = self.pair(where)
        packed = struct.pack("qqqq", *times[0], *times[1]) if times else None
        called(libc.utimensat(fd, path, packed, 0 if follow else 0x100))

    def do_setxattr(self, path, name, value, flags, follow):
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def do_getxattr(self, path, name, follow):
        return os.getxattr(path, name, follow_symlinks=follow)

    def do_listxattr(self, path, follow):
        return sorted(os.listxattr(path, follow_symlinks=follow))

    def do_removexattr(self, path, name, follow):
        os.removexattr(path, name, follow_symlinks=follow)

    def do_umask(self, mask):
        return os.umask(mask)

    def do_tree(self):
        """Everything below the directory: for root."""
        tree, links = {}, {}
        for directory, directories, files in os.walk("."):
            for name in sorted(directories + files):
                path = os.path.join(directory, name)
                s = os.lstat(path)
                entry = facts(s, self.noatime)
                links.setdefault((s.st_dev, s.st_ino), []).append(path)
                entry["xattrs"] = sorted((n, os.getxattr(path, n, follow_symlinks=False))
                                         for n in os.listxattr(path, follow_symlinks=False))
                if stat.S_ISREG(s.st_mode):
                    fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
                    try:
                        entry["data"] = (zlib.crc32(os.pread(fd, READ_MAX, 0)),
                                         zlib.crc32(os.pread(fd, READ_MAX,
                                                             max(0, s.st_size - READ_MAX))))
                    finally:
                        os.close(fd)
                elif stat.S_ISLNK(s.st_mode):
                    entry["target"] = os.readlink(path)
                tree[path] = entry
        for paths in links.values():
            for path in paths:
                tree[path]["same"] = sorted(paths)
        return tree


def outcome(actor, request):
    try:
        return "ok", getattr(actor, "do_" + request[0])(*request[1:])
    except OSError as e:
        return "error", errno.errorcode.get(e.errno, str(e.errno))
    except Wrong as e:
        return "wrong", str(e)


def main():
    requests, answers = sys.stdin.buffer, sys.stdout.buffer

    def answer(value):
        pickle.dump(value, answers)
        answers.flush()

    actor = None
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        if request[0] == "begin":
            child = os.fork()
            if child:
                os.waitpid(child, 0)
                answer(("ok", None))  # to "end"
                continue
            actor = Actor(*request[1:])
            answer(("ok", None))
        elif request[0] == "end":
            os._exit(0)
        else:
            answer(outcome(actor, request))


if __name__ == "__main__":
    main()
