#!/usr/bin/env python3
"""
Processes that are killed, stopped and restarted. What is promised: no old byte after a change
was acknowledged, by read or through a mapping, and no wait without an end.
"""

import errno
import json
import os
import re
import signal
import stat
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (ANSWER_TIMEOUT_S, Reader, Skip, eventually, expect, expect_errno, pattern,
                       read_file, run, write_file)

OLD = "%08d" % 1
NEW = "%08d" % 2
# What a host may say that cannot know: never an old value.
REFUSALS = ("EIO", "ENOTCONN", "ETIMEDOUT", "ECONNABORTED", "SIGBUS", "ENODEV", "ESTALE")


def exists(path):
    try:
        os.stat(path)
        return True
    except OSError:
        return False


def fresh_or_refused(answer, what):
    if answer != NEW and answer not in REFUSALS:
        raise leasehold.Failure("%s: %s after %s was acknowledged" % (what, answer, NEW))


def after_the_daemon_is(w, number):
    """
    Host b's daemon gets a signal while processes hold a file open and mapped there; host a changes
    the file, and what b's processes see afterwards is new or an error.
    """
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a, b = w.host("a"), w.host("b", "-o", "timeout=10s")
    write_file(a / "f", OLD.encode())
    questions = ("read", "map", "newmap", "open")
    readers = {q: Reader(w, b / "f") for q in questions}
    for question, reader in readers.items():
        expect(reader.look(question), OLD, question + " before")
    b.signal(number)
    write_file(a / "f", NEW.encode(), "r+b")
    for question, reader in readers.items():
        reader.ask(question)
    for question, reader in readers.items():
        answer = reader.answer()
        if answer is None:
            raise leasehold.Failure(question + " does not come back")
        fresh_or_refused(answer, question)
    return a, b


def test_a_stopped_daemon_serves_nothing_old(w):
    a, b = after_the_daemon_is(w, signal.SIGSTOP)
    b.signal(signal.SIGCONT)

    def mended():
        # Either it goes on, or the guardian ended it and the host mounts again.
        if not b.running():
            b.detach()
            b.start()
        try:
            return read_file(b / "f") == NEW.encode()
        except OSError:
            return False
    eventually(mended, "b reads again")


def test_a_killed_daemon_serves_nothing_old(w):
    a, b = after_the_daemon_is(w, signal.SIGKILL)
    b.wait()
    b.detach()
    b.start()
    expect(read_file(b / "f"), NEW.encode(), "after the restart")


def test_without_its_guardian_a_mount_keeps_nothing_in_the_kernel(w):
    if leasehold.LOCAL:
        raise Skip("a plain directory has no guardian")
    w.allow_log("guardian process")
    w.origin()
    a = w.host("a")
    write_file(a / "f", OLD.encode())
    expect(read_file(a / "f"), OLD.encode())
    expect(a.status()["guardian"], "running")
    for pid in a.pids()[1:]:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: a.status()["guardian"] == "gone", "the daemon notices")
    eventually(lambda: a.status()["state"] == "connected", "a new session")
    for _ in range(3):
        expect(read_file(a / "f"), OLD.encode())
    before = a.status()["counters"]["requests"]
    for _ in range(10):
        os.stat(a / "f")
        expect(read_file(a / "f"), OLD.encode())
    requests = a.status()["counters"]["requests"] - before
    expect(requests >= 30, True, "%d requests: opens, reads, releases" % requests)
    write_file(a / "f", NEW.encode())
    expect(read_file(a / "f"), NEW.encode())
    a.unmount()


def test_a_dead_host_delays_a_writer_by_a_term_only(w):
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"one")
    read_file(b / "f")
    os.listdir(b.path)
    b.kill()
    write_file(a / "f", b"two")
    write_file(a / "g", b"new name")
    for i in range(50):
        write_file(a / "f", b"%d" % i)
    expect(read_file(a / "f"), b"49")


def test_a_killed_writer_loses_nothing_acknowledged(w):
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"%08d" % 0)
    acknowledged = [0]

    def write():
        try:
            fd = os.open(a / "f", os.O_WRONLY)
            for i in range(1, 1000000):
                os.pwrite(fd, b"%08d" % i, 0)
                acknowledged[0] = i
        except OSError:
            pass
    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: acknowledged[0] > 50, "some writes")
    a.kill()
    eventually(lambda: not writer.is_alive(), "the writer's process gets an error")
    seen = int(read_file(b / "f"))
    expect(seen in (acknowledged[0], acknowledged[0] + 1), True,
           "%d is seen, %d was acknowledged" % (seen, acknowledged[0]))
    write_file(b / "f", b"mine")
    expect(read_file(b / "f"), b"mine")


