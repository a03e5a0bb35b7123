#!/usr/bin/env python3
"""One cache for several mounts: of exports, origins, directories, other mount namespaces."""

import errno
import os
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import (BINARY, eventually, expect, expect_errno, is_mounted, pattern, read_file, run,
                       run_together, write_file)

# A new mount namespace has copies of all mounts: those of other tests would outlive their umount.
FORGET = "umount -a -i -l -t fuse.leasehold; exec \"$@\""


def with_cache_of(first, name, export="default", origin=None, command=None):
    """A mount of another export that is to use the same cache; not started."""
    if leasehold.LOCAL:
        raise leasehold.Skip("there is no cache without mounts")
    h = first.world.host(name, origin=origin or first.origin, start=False)
    h.cache = first.cache
    h.url = lambda: "https://127.0.0.1:%d/%s" % (h.origin.port, export)
    if h.origin is first.origin:
        h.keys, h.joined = first.keys, True
    if command:
        plain = h.command
        h.command = lambda *more: command + plain(*more)
    return h


def origin_with_exports(w, *names):
    options = ["--export", "default=" + os.path.join(w.path, "origin.export")]
    for name in names:
        path = os.path.join(w.path, "export-" + name)
        os.makedirs(path + "/sub")
        write_file(path + "/f", name.encode())
        write_file(path + "/sub/f", b"sub of " + name.encode())
        options += ["--export", "%s=%s" % (name, path)]
    return w.origin(*options)


def served_by(h):
    return h.status()["process"]


def ends(h, status=0):
    """A command in front comes back."""
    expect(h.wait(), status, "exit status of the mount of " + h.name)


def test_exports_and_a_directory_share_a_cache(w):
    origin_with_exports(w, "x", "y")
    a = w.host("a")
    write_file(a / "f", b"default")
    hosts = [a] + [with_cache_of(a, name, export).start() for name, export in (
        ("x", "x"), ("y", "y"), ("sub", "x/sub"), ("again", "x"))]
    for h, content in zip(hosts, (b"default", b"x", b"y", b"sub of x", b"x")):
        expect(read_file(h / "f"), content, h.name)
        expect(served_by(h), a.process.pid, h.name)
        expect(h.status()["cache"]["mounts"], 5)
    x, y, sub, again = hosts[1:]
    # Sessions of their own, which see each other's changes at once.
    write_file(x / "sub/f", b"changed above")
    expect(read_file(sub / "f"), b"changed above")
    expect(read_file(again / "sub/f"), b"changed above")
    write_file(sub / "new", pattern(100000))
    expect(read_file(x / "sub/new"), pattern(100000))
    os.truncate(again / "sub/new", 5000)
    expect(read_file(sub / "new"), pattern(100000)[:5000])
    fetched = x.status()["counters"]["fetched_bytes"]
    expect(read_file(y / "sub/f"), b"sub of y")
    expect(x.status()["counters"]["fetched_bytes"], fetched, "counters are each mount's own")
    # One goes, then the one that the daemon was started for, and the others stay.
    run("umount", y.path)
    ends(y)
    run("umount", a.path)
    expect(os.listdir(a.path), [])
    eventually(lambda: x.status()["cache"]["mounts"] == 3, "two have ended")
    expect(a.running(), True, "the daemon")
    expect(read_file(x / "sub/f"), b"changed above")
    # It takes more, and the same again.
    a2 = with_cache_of(a, "a2").start()
    expect(read_file(a2 / "f"), b"default")
    expect(served_by(a2), a.process.pid)
    for h in (x, sub, again, a2):
        expect(a.running(), True, "the daemon")
        h.unmount()
    ends(a)
    a.start()
    expect(read_file(a / "f"), b"default", "a new daemon")


def test_equal_names_of_two_origins_are_apart(w):
    a = w.host("a")
    other = w.origin("--lease-term", "5s", name="other")
    b = with_cache_of(a, "b", origin=other).start()
    for i in range(20):
        write_file(a.origin.path_of("f%d" % i), b"of a %d" % i)
        write_file(other.path_of("f%d" % i), b"of b %d" % i)
    for _ in range(2):
        for i in range(20):
            expect(read_file(a / "f%d" % i), b"of a %d" % i)
            expect(read_file(b / "f%d" % i), b"of b %d" % i)
    # One origin is away: that is nothing to the mount of the other.
    w.allow_log("session with .* ended|origin .* does not answer|[Cc]ould not connect|refused")
    other.stop()
    b.wait_until_disconnected()
    expect(a.status()["state"], "connected")
    write_file(a / "f1", b"new")
    expect(read_file(a / "f1"), b"new")
    other.start()
    eventually(lambda: b.status()["state"] == "connected", "b is connected again")
    expect(read_file(b / "f1"), b"of b 1")


