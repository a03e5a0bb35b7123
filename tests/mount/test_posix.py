#!/usr/bin/env python3
"""
What POSIX and Linux say of a file system beyond reading and writing, on two hosts: what one does,
the other sees at once, with the result that a local file system gives.
"""

import errno
import os
import stat
import struct
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Skip, expect, expect_errno, read_file, write_file

USER = 1000
OTHER = 1001
ACL_ACCESS = "system.posix_acl_access"
ACL_DEFAULT = "system.posix_acl_default"
USER_OBJ, NAMED_USER, GROUP_OBJ, MASK, OTHERS = 1, 2, 4, 16, 32


def hosts(w):
    os.chmod(w.path, 0o755)  # other users get to the mounts
    return w.hosts("a", "b")


def acl(*entries):
    """(tag, permissions, id) each, as the kernel wants it in the attribute."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, 0xffffffff if who is None else who)
        for tag, bits, who in entries)


def as_user(uid, function, *arguments):
    """What function(...) returns when that user calls it: its value, or the name of its errno."""
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
    with open(read_end, "rb") as f:
        text = f.read().decode()
    os.waitpid(child, 0)
    return text


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


leasehold.main(globals())
