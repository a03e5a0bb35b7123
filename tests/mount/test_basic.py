#!/usr/bin/env python3
"""One host: what programs expect of a file system, and that the exported directory agrees."""

import errno
import mmap
import os
import random
import stat
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import eventually, expect, expect_errno, pattern, peek, read_file, write_file


def test_files_are_written_and_read_back(w):
    h = w.host("a")
    for size in (0, 1, 4095, 4096, 4097, 131072, 1 << 20, (1 << 20) + 1, 5 * (1 << 20) + 17):
        name = "f%d" % size
        data = pattern(size, size)
        write_file(h / name, data)
        expect(read_file(h / name), data, name)
        expect(read_file(h.origin.path_of(name)), data, name + " at the origin")
        expect(os.stat(h / name).st_size, size, "size")


def test_a_tree_made_at_the_origin_is_seen(w):
    o = w.origin()
    for d in range(20):
        os.makedirs(o.path_of("d%d" % d, "sub"))
        for f in range(20):
            write_file(o.path_of("d%d" % d, "sub", "f%d" % f), pattern(d * 997 + f, f))
    h = w.host("a")
    for d in range(20):
        expect(sorted(os.listdir(h / ("d%d/sub" % d))), sorted("f%d" % f for f in range(20)))
        for f in range(20):
            expect(read_file(h / ("d%d/sub/f%d" % (d, f))), pattern(d * 997 + f, f))


def test_offsets_holes_and_appends(w):
    h = w.host("a")
    fd = os.open(h / "f", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"end", 1000000)
    expect(os.fstat(fd).st_size, 1000003)
    expect(os.pread(fd, 10, 0), bytes(10), "a hole")
    expect(os.pread(fd, 10, 999998), b"\0\0end", "the end")
    expect(os.pread(fd, 10, 1000003), b"", "behind the end")
    os.pwrite(fd, b"abc", 4094)
    expect(os.pread(fd, 5, 4093), b"\0abc\0", "across a page")
    os.close(fd)
    fd = os.open(h / "f", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"one")
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"two")
    os.close(fd)
    expect(read_file(h / "f")[-9:], b"endonetwo", "appended")


def test_truncation_both_ways(w):
    h = w.host("a")
    data = pattern(100000)
    write_file(h / "f", data)
    os.truncate(h / "f", 5000)
    expect(read_file(h / "f"), data[:5000], "shorter")
    os.truncate(h / "f", 9000)
    expect(read_file(h / "f"), data[:5000] + bytes(4000), "longer: zeros")
    fd = os.open(h / "f", os.O_RDWR)
    os.ftruncate(fd, 10)
    expect(os.pread(fd, 100, 0), data[:10])
    os.close(fd)
    os.close(os.open(h / "f", os.O_WRONLY | os.O_TRUNC))
    expect(read_file(h / "f"), b"", "O_TRUNC")


def test_directories_come_and_go(w):
    h = w.host("a")
    os.makedirs(h / "d/e/f")
    expect_errno(errno.EEXIST, os.mkdir, h / "d")
    expect_errno(errno.ENOTEMPTY, os.rmdir, h / "d")
    expect_errno(errno.ENOENT, os.rmdir, h / "x")
    write_file(h / "d/file", b"1")
    expect_errno(errno.ENOTDIR, os.rmdir, h / "d/file")
    expect_errno(errno.EISDIR, os.unlink, h / "d/e")
    expect(sorted(os.listdir(h / "d")), ["e", "file"])
    os.rmdir(h / "d/e/f")
    os.rmdir(h / "d/e")
    expect(os.listdir(h / "d"), ["file"])
    expect(os.stat(h / "d").st_nlink, os.stat(h.origin.path_of("d")).st_nlink, "links")