def test_one_cap_is_held_over_all(w):
    size = 12 << 20
    origin_with_exports(w, "x")
    a = w.host("a", "--cache-size", "%d" % size)
    x = with_cache_of(a, "x", "x")
    x.options += ["--cache-size", "%d" % size]
    x.start()
    exported = os.path.join(w.path, "export-x")
    for i in range(16):
        write_file(a.origin.path_of("f%d" % i), pattern(1 << 20, i))
        write_file("%s/f%d" % (exported, i), pattern(1 << 20, 100 + i))

    def read(h, seed, start):
        for i in range(32):
            i = (i * 5 + start) % 16
            expect(read_file(h / "f%d" % i) == pattern(1 << 20, seed + i), True, "bytes")
            cache = h.status()["cache"]
            expect(cache["bytes"] <= size, True, "%r" % cache)
    run_together([lambda args=args: read(*args) for args in (
        (a, 0, 0), (a, 0, 7), (x, 100, 0), (x, 100, 7))])
    objects = os.path.join(a.cache, "objects")
    taken = sum(os.lstat(os.path.join(d, f)).st_blocks * 512
                for d, _, fs in os.walk(objects) for f in fs)
    expect(0 < taken <= size, True, "%d bytes on disk" % taken)


def test_mounts_begin_and_end_at_the_same_moment(w):
    """Whoever is first has the cache, one that ends is waited for, a killed command leaves nothing."""
    names = ("x", "y", "z")
    origin_with_exports(w, *names)
    a = w.host("a")
    hosts = [with_cache_of(a, name, name) for name in names]
    a.unmount()
    w.allow_log("")

    def command(h):
        return subprocess.Popen([c for c in h.command() if c != "-f"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for number in range(4):
        commands = [command(h) for h in hosts]
        for h, c in zip(hosts, commands):
            errors = c.communicate(timeout=leasehold.COMMAND_TIMEOUT_S)[1]
            expect(c.returncode, 0, "%s: %s" % (h.name, errors))
            expect(read_file(h / "f"), h.name.encode())
        expect(len({served_by(h) for h in hosts}), 1, "daemons")
        for h in hosts:
            run("umount", h.path)
    a.wait_until_cache_is_free()
    a.start()
    threads = tasks_of(a)

    def undone():
        if is_mounted(hosts[0].path):  # it was made before the command was killed, or is being undone
            run("umount", hosts[0].path, check=False)
        return (not is_mounted(hosts[0].path) and tasks_of(a) <= threads and
                a.status()["cache"]["mounts"] == 1)
    for number in range(12):
        c = command(hosts[0])
        try:
            c.wait(number * 0.01)
        except subprocess.TimeoutExpired:
            c.kill()
        c.communicate()  # until all that it started has let go of its standard error
        eventually(undone, "no mount and no thread is left")


def tasks_of(h):
    return len(os.listdir("/proc/%d/task" % h.process.pid))


def test_a_killed_daemon_is_fenced_on_every_mount(w):
    origin_with_exports(w, "x")
    a = w.host("a")
    x = with_cache_of(a, "x", "x").start()
    for h in (a, x):
        write_file(h / "f", b"12345678")
    readers = [leasehold.Reader(w, h / "f") for h in (a, x)]
    for reader in readers:
        expect(reader.look("map"), "12345678")
    w.allow_log("")
    a.process.kill()
    a.process.wait()
    for h in (a, x):
        eventually(lambda h=h: fails_with(h, errno.ENOTCONN), h.name + " is fenced")
        expect(is_mounted(h.path), True, "a job must not write below")
    # First calls fail, then, well before others may change the file, pages go.
    for reader in readers:
        eventually(lambda r=reader: r.look("map") == "SIGBUS", "a mapping is fenced")
    ends(x, 1)
    for h in (x, a):
        h.detach()
    # What is left behind is no obstacle.
    a.start()
    x.start()
    for h in (a, x):
        expect(read_file(h / "f"), b"12345678")


def fails_with(h, number):
    try:
        os.listdir(h.path)
        return False
    except OSError as e:
        return e.errno == number


def test_what_happens_to_one_mount_is_nothing_to_another(w):
    """Its guardian dies, its connection is aborted, who stays in front of it is killed."""
    origin_with_exports(w, "x", "y")
    a = w.host("a")
    x = with_cache_of(a, "x", "x").start()
    y = with_cache_of(a, "y", "y").start()
    w.allow_log("guardian|busy|ended this mount|kernel caches nothing")
    expect(read_file(x / "f"), b"x")
    guardian = guardian_of(x)
    os.kill(guardian, signal.SIGKILL)
    eventually(lambda: x.status()["guardian"] == "gone", "its guardian is gone")
    for h in (a, y):
        expect(h.status()["guardian"], "running")
    expect(read_file(x / "f"), b"x")
    x.abort()
    eventually(lambda: not x.running(), "the mount of x ends")
    for h, content in ((y, b"y"), (y, b"y")):
        expect(read_file(h / "f"), content)
    run("umount", "-l", x.path)
    x.start()
    expect(read_file(x / "f"), b"x", "mounted again")
    # Unmounted by who is killed in front of it, though it is busy.
    with open(y / "f"):
        y.kill()
        eventually(lambda: not is_mounted(y.path), "y is unmounted")
    eventually(lambda: a.status()["cache"]["mounts"] == 2, "its mount has ended")
    expect(read_file(x / "f"), b"x")
    # The daemon is told to end: all end, in good order.
    a.signal(signal.SIGTERM)
    ends(a)
    ends(x)
    for h in (a, x, y):
        expect(is_mounted(h.path), False, h.name)


def guardian_of(h):
    """The command forked it, and waits in front."""
    with open("/proc/%d/task/%d/children" % (h.process.pid, h.process.pid)) as f:
        children = [int(p) for p in f.read().split()]
    expect(len(children), 1, "children of the command")
    return children[0]


def test_a_mount_in_another_mount_namespace(w):
    origin_with_exports(w, "x", "y")
    a = w.host("a")

    def inside(name, export):
        h = with_cache_of(a, name, export, command=["unshare", "-m", "sh", "-c", FORGET, "sh"])
        h.spawn(h.command())
        eventually(lambda: b" mounted on " in h.log() or not h.running(), "it is mounted")
        expect(h.running(), True, h.log())
        expect(is_mounted(h.path), False, "not here")
        h.seen = "/proc/%d/root%s" % (h.process.pid, h.path)
        return h
    x = inside("x", "x")
    expect(read_file(x.seen + "/f"), b"x")
    write_file(x.seen + "/f", b"written there")
    expect(a.status()["cache"]["mounts"], 2)
    # Ended by who is in front of it, by its namespace's end, by the daemon's.
    x.signal(signal.SIGTERM)
    ends(x)
    eventually(lambda: a.status()["cache"]["mounts"] == 1, "it has ended")
    y = inside("y", "y")
    expect(read_file(y.seen + "/f"), b"y")
    w.allow_log("")  # how far it gets with a namespace that is going
    os.kill(guardian_of(y), signal.SIGKILL)
    y.kill()
    eventually(lambda: a.status()["cache"]["mounts"] == 1, "it has ended with its namespace")
    x = inside("x2", "x")
    expect(read_file(x.seen + "/f"), b"written there")
    a.signal(signal.SIGTERM)
    ends(a)
    ends(x)


def test_commands_hear_what_becomes_of_their_mounts(w):
    origin_with_exports(w, "x")
    a = w.host("a")
    x = with_cache_of(a, "x", "x")
    w.allow_log("")

    def command(export, *more):
        return run(BINARY, "mount", "https://127.0.0.1:%d/%s" % (a.origin.port, export), x.path,
                   "--cache", a.cache, "--keys", a.keys, "--host-name", "x", *more, check=False)
    result = command("none", "--cache-size", "1G")
    expect(result.returncode, 1, result.stderr)
    expect('has no export "none"' in result.stderr, True, result.stderr)
    expect(is_mounted(x.path), False)
    result = command("x/f", "--cache-size", "1G")
    expect(result.returncode, 1, result.stderr)
    expect("Not a directory" in result.stderr, True, result.stderr)
    expect(is_mounted(x.path), False)
    # In the background, with other limits than the cache has.
    result = command("x", "--cache-size", "2G", "--memory", "1G", "--ro")
    expect(result.returncode, 0, result.stderr)
    expect(result.stderr.count("no effect"), 2, result.stderr)
    expect("--cache-size" in result.stderr and "--memory" in result.stderr, True, result.stderr)
    expect(x.status()["cache"]["bytes_max"], 1 << 30)
    expect(read_file(x / "f"), b"x", "at once")
    expect_errno(errno.EROFS, write_file, x / "f", b"")
    expect(a.status()["read_only"], False)
    run("umount", x.path)
    eventually(lambda: a.status()["cache"]["mounts"] == 1, "it has ended")
    # A daemon that says nothing.
    os.kill(a.process.pid, signal.SIGSTOP)
    try:
        result = command("x", "--cache-size", "1G")
    finally:
        os.kill(a.process.pid, signal.SIGCONT)
    expect(result.returncode, 1, result.stderr)
    expect("process %d" % a.process.pid in result.stderr and "stopped" in result.stderr, True,
           result.stderr)
    expect(is_mounted(x.path), False)
    # What it was asked while it was stopped is undone, and it serves on.
    write_file(a / "f", b"1")
    result = command("x", "--cache-size", "1G")
    expect((result.returncode, "no effect" in result.stderr), (0, False), result.stderr)
    expect(read_file(x / "f"), b"x")
    eventually(lambda: a.status()["cache"]["mounts"] == 2, "none is left of the one that gave up")


leasehold.main(globals())