def test_a_killed_host_comes_back_to_its_cache(w):
    w.allow_log("")
    w.origin("--lease-term", "5s")
    a, b = w.hosts("a", "b")
    big, small = pattern(8 << 20), pattern(50000, 3)
    write_file(a / "big", big)
    write_file(a / "changes", small)
    write_file(a / "gone", small)
    for name, data in (("big", big), ("changes", small), ("gone", small)):
        expect(read_file(b / name), data)
    read = len(big) + 2 * len(small)
    eventually(lambda: b.recorded_bytes() >= read, "the records are written")
    b.crash()
    write_file(a / "changes", small[::-1])
    os.unlink(a / "gone")
    b.start()
    expect(read_file(b / "big"), big)
    expect(read_file(b / "changes"), small[::-1], "what changed meanwhile")
    expect_errno(errno.ENOENT, os.stat, b / "gone")
    fetched = b.status()["transport"]["bytes_in"]
    expect(fetched < 4 << 20, True, "fetched again: %d bytes" % fetched)


def test_a_clean_restart_keeps_the_cache(w):
    a, b = w.hosts("a", "b")
    data = pattern(8 << 20)
    write_file(a / "f", data)
    expect(read_file(b / "f"), data)
    b.unmount()
    expect(os.listdir(b.path), [], "the bare mount point")
    b.start()
    expect(read_file(b / "f"), data)
    fetched = b.status()["transport"]["bytes_in"]
    expect(fetched < 1 << 20, True, "fetched again: %d bytes" % fetched)
    b.unmount()
    write_file(a / "f", data[::-1])
    b.start()
    expect(read_file(b / "f"), data[::-1], "changed while b was away")


def test_an_origin_that_is_killed_comes_back(w):
    w.allow_log("")
    o = w.origin("--lease-term", "20s")
    a, b = w.hosts("a", "b")
    data = pattern(2 << 20)
    write_file(a / "f", data)
    expect(read_file(b / "f"), data)
    fd = os.open(b / "f", os.O_RDWR)
    o.kill()
    result = []
    writer = threading.Thread(target=lambda: result.append(os.pwrite(fd, b"while it was away", 5)))
    writer.start()
    o.start()
    writer.join(ANSWER_TIMEOUT_S)
    expect(result, [17], "the write that waited")
    expected = data[:5] + b"while it was away" + data[22:]
    for host in (a, b):
        expect(read_file(host / "f"), expected, host.name)
    write_file(a / "g", b"g")
    expect(read_file(b / "g"), b"g")
    expect(read_file(o.path_of("f")), expected, "at the origin")
    os.close(fd)


def test_descriptors_survive_a_restart_of_the_origin(w):
    w.allow_log("")
    o = w.origin("--lease-term", "20s")
    a, b = w.hosts("a", "b")
    write_file(a / "f", pattern(300000))
    reader, writer = os.open(b / "f", os.O_RDONLY), os.open(a / "f", os.O_RDWR)
    gone = os.open(b / "f", os.O_RDONLY)
    directory = os.open(b.path, os.O_RDONLY | os.O_DIRECTORY)
    os.pread(reader, 100, 0)
    for round in range(3):
        o.kill()
        o.start()
        os.pwrite(writer, b"round %d" % round, 1000 * round)
        expect(os.pread(reader, 7, 1000 * round), b"round %d" % round)
        expect(os.listdir(directory), ["f"])
    os.unlink(a / "f")
    expect(os.pread(gone, 7, 1000), b"round 1")
    for fd in (reader, writer, gone, directory):
        os.close(fd)


def test_changes_made_while_the_origin_was_down_are_found(w):
    w.allow_log("")
    o = w.origin("--lease-term", "20s")
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"before")
    expect(read_file(b / "f"), b"before")
    expect(os.listdir(b.path), ["f"])
    o.kill()
    write_file(o.path_of("f"), b"behind")
    write_file(o.path_of("g"), b"new")
    o.start()
    for host in (a, b):
        eventually(lambda: read_file(host / "f") == b"behind", host.name + " sees the new bytes")
        eventually(lambda: sorted(os.listdir(host.path)) == ["f", "g"], "and the new name")


