#!/usr/bin/env python3
"""Seals have a term of their own: through partitions and a dead origin, and until it is over."""

import errno
import os
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, LOCAL, Reader, Skip, eventually, expect, expect_errno, pattern,
                       read_file, run, write_file)

SIZE = 300 << 10
OPTIONS = ("-o", "disconnected=fail")  # what is not answered from the cache fails at once


def prepare(w, namespace=False, options=OPTIONS):
    if LOCAL:
        raise Skip("a local file system has no seals")
    w.seals = True
    w.allow_log("")
    w.origin("--lease-term", "4s")
    a = w.host("a")
    b = w.host("b", *options, namespace=namespace)
    os.makedirs(a / "d/sub")
    write_file(a / "d/f", pattern(SIZE, 1))
    write_file(a / "d/sub/g", b"deep")
    os.symlink("f", a / "d/link")
    write_file(a / "other", b"other")
    return a, b


def seal(path, term=None):
    run(BINARY, "seal", *(("--term", term) if term else ()), path)


def look_at_all(top):
    """Everything below, by names from `top`, an open directory; and it is what it was."""
    expect(sorted(os.listdir(top)), ["f", "link", "sub"])
    expect(os.readlink("link", dir_fd=top), "f")
    for name, data in (("f", pattern(SIZE, 1)), ("link", pattern(SIZE, 1)), ("sub/g", b"deep")):
        fd = os.open(name, os.O_RDONLY, dir_fd=top)
        try:
            expect(os.pread(fd, SIZE + 1, 0), data, name)
        finally:
            os.close(fd)
        expect(os.stat(name, dir_fd=top).st_size, len(data), name)
    for name in ("new", "sub/new"):
        expect_errno(errno.ENOENT, os.stat, name, dir_fd=top)


def answered(function, *arguments):
    """What the first answer is that is no EIO: a session may end on a busy machine, at any time."""
    answers = []

    def answer():
        try:
            answers.append(function(*arguments))
        except OSError as e:
            if e.errno != errno.EIO:
                raise
        return bool(answers)
    eventually(answer, "an answer")
    return answers[0]


def mode_of(host, path="d/f"):
    return answered(os.stat, host / path).st_mode & 0o777


def known(host, *more):
    """A directory of it that is open, with all that is below in the caches of `host`."""
    top = answered(os.open, host / "d", os.O_RDONLY | os.O_DIRECTORY)

    def leased():
        # Leases are not granted for a moment where they were just recalled; "link" has no user.*.
        for _ in range(2):
            look_at_all(top)
            for name in more:
                os.stat(host / name)
                if os.path.isfile(host / name):
                    read_file(host / name)
            if any(host.xattr("sealed", name) != "sealed"
                   for name in ("d", "d/f", "d/sub", "d/sub/g") + more):
                return False
        return True
    eventually(lambda: answered(leased), "it has leases on all of it")
    return top


