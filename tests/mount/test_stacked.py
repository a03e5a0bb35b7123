#!/usr/bin/env python3
"""
What is mounted on a mount: another file system on one of its directories, and an overlay that has it
as lower layer. Both go on while other hosts change names.
"""

import contextlib
import ctypes
import os
import sys
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Skip, expect, is_mounted, read_file, run, write_file


@contextlib.contextmanager
def mounted(path, *command):
    """As long as the block runs; the mount below it could not be unmounted otherwise."""
    os.makedirs(path, exist_ok=True)
    result = run("mount", *command, path, check=False)
    if result.returncode != 0:
        raise Skip("cannot mount here: " + result.stderr.strip())
    try:
        yield
    finally:
        if is_mounted(path):
            run("umount", "-l", path, check=False)


def change_names(host, directory, n):
    """Makes, renames and removes names in a directory: what a package manager does to /usr."""
    path = host / directory
    write_file(os.path.join(path, "new%d" % n), b"%d" % n)
    os.rename(os.path.join(path, "new%d" % n), os.path.join(path, "name%d" % n))
    os.mkdir(os.path.join(path, "d%d" % n))
    if n > 0:
        os.unlink(os.path.join(path, "name%d" % (n - 1)))
        os.rmdir(os.path.join(path, "d%d" % (n - 1)))


def test_a_mount_on_a_directory_stays(w):
    a, b = w.hosts("a", "b")
    os.makedirs(a / "sub/point")
    inside = b / "sub/point"
    with mounted(inside, "-t", "tmpfs", "none"):
        write_file(os.path.join(inside, "f"), b"tmpfs")
        for n in range(30):
            os.listdir(b / "sub")
            os.path.exists(b / "sub/absent")
            change_names(a, "", n)
            change_names(a, "sub", n)
            expect(sorted(os.listdir(b / "sub")), ["d%d" % n, "name%d" % n, "point"], "names")
            expect(is_mounted(inside), True, "still mounted, round %d" % n)
            expect(read_file(os.path.join(inside, "f")), b"tmpfs", "round %d" % n)
            # Our own changes, too.
            os.mkdir(b / "sub/own")
            os.rmdir(b / "sub/own")
            expect(is_mounted(inside), True, "after a change here, round %d" % n)


CLONE_NEWNS = 0x20000
SKIPPED = 77


def own_mounts(kept):
    """
    What this process mounts nobody else sees, or has a copy of; nor has it copies of other tests'
    mounts, which would outlive their umount.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise Skip("no mount namespace: " + os.strerror(ctypes.get_errno()))
    run("mount", "--make-rprivate", "/")
    with open("/proc/self/mountinfo") as f:
        mounts = [line.split(" ") for line in f]
    for path in [x[4] for x in mounts if x[x.index("-") + 1] == "fuse.leasehold"]:
        if path != kept:
            run("umount", "-l", path, check=False)


def read_through_overlay(b, above, questions, answers):
    """For each byte of `questions` it looks at everything through an overlay, and answers with one."""
    own_mounts(b.path)
    upper, work, merged = (os.path.join(above, x) for x in ("upper", "work", "merged"))
    # The layers above have to be on a file system that overlayfs takes; this one always is.
    with mounted(above, "-t", "tmpfs", "none"):
        os.mkdir(upper)
        os.mkdir(work)
        options = "lowerdir=%s,upperdir=%s,workdir=%s" % (b / "lower", upper, work)
        with mounted(merged, "-t", "overlay", "overlay", "-o", options):
            with open(os.path.join(merged, "etc/kept"), "rb") as f:
                os.write(answers, b".")
                while os.read(questions, 1):
                    expect(read_file(os.path.join(merged, "etc/kept")), b"kept")
                    expect(read_file(os.path.join(merged, "etc/deep/f")), b"deep")
                    expect(os.pread(f.fileno(), 10, 0), b"kept", "an open descriptor")
                    own = len(os.listdir(os.path.join(merged, "etc/deep")))
                    write_file(os.path.join(merged, "etc/deep/own%d" % own), b"own")
                    os.write(answers, b".")
            os.unlink(os.path.join(merged, "etc/kept"))
            expect(sorted(os.listdir(os.path.join(merged, "etc"))), ["deep"], "names above")


def start_reader(*arguments):
    """read_through_overlay() in a process; where to ask, and where it answers."""
    questions, ask = os.pipe()
    answer, answers = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(ask)
            os.close(answer)
            read_through_overlay(*arguments, questions, answers)
            status = 0
        except Skip as e:
            print("# " + str(e), flush=True)
            status = SKIPPED
        except BaseException:
            print("# " + traceback.format_exc().replace("\n", "\n# "), flush=True)
        os._exit(status)
    os.close(questions)
    os.close(answers)
    return child, ask, answer


def test_an_overlay_above_goes_on(w):
    a, b = w.hosts("a", "b")
    os.makedirs(a / "lower/etc/deep")
    write_file(a / "lower/etc/kept", b"kept")
    write_file(a / "lower/etc/deep/f", b"deep")
    above = os.path.join(w.path, "above")
    os.mkdir(above)
    child, ask, answer = start_reader(b, above)
    answered = [os.read(answer, 1)]
    for n in range(30):
        if answered[-1]:
            # Elsewhere in the mount, and beside what the overlay has looked up.
            change_names(a, "", n)
            change_names(a, "lower", n)
            os.write(ask, b"?")
            answered.append(os.read(answer, 1))
    os.close(ask)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(answer)
    if status == SKIPPED:
        raise Skip("no overlay with a mount as lower layer here")
    expect((status, answered.count(b".")), (0, 31), "rounds that the overlay went through")
    expect(sorted(os.listdir(a / "lower/etc")), ["deep", "kept"], "what is below is as it was")


leasehold.main(globals())
