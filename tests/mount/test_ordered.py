#!/usr/bin/env python3
"""Jobs that know the order in which files will be read, and keep ahead of their reader."""

import os
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, LOCAL, STOP_TIMEOUT_S, Skip, eventually, expect, pattern, read_file,
                       run, write_file)

MIB = 1 << 20
STATE = "user.leasehold.prefetch"


def prepare(w, files, *options):
    """A host that has seen none of the files, and guesses nothing."""
    if LOCAL:
        raise Skip("a plain directory fetches nothing")
    origin = w.origin(start=False)  # no event of these files is late
    for name, data in files.items():
        os.makedirs(os.path.dirname(origin.path_of(name)), exist_ok=True)
        write_file(origin.path_of(name), data)
    origin.start()
    write_file(os.path.join(w.path, "nothing"), b"* prefetch=off\n")
    return w.host("a", "--policy", os.path.join(w.path, "nothing"), *options)


class Job:
    """`leasehold prefetch --ordered` in front, which is ended with the test."""

    def __init__(self, w, host, names, *options):
        listed = os.path.join(w.path, "list")
        write_file(listed, "".join("%s\n" % (host / n) for n in names).encode())
        self.process = subprocess.Popen(
            [BINARY, "prefetch", "--ordered", "--from-list", listed] + list(options),
            env=dict(os.environ, XDG_STATE_HOME=os.path.join(w.path, "home")),
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.process.stderr.close()

    def result(self):
        _, said = self.process.communicate(timeout=STOP_TIMEOUT_S)
        return self.process.returncode, said


def state(host, name, what=""):
    return os.getxattr(host / name, STATE + what).decode()


def held(host):
    return host.status()["prefetch"]["held_files"]


def fetched(host):
    return host.status()["counters"]["fetched_bytes"]


def is_complete(host, *names):
    return all(state(host, n) == "complete" for n in names)


def test_a_window_ahead_is_held_and_each_byte_fetched_once(w):
    files = {"data/f%02d" % i: pattern(MIB, seed=i) for i in range(60)}
    files.update({"other/%02d" % i: pattern(MIB, seed=100 + i) for i in range(30)})
    a = prepare(w, files, "--cache-size", "24M")
    names = ["data/f%02d" % (i * 7 % 60) for i in range(60)]
    with Job(w, a, names, "--window", "6M") as job:
        eventually(lambda: held(a) == 6 and is_complete(a, *names[:6]), "a window is ahead")
        expect(is_complete(a, names[6]), False, "what is behind the window is there")
        # Others read more than there is room for: that does not cost the window.
        for i in range(30):
            expect(read_file(a / ("other/%02d" % i)) == files["other/%02d" % i], True)
        expect(is_complete(a, *names[:6]), True, "what is ahead is still there")
        before = fetched(a)
        for name in names:
            eventually(lambda: is_complete(a, name), "%s is there before it is read" % name)
            expect(read_file(a / name) == files[name], True, name)
        code, said = job.result()
        expect((code, said), (0, b""))
        # What found no room at once is fetched again; what was ahead is not.
        expect((fetched(a) - before) // MIB <= 60, True, "MiB fetched behind the first window")
        expect(held(a), 0, "files that are held")


def test_a_reader_who_keeps_a_file_open_is_followed(w):
    size = 48 * MIB
    a = prepare(w, {"big": pattern(size)})
    with Job(w, a, ["big"], "--window", "8M") as job:
        eventually(lambda: state(a, "big", ".0-%d" % (8 * MIB)) == "complete", "a window is there")
        with open(a / "big", "rb", buffering=0) as f:
            for at in range(0, size - 8 * MIB, 4 * MIB):
                end = min(at + 8 * MIB, size)
                eventually(lambda: state(a, "big", ".%d-%d" % (at, end)) == "complete",
                           "it is ahead of %d" % at)
                for _ in range(4):
                    expect(len(f.read(MIB)), MIB)
            while f.read(MIB):
                pass
        expect(job.result(), (0, b""))


def test_a_job_that_ends_holds_nothing(w):
    files = {"data/%d" % i: pattern(100000, seed=i) for i in range(40)}
    a = prepare(w, files)
    with Job(w, a, ["none", "data"] + list(files), "--window", "1M", "--priority", "low") as job:
        eventually(lambda: held(a) == 10, "a window is held")
        # Two readers at a time, in no order, and one file that nobody reads.
        for i in range(0, 40, 2):
            for name in ("data/%d" % (i + 1), "data/%d" % i):
                if name != "data/6":
                    eventually(lambda: is_complete(a, name), "%s is there" % name)
                    expect(read_file(a / name) == files[name], True)
        eventually(lambda: held(a) == 1, "only what nobody read is held")
        job.process.terminate()
        code, said = job.result()
        expect(code, 1)
        expect(b"none: No such file" in said and b"data: it is a directory" in said, True, said)
    expect(a.status()["prefetch"]["ordered_jobs"], 0)
    expect(held(a), 0)


def test_an_unmount_does_not_wait_for_what_is_held(w):
    a = prepare(w, {"f": pattern(MIB)})
    with Job(w, a, ["f"]) as job:
        eventually(lambda: held(a) == 1 and is_complete(a, "f"), "it is held")
        eventually(lambda: run("umount", a.path, check=False).returncode == 0, "it can be unmounted")
        expect(a.wait(STOP_TIMEOUT_S), 0, "exit status of the mount")
        code, said = job.result()
        expect(code, 1)
        expect(b"there is no mount" in said, True, said)
        a.start()
        eventually(lambda: is_complete(a, "f"), "it is there afterwards")


if __name__ == "__main__":
    leasehold.main(globals())