def test_changes_that_keep_sizes_and_times_are_found_after_a_restart(w):
    w.allow_log("")
    o = w.origin("--lease-term", "20s")
    host = w.host("a")

    def keeping_times(name, change):
        path = o.path_of(name)
        old = os.stat(path)
        change(path)
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))

    def write_in_place(path):
        with open(path, "r+b") as f:
            f.write(b"behind")

    def state():
        return (read_file(host / "f"), read_file(host / "r"), sorted(os.listdir(host / "d")),
                stat.S_IMODE(os.stat(host / "m").st_mode), os.path.exists(host / "gone"),
                read_file(host / "same"))
    os.mkdir(host / "d")
    for name in ("f", "r", "m", "gone", "same", "d/one"):
        write_file(host / name, b"before")
    os.chmod(host / "m", 0o600)
    expect(state(), (b"before", b"before", ["one"], 0o600, True, b"before"))
    o.kill()
    keeping_times("f", write_in_place)
    write_file(o.path_of("d/two"), b"")
    keeping_times("d", lambda path: os.rename(path + "/two", o.path_of("d/three")))
    keeping_times("m", lambda path: os.chmod(path, 0o640))
    write_file(o.path_of("new"), b"behind")
    old = os.stat(o.path_of("r"))
    os.utime(o.path_of("new"), ns=(old.st_atime_ns, old.st_mtime_ns))
    os.rename(o.path_of("new"), o.path_of("r"))
    os.unlink(o.path_of("gone"))
    o.start()
    wanted = (b"behind", b"behind", ["one", "three"], 0o640, False, b"before")
    eventually(lambda: state() == wanted, "all of it is seen")


def test_unlinked_files_survive_a_restart_of_the_origin(w):
    w.allow_log("")
    o = w.origin("--lease-term", "20s")
    a, b = w.hosts("a", "b")
    data = pattern(100000)
    write_file(a / "f", data)
    fd = os.open(b / "f", os.O_RDONLY)
    os.unlink(a / "f")
    o.kill()
    o.start()
    expect(os.pread(fd, 200000, 0), data)
    os.close(fd)


def test_without_the_origin_calls_end(w):
    w.allow_log("")
    o = w.origin("--lease-term", "5s")
    write_file(o.path_of("f"), b"1")
    a = w.host("a", "-o", "timeout=3s")
    o.kill()
    ends = (errno.ETIMEDOUT, errno.EIO, errno.ENOTCONN)
    expect_errno(ends, write_file, a / "f", b"2")
    a.wait_until_disconnected()
    expect_errno(ends, read_file, a / "f")
    expect_errno(ends, os.listdir, a.path)
    expect_errno(ends, os.mkdir, a / "d")


def test_disconnected_fail_does_not_wait(w):
    w.allow_log("")
    o = w.origin("--lease-term", "5s")
    a = w.host("a", "-o", "disconnected=fail,timeout=60s")
    write_file(a / "f", b"1")
    o.kill()
    a.wait_until_disconnected()
    expect_errno(errno.EIO, read_file, a / "f")
    for function, arguments in ((os.stat, (a / "g",)), (os.stat, (a.path,)),
                                (os.listdir, (a.path,)), (os.mkdir, (a / "d",)),
                                (write_file, (a / "f", b"2")), (os.unlink, (a / "f",)),
                                (os.getxattr, (a / "f", "user.x"))):
        expect_errno(errno.EIO, function, *arguments)
    o.start()
    eventually(lambda: exists(a / "f"), "a is back")
    expect(read_file(a / "f"), b"1")
    o.kill()
    a.wait_until_disconnected()
    a.unmount()