def test_a_directory_of_many_names_is_listed_once_each(w):
    h = w.host("a")
    os.mkdir(h / "d")
    names = ["name-%05d-%s" % (i, "x" * (i % 100)) for i in range(3000)]
    for name in names:
        os.close(os.open(h.origin.path_of("d", name), os.O_CREAT | os.O_WRONLY))
    expect(sorted(os.listdir(h / "d")), names, "listing")
    with os.scandir(h / "d") as entries:
        expect(sum(e.is_file() and e.stat().st_size == 0 for e in entries), 3000, "entries")
    for name in names[::2]:
        os.unlink(h / ("d/" + name))
    expect(sorted(os.listdir(h / "d")), names[1::2], "after removal")


def test_renames(w):
    h = w.host("a")
    os.mkdir(h / "d")
    os.mkdir(h / "e")
    write_file(h / "f", b"f")
    write_file(h / "g", b"g")
    os.rename(h / "f", h / "d/f2")
    expect(read_file(h / "d/f2"), b"f")
    expect_errno(errno.ENOENT, os.stat, h / "f")
    os.rename(h / "d/f2", h / "g")
    expect(read_file(h / "g"), b"f", "replaced")
    os.rename(h / "d", h / "e")
    expect_errno(errno.ENOENT, os.stat, h / "d")
    os.mkdir(h / "d")
    write_file(h / "d/x", b"x")
    expect_errno((errno.ENOTEMPTY, errno.EEXIST), os.rename, h / "e", h / "d")
    expect_errno(errno.EINVAL, os.rename, h / "d", h / "d/under")
    expect_errno(errno.EISDIR, os.rename, h / "g", h / "d")
    expect_errno(errno.ENOTDIR, os.rename, h / "d", h / "g")
    os.rename(h / "d", h / "d9")
    expect(read_file(h / "d9/x"), b"x", "through the directory's new name")
    write_file(h / "p", b"p")
    write_file(h / "q", b"q")
    expect_errno(errno.EEXIST, leasehold.rename2, h / "p", h / "q", leasehold.RENAME_NOREPLACE)
    leasehold.rename2(h / "p", h / "q", leasehold.RENAME_EXCHANGE)
    expect((read_file(h / "p"), read_file(h / "q")), (b"q", b"p"), "exchanged")


def test_links_of_both_kinds(w):
    h = w.host("a")
    write_file(h / "f", b"data")
    os.link(h / "f", h / "g")
    expect(os.stat(h / "f").st_nlink, 2, "links")
    expect(os.stat(h / "f").st_ino, os.stat(h / "g").st_ino, "inode numbers")
    write_file(h / "g", b"changed")
    expect(read_file(h / "f"), b"changed", "through the other name")
    os.unlink(h / "f")
    expect(os.stat(h / "g").st_nlink, 1, "links")
    expect_errno(errno.EEXIST, os.link, h / "g", h / "g")
    os.symlink("g", h / "s")
    expect(os.readlink(h / "s"), "g")
    expect(read_file(h / "s"), b"changed", "through the symlink")
    long = "x/" * 2000
    os.symlink(long, h / "long")
    expect(os.readlink(h / "long"), long, "a long target")
    expect(os.lstat(h / "long").st_size, len(long), "its size")
    os.symlink("/nowhere", h / "dangling")
    expect_errno(errno.ENOENT, os.stat, h / "dangling")
    expect_errno(errno.EINVAL, os.readlink, h / "g")