def unsealing(path, *more):
    return subprocess.Popen([BINARY, "unseal", *more, path], stdin=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def done(process):
    _, said = process.communicate(timeout=leasehold.COMMAND_TIMEOUT_S)
    expect(process.returncode, 0, said)
    return said


def silent(host):
    try:
        return os.getxattr(host / "d/f", "trusted.leasehold.silent").decode().split()
    except OSError:
        return None


def test_sealed_is_served_through_a_partition(w):
    a, b = prepare(w, namespace=True)
    seal(a / "d")
    top = known(b)
    reader = Reader(w, b / "d/f")
    before = reader.look("read")
    b.namespace.cut()
    b.wait_until_disconnected()
    look_at_all(top)
    # What is not sealed is not answered, nor what is sealed but leads through what is not.
    expect_errno(errno.EIO, read_file, b / "other")
    expect(reader.look("read"), before, "through a descriptor that was open")
    for flags in (os.O_WRONLY, os.O_RDWR):
        expect_errno(errno.EPERM, os.open, "f", flags, dir_fd=top)
    for path in ("d/f", "d/new"):
        expect_errno(errno.EPERM, os.open, a / path, os.O_WRONLY | os.O_CREAT)
    # The others cannot have the seal away meanwhile.
    process = unsealing(a / "d/f")
    eventually(lambda: silent(a) == ["b"], "b is silent")
    expect_errno(errno.EPERM, os.remove, a / "d/f")
    look_at_all(top)
    # Back, it gives the seal up at once.
    b.namespace.mend()
    done(process)
    os.chmod(a / "d/f", 0o600)
    expect(mode_of(b), 0o600)
    os.close(top)


def test_sealed_is_served_with_a_dead_origin(w):
    a, b = prepare(w)
    seal(a.path)
    os.close(known(b, "", "other"))
    w.main_origin.kill()
    b.wait_until_disconnected()
    # By path, since the root is sealed, too.
    top = os.open(b / "d", os.O_RDONLY | os.O_DIRECTORY)
    look_at_all(top)
    os.close(top)
    expect(read_file(b / "other"), b"other")
    w.main_origin.start()
    eventually(lambda: b.status()["state"] == "connected", "b is back")
    expect_errno(errno.EPERM, answered, os.remove, b / "other")
    expect_errno(errno.EPERM, os.remove, a / "other")
    # Both answer, so that nothing is waited for.
    eventually(lambda: a.status()["state"] == "connected", "a is back")
    done(unsealing(b.path))
    os.remove(a / "other")
    expect(answered(os.listdir, b.path), ["d"])


def test_the_origin_remembers_who_is_silent(w):
    a, b = prepare(w, namespace=True)
    seal(a / "d")
    os.close(known(b))
    b.namespace.cut()
    eventually(lambda: silent(a) == ["b"], "b is silent")
    w.main_origin.kill()
    w.main_origin.start()
    eventually(lambda: a.status()["state"] == "connected", "a is back")
    eventually(lambda: "b" in (silent(a) or []), "the new process knows that b is silent")
    process = unsealing(a / "d/f")
    expect_errno(errno.EPERM, os.remove, a / "d/f")
    b.namespace.mend()
    done(process)
    os.chmod(a / "d/f", 0o600)
    expect(mode_of(b), 0o600)


def test_a_seal_ends_with_its_term(w):
    a, b = prepare(w)
    seal(a / "d", "16s")
    top = known(b)
    w.main_origin.signal(signal.SIGSTOP)
    b.wait_until_disconnected()
    look_at_all(top)

    def over():
        try:
            os.stat("f", dir_fd=top)
        except OSError as e:
            return e.errno == errno.EIO
        return False
    eventually(over, "the term is over")
    w.main_origin.signal(signal.SIGCONT)
    os.close(top)


def test_unsealing_waits_for_the_term_of_a_silent_host(w):
    a, b = prepare(w, namespace=True)
    seal(a / "d", "14s")
    os.close(known(b))
    b.namespace.cut()
    began = time.monotonic()
    said = done(unsealing(a / "d/f"))
    # From its last keep-alive, which was hardly more than a term before.
    expect(time.monotonic() - began > 5, True, "it waited")
    expect("hosts that do not answer: b" in said, True, said)
    os.chmod(a / "d/f", 0o600)
    b.namespace.mend()
    eventually(lambda: b.status()["state"] == "connected", "b is back")
    expect(mode_of(b), 0o600)


def test_a_dead_host_is_not_waited_for(w):
    a, b = prepare(w)
    seal(a / "d")
    os.close(known(b))
    b.crash()
    process = unsealing(a / "d/f")
    eventually(lambda: silent(a) == ["b"], "b is silent")
    expect(process.poll(), None, "it waits")
    done(unsealing(a / "d", "--dead", "b", "--dead", "c"))
    done(process)
    os.remove(a / "d/f")
    expect(silent(a), None)
    b.start()
    expect(answered(os.path.exists, b / "d/f"), False)
    # Who unmounts in good order is not silent.
    seal(a / "d")
    expect(sorted(answered(os.listdir, b / "d")), ["link", "sub"])
    b.unmount()
    done(unsealing(a / "d"))
    os.remove(a / "d/link")


def test_a_host_that_was_declared_dead_and_comes_back(w):
    a, b = prepare(w, namespace=True)
    seal(a / "d")
    top = known(b)
    b.namespace.cut()
    done(unsealing(a / "d", "--dead", "b"))
    os.chmod(a / "d/f", 0o600)
    write_file(a / "d/new", b"new")
    b.namespace.mend()
    eventually(lambda: b.status()["state"] == "connected", "b is back")
    # Until it hears that its session is over it goes on: that was the administrator's word.
    eventually(lambda: mode_of(b) == 0o600, "it sees what has changed")
    expect(answered(read_file, b / "d/new"), b"new")
    os.close(top)


if __name__ == "__main__":
    leasehold.main(globals())