def test_disconnected_stale_serves_what_was_cached(w):
    """And nothing of it once the origin is back, neither by the kernel's pages."""
    w.allow_log("")
    o = w.origin("--lease-term", "5s")
    os.mkdir(o.path_of("d"))
    for i in range(3):
        write_file(o.path_of("d", "f%d" % i), b"one")
    a = w.host("a", "-o", "disconnected=stale,timeout=5s,prefetch=off")
    fd = os.open(a / "d/f0", os.O_RDONLY)
    expect(os.pread(fd, 10, 0), b"one")
    expect(sorted(os.listdir(a / "d")), ["f0", "f1", "f2"])
    expect(read_file(a / "d/f1"), b"one")
    for name in ("d/f0", "d/f1"):
        eventually(lambda: a.xattr("cached", name) == "3", "it is on the disk")
    o.kill()
    a.wait_until_disconnected()
    for _ in range(3):
        expect(os.pread(fd, 10, 0), b"one")
        expect(read_file(a / "d/f1"), b"one")
        expect(os.stat(a / "d/f1").st_size, 3)
        expect(os.path.exists(a / "d/absent"), False)
        expect(sorted(os.listdir(a / "d")), ["f0", "f1", "f2"])
    expect(a.status()["counters"]["stale"] > 0, True, "counted")
    expect_errno(errno.ETIMEDOUT, read_file, a / "d/f2")  # what is not cached waits
    expect_errno((errno.ETIMEDOUT, errno.EIO), write_file, a / "d/f1", b"two")
    write_file(o.path_of("d", "f0"), b"two")
    write_file(o.path_of("d", "f3"), b"new")
    o.start()
    eventually(lambda: a.status()["state"] == "connected", "a is back")
    for _ in range(3):
        expect(os.pread(fd, 10, 0), b"two", "through an open descriptor")
        expect(read_file(a / "d/f0"), b"two")
        expect(sorted(os.listdir(a / "d")), ["f0", "f1", "f2", "f3"])
        expect(read_file(a / "d/f1"), b"one")
    stale = a.status()["counters"]["stale"]
    expect(read_file(a / "d/f1"), b"one")
    expect(a.status()["counters"]["stale"], stale, "none any more")
    os.close(fd)


def test_umount_returns_when_the_origin_is_gone(w):
    w.allow_log("")
    o = w.origin("--lease-term", "10s")
    a = w.host("a")
    write_file(a / "f", b"1")
    o.kill()
    a.unmount()
    o.start()
    a.start()
    os.listdir(a.path)
    o.kill()
    a.wait_until_disconnected()
    a.unmount()


def test_status_needs_no_origin(w):
    w.allow_log("")
    o = w.origin("--lease-term", "5s")
    a = w.host("a")
    write_file(a / "f", b"1")
    free = os.statvfs(a.path).f_blocks
    o.kill()
    a.wait_until_disconnected()
    status = json.loads(run(leasehold.BINARY, "status", a.path, "--json").stdout)
    expect(status["state"], "disconnected")
    expect(json.loads(run(leasehold.BINARY, "status", a / "f", "--json").stdout)["state"],
           "disconnected", "by a path below")
    expect(os.statvfs(a.path).f_blocks, free, "what was heard last")
    expect(os.stat(a.path).st_nlink, 1, "nothing is told about the content")
    o.start()
    eventually(lambda: os.stat(a.path).st_nlink > 1, "the origin's own answer")


def test_readers_of_a_lost_origin_do_not_hold_up_umount(w):
    w.allow_log("")
    o = w.origin("--lease-term", "1s")
    a = w.host("a")
    write_file(o.path_of("f"), pattern(32 << 20))
    fd = os.open(a / "f", os.O_RDONLY)
    os.pread(fd, 4096, 0)
    os.close(fd)
    reader = Reader(w, a / "f")
    o.kill()
    a.wait_until_disconnected()
    reader.ask("all")
    expect(reader.answer(0.5), None, "an answer without an origin")
    reader.process.kill()
    expect(reader.process.wait(ANSWER_TIMEOUT_S), -signal.SIGKILL, "the reader's end")
    a.unmount()


def test_a_waiting_caller_can_be_killed(w):
    w.allow_log("")
    o = w.origin("--lease-term", "1s")
    a = w.host("a")
    write_file(a / "f", OLD.encode())
    reader = Reader(w, a / "f")
    o.kill()
    a.wait_until_disconnected()
    reader.ask("open")
    expect(reader.answer(0.5), None, "an answer without an origin")
    reader.process.kill()
    expect(reader.process.wait(ANSWER_TIMEOUT_S), -signal.SIGKILL, "the reader's end")


def opens_at_the_origin(w, host):
    """How many inodes the origin believes to be open, of all hosts."""
    keys = os.path.join(host.keys, "127.0.0.1:%d" % host.origin.port)
    for name in ("ca.pem", "host.pem", "host.key"):  # curl wants paths without a colon
        if not os.path.lexists(os.path.join(w.path, name)):
            os.symlink(os.path.join(keys, name), os.path.join(w.path, name))
    answer = run("curl", "-sSf", "--http2", "--cacert", w.path + "/ca.pem", "--cert",
                 w.path + "/host.pem", "--key", w.path + "/host.key",
                 "https://127.0.0.1:%d/status" % host.origin.port)
    return json.loads(re.search(r'"opens": *(\d+)', answer.stdout).group(1))