def test_modes_owners_and_times(w):
    h = w.host("a")
    write_file(h / "f", b"1")
    os.chmod(h / "f", 0o4751)
    expect(stat.S_IMODE(os.stat(h / "f").st_mode), 0o4751)
    os.chown(h / "f", 1234, 2345)
    s = os.stat(h / "f")
    expect((s.st_uid, s.st_gid), (1234, 2345), "owner")
    os.utime(h / "f", ns=(1000000000123456789, 1100000000987654321))
    s = os.stat(h / "f")
    expect((s.st_atime_ns, s.st_mtime_ns), (1000000000123456789, 1100000000987654321), "times")
    expect(os.stat(h.origin.path_of("f")).st_mtime_ns, 1100000000987654321, "at the origin")
    before = os.stat(h / "f").st_mtime_ns
    write_file(h / "f", b"22")
    leasehold.expect(os.stat(h / "f").st_mtime_ns != before, True, "a write moves mtime")
    os.umask(0o027)
    try:
        os.close(os.open(h / "m", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(h / "md", 0o777)
    finally:
        os.umask(0o022)
    expect(stat.S_IMODE(os.stat(h / "m").st_mode), 0o640, "umask on a file")
    expect(stat.S_IMODE(os.stat(h / "md").st_mode), 0o750, "umask on a directory")


def test_permissions_bind_users(w):
    h = w.host("a")
    write_file(h / "secret", b"s")
    os.chmod(h / "secret", 0o600)
    os.mkdir(h / "open")
    os.chmod(h / "open", 0o777)
    os.chmod(w.path, 0o755)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            expect_errno(errno.EACCES, read_file, h / "secret")
            expect_errno(errno.EACCES, write_file, h / "new", b"")
            expect_errno(errno.EPERM, os.chmod, h / "secret", 0o666)
            write_file(h / "open/mine", b"m")
            expect(os.stat(h / "open/mine").st_uid, 65534, "owner of what a user makes")
            status = 0
        except BaseException as e:
            print("# as nobody: %r" % e, flush=True)
        finally:
            os._exit(status)
    expect(os.waitpid(child, 0)[1], 0, "status of the user's process")


def test_names_of_every_kind(w):
    h = w.host("a")
    names = [b"x" * 255, b"with space", b"new\nline", b"\xff\xfe", b"-rf", b"...", b"a%2fb", b"\\",
             "ünïcödé".encode(), b"?#&=+"]
    for name in names:
        path = os.fsencode(h.path) + b"/" + name
        write_file(path, name)
        expect(read_file(path), name)
    expect(sorted(os.listdir(os.fsencode(h.path))), sorted(names), "listing")
    expect_errno(errno.ENAMETOOLONG, write_file, h / ("x" * 256), b"")
    expect_errno(errno.ENOENT, os.stat, h / "absent")
    expect_errno(errno.ENOTDIR, os.stat, h / "with space/x")


def test_create_exclusively(w):
    h = w.host("a")
    os.close(os.open(h / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    expect_errno(errno.EEXIST, os.open, h / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("absent", h / "s")
    expect_errno(errno.EEXIST, os.open, h / "s", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_an_unlinked_file_lives_while_it_is_open(w):
    h = w.host("a")
    fd = os.open(h / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"before")
    os.unlink(h / "f")
    expect_errno(errno.ENOENT, os.stat, h / "f")
    expect(os.pread(fd, 10, 0), b"before")
    os.pwrite(fd, b"after!", 0)
    expect(os.pread(fd, 10, 0), b"after!")
    os.ftruncate(fd, 3)
    expect(os.fstat(fd).st_size, 3)
    expect(os.fstat(fd).st_nlink, 0, "links")
    os.close(fd)
    expect(os.listdir(h.path), [])


def test_fsync_and_statfs(w):
    h = w.host("a")
    fd = os.open(h / "f", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * 10000)
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    fd = os.open(h.path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)

    def size(path):
        space = os.statvfs(path)
        return space.f_blocks * space.f_frsize
    # An origin that does not answer soon is not waited for.
    eventually(lambda: size(h.path) == size(h.origin.export), "size")
    expect(os.statvfs(h.path).f_namemax, 255, "longest name")


def test_user_xattrs(w):
    h = w.host("a")
    write_file(h / "f", b"1")
    os.mkdir(h / "d")
    for path in (h / "f", h / "d"):
        os.setxattr(path, "user.one", b"1")
        os.setxattr(path, "user.two", b"two\0two")
        expect(os.getxattr(path, "user.two"), b"two\0two")
        expect(sorted(os.listxattr(path)), ["user.one", "user.two"])
        expect_errno(errno.EEXIST, os.setxattr, path, "user.one", b"x", os.XATTR_CREATE)
        expect_errno(errno.ENODATA, os.setxattr, path, "user.no", b"x", os.XATTR_REPLACE)
        os.setxattr(path, "user.one", b"x" * 2000)
        expect(os.getxattr(path, "user.one"), b"x" * 2000)
        os.removexattr(path, "user.one")
        expect_errno(errno.ENODATA, os.getxattr, path, "user.one")
        expect_errno(errno.ENODATA, os.removexattr, path, "user.one")
        expect(os.listxattr(path), ["user.two"])


def test_reading_through_a_mapping(w):
    h = w.host("a")
    data = pattern(3 * (1 << 20) + 100)
    write_file(h / "f", data)
    with open(h / "f", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        expect(peek(m), data, "shared, read-only")
    with open(h / "f", "rb") as f, \
            mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE,
                      prot=mmap.PROT_READ | mmap.PROT_WRITE) as m:
        m[0:3] = b"mod"
        expect(peek(m, 3, 100), data[3:100], "private, writable")
    expect(read_file(h / "f"), data, "a private store stays private")


def test_programs_run_from_the_mount(w):
    h = w.host("a")
    leasehold.run("cp", "/bin/cp", "/bin/cat", h.path)
    leasehold.run(h / "cp", h / "cat", h / "cat2")
    expect(leasehold.run(h / "cat2", "/proc/self/comm").stdout, "cat2\n")


def test_trees_survive_tar_and_cp(w):
    h = w.host("a")
    os.mkdir(w.path + "/tree")
    rng = random.Random(5)
    for i in range(150):
        d = w.path + "/tree/" + "/".join("d%d" % rng.randrange(4) for _ in range(rng.randrange(4)))
        os.makedirs(d, exist_ok=True)
        write_file(d + "/f%d" % i, pattern(rng.randrange(30000), i))
    os.symlink("../x", w.path + "/tree/s")
    leasehold.run("cp", "-a", w.path + "/tree", h.path)
    leasehold.run("diff", "-r", "--no-dereference", w.path + "/tree", h / "tree")
    leasehold.run("tar", "-C", h.path, "-cf", w.path + "/t.tar", "tree")
    os.mkdir(h / "out")
    leasehold.run("tar", "-C", h / "out", "-xf", w.path + "/t.tar")
    leasehold.run("diff", "-r", "--no-dereference", h / "tree", h / "out/tree")
    leasehold.run("rm", "-r", h / "out", h / "tree")
    expect(os.listdir(h.path), [])


def test_special_files(w):
    h = w.host("a")
    os.mkfifo(h / "fifo", 0o600)
    expect(stat.S_ISFIFO(os.stat(h / "fifo").st_mode), True)
    expect(stat.S_ISFIFO(os.stat(h.origin.path_of("fifo")).st_mode), True, "at the origin")


def test_random_io_agrees_with_a_model(w):
    h = w.host("a")
    rng = random.Random(11)
    model = bytearray()
    fd = os.open(h / "f", os.O_RDWR | os.O_CREAT)
    reader = os.open(h / "f", os.O_RDONLY)
    for step in range(600):
        at, size = rng.randrange(300000), rng.choice((1, 100, 4096, 10000, 70000))
        what = rng.randrange(5)
        if what == 0:
            os.ftruncate(fd, at)
            model = model[:at] + bytes(max(0, at - len(model)))
        elif what <= 2:
            data = pattern(size, step)
            expect(os.pwrite(fd, data, at), size)
            model += bytes(max(0, at + size - len(model)))
            model[at:at + size] = data
        else:
            for one in (fd, reader):
                expect(os.pread(one, size, at), bytes(model[at:at + size]), "step %d" % step)
        expect(os.fstat(reader).st_size, len(model), "size at step %d" % step)
    os.close(fd)
    os.close(reader)
    expect(read_file(h / "f"), bytes(model))


leasehold.main(globals())
