#!/usr/bin/env python3
"""
In which mode files are read, and what the user is told of it. Coherence in each mode is what all the
other tests are about: LEASEHOLD_TEST_MOUNT=OPTIONS runs them with further mount options.
"""

import errno
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import eventually, expect, expect_errno, pattern, read_file, write_file


def mode(path):
    return os.getxattr(path, "user.leasehold.mode").decode()


def test_the_mode_is_told(w):
    a = w.host("a")
    path = a / "file"
    write_file(path, pattern(100000))
    with open(path, "rb") as reader:
        expect(reader.read(), pattern(100000))
        expect(mode(path), "pages: not sealed")
        with open(path, "r+b") as writer:
            writer.write(b"x")
            expect(mode(path), "direct: open for writing")
        # The kernel does not wait for the release.
        eventually(lambda: mode(path) == "pages: not sealed", "the writer is forgotten")
    expect_errno(errno.ENODATA, mode, a.path)
    expect("user.leasehold.mode" in os.listxattr(path), False)


def test_passthrough_can_be_off(w):
    a = w.host("a", "--passthrough", "off")
    write_file(a / "file", pattern(100000))
    expect(read_file(a / "file"), pattern(100000))
    expect(mode(a / "file"), "pages: not sealed")
    expect(a.status()["passthrough"], False)
    expect(b"no passthrough: passthrough=off" in a.log(), True)


if __name__ == "__main__":
    leasehold.main(globals())