def test_no_open_is_left_behind(w):
    """
    An unlink elsewhere registers an open that the origin had not heard of; the close that follows
    takes another way to the origin, and must not come before.
    """
    w.origin()
    a, b = w.hosts("a", "b")
    for i in range(150):
        name = "f%d" % i
        write_file(a / name, b"1")
        fds = [os.open(b / name, os.O_RDONLY) for _ in range(2)]
        expect(os.read(fds[0], 10), b"1")
        os.close(fds[0])
        unlink = threading.Thread(target=os.unlink, args=(a / name,))
        unlink.start()
        if i % 2:
            unlink.join()
        os.close(fds[1])
        unlink.join()
    eventually(lambda: opens_at_the_origin(w, a) == 0, "no open is left")


def test_sigterm_ends_a_mount(w):
    a = w.host("a")
    write_file(a / "f", b"1")
    a.signal(signal.SIGTERM)
    expect(a.wait(), 0, "exit status")
    expect(leasehold.is_mounted(a.path), False, "still mounted")


def busy(w, origin_dies=False, unmounted=False):
    """SIGTERM for a mount in use: it ends, and its users see nothing old afterwards."""
    w.allow_log("")
    o = w.origin("--lease-term", "2s")
    a, b = w.host("a"), w.host("b", "-o", "timeout=10s")
    write_file(a / "f", OLD.encode())
    questions = ("read", "map", "newmap", "open")
    readers = {q: Reader(w, b / "f") for q in questions}
    for question, reader in readers.items():
        expect(reader.look(question), OLD, question + " before")
    if unmounted:
        run("umount", "-l", b.path)
        expect(readers["read"].look("read"), OLD, "an unmounted file system in use goes on")
    if origin_dies:
        o.kill()
    b.signal(signal.SIGTERM)
    expect(b.wait(), 0, "exit status")
    expect(leasehold.is_mounted(b.path), False, "still mounted")
    if origin_dies:
        o.start()
    write_file(a / "f", NEW.encode(), "r+b")
    for question, reader in readers.items():
        if question == "open":
            continue
        answer = reader.look(question)
        if answer == OLD:
            raise leasehold.Failure("%s: %s after %s was acknowledged" % (question, answer, NEW))
    for reader in readers.values():
        reader.end()
    b.start()
    expect(read_file(b / "f"), NEW.encode(), "mounted again")


def test_sigterm_ends_a_busy_mount(w):
    busy(w)


def test_sigterm_ends_a_busy_mount_without_the_origin(w):
    busy(w, origin_dies=True)


def test_sigterm_ends_a_mount_that_was_detached(w):
    busy(w, unmounted=True)


def test_sigterm_ends_a_detached_mount_without_the_origin(w):
    busy(w, unmounted=True, origin_dies=True)


def test_a_detached_mount_ends_with_its_last_user(w):
    a = w.host("a")
    write_file(a / "f", b"1")
    fd = os.open(a / "f", os.O_RDONLY)
    run("umount", "-l", a.path)
    expect(os.pread(fd, 10, 0), b"1")
    expect(a.running(), True, "the daemon")
    os.close(fd)
    expect(a.wait(), 0, "exit status")


def test_writers_of_a_lost_origin_do_not_hold_up_the_end(w):
    w.allow_log("")
    o = w.origin("--lease-term", "1s")
    a = w.host("a")
    write_file(a / "f", b"1")
    o.kill()
    ends = []

    def write(name):
        try:
            write_file(a / name, b"2")
        except OSError as e:
            ends.append(errno.errorcode[e.errno])
    writers = [threading.Thread(target=write, args=(n,)) for n in ("f", "g", "h")]
    for writer in writers:
        writer.start()
    a.wait_until_disconnected()
    expect(ends, [], "they wait")
    a.signal(signal.SIGTERM)
    expect(a.wait(), 0, "exit status")
    for writer in writers:
        writer.join(ANSWER_TIMEOUT_S)
    expect(len(ends), 3, "ends")


def test_the_origin_drains_when_told_to_stop(w):
    w.allow_log("")
    o = w.origin("--lease-term", "2s")
    a, b = w.hosts("a", "b")
    write_file(a / "f", b"1")
    read_file(b / "f")
    o.stop()
    o.start()
    write_file(b / "f", b"2")
    expect(read_file(a / "f"), b"2")


leasehold.main(globals())
