#!/usr/bin/env python3
"""
A process that is killed ends, whatever it waits for and whatever is wrong: origin killed, stopped or
cut off, daemon stopped or killed. Then the mount goes, too.

With a daemon that runs, a killed caller ends at once (it answers the interrupt). With one that is
stopped or dead the guardian ends all waiters, at the latest a lease term and its own `abort_after`
later. The test waits longer than that before it says that something hangs, since machines are slow.
"""

import os
import signal
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Skip, eventually, expect, pattern, write_file

ENDS_WITHIN_S = 200

# Each in a process of its own; `d` is the mount. They touch what no cache has.
WAITERS = {
    "open": "os.open(d + '/cold/f0', os.O_RDONLY)",
    "stat": "os.stat(d + '/cold/f1')",
    "list": "os.listdir(d + '/cold2')",
    "mkdir": "os.mkdir(d + '/cold/new')",
    "mkdir beside it": "os.mkdir(d + '/cold/new2')",
    "create": "os.open(d + '/cold3/new', os.O_CREAT | os.O_WRONLY)",
    "rename": "os.rename(d + '/cold3/f0', d + '/cold2/f0x')",
    "unlink": "os.unlink(d + '/cold3/f1')",
    "read": "os.pread(fd, 4096, 8 << 20)",
    "read on": "os.pread(fd, 1 << 20, 16 << 20)",
    "map": "mapping[24 << 20]",
    "write": "os.pwrite(wfd, b'x' * 100000, 0)",
    "append": "os.write(afd, b'x')",
    "truncate": "os.ftruncate(wfd, 10)",
    "sync": "os.fsync(wfd)",
    "xattr": "os.getxattr(d + '/cold/f2', 'user.x')",
    "lock": "fcntl.lockf(wfd, fcntl.LOCK_EX)",
    "space": "[os.statvfs(d) for _ in range(3)]",
}


def prepare(w, **options):
    if leasehold.LOCAL:
        raise Skip("nothing can be wrong with a plain directory")
    o = w.origin("--lease-term", "2s")
    for directory in ("cold", "cold2", "cold3"):
        os.mkdir(o.path_of(directory))
        for i in range(3):
            write_file(o.path_of(directory, "f%d" % i), b"1")
    write_file(o.path_of("big"), pattern(32 << 20))
    write_file(o.path_of("log"), b"")
    return o, w.host("a", "-o", "timeout=300s", **options)


def start_waiters(host):
    """
    Processes that are ready: their descriptors are open and a first page of `big` was read. Each
    goes on, and waits, when its pipe says so.
    """
    waiters = {}
    for name, expression in WAITERS.items():
        go, release = os.pipe()
        told, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                import fcntl, mmap  # noqa: F401 (used by the expressions)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                d = host.path
                fd = os.open(d + "/big", os.O_RDONLY)
                wfd = os.open(d + "/log", os.O_WRONLY)
                afd = os.open(d + "/log", os.O_WRONLY | os.O_APPEND)
                mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
                names = {"os": os, "fcntl": fcntl, "d": d, "fd": fd, "wfd": wfd, "afd": afd,
                         "mapping": mapping}
                os.close(release)
                os.write(ready, b"r")
                os.read(go, 1)
                eval(expression, names)
            except OSError:
                pass
            finally:
                os._exit(0)
        os.close(go)
        os.close(ready)
        expect(os.read(told, 1), b"r", name + " is ready")
        os.close(told)
        waiters[name] = (pid, release)
    return waiters


def gone(pid):
    """True when it has ended (and reaps it)."""
    done, _ = os.waitpid(pid, os.WNOHANG)
    return done == pid


def blocked(pid):
    """It sleeps in the kernel, in a system call on the mount: it has nothing else to wait for."""
    with open("/proc/%d/stat" % pid) as f:
        state = f.read().rsplit(")", 1)[1].split()[0]
    return state in "DS"


def let_them_wait(waiters):
    left = {}
    for name, (pid, release) in waiters.items():
        os.write(release, b"g")  # its siblings have copies: closing it would say nothing
        os.close(release)
        left[name] = pid
    for name in list(left):
        def settled(name=name):
            if gone(left[name]):
                del left[name]  # it had its answer or its error
                return True
            return blocked(left[name])
        eventually(settled, name + " waits or ends")
    return left


def kill_all(left):
    for pid in left.values():
        os.kill(pid, signal.SIGKILL)
    for name, pid in left.items():
        eventually(lambda pid=pid: gone(pid), "'%s' ends when it is killed" % name, ENDS_WITHIN_S)


def bad_day(w, spoil, **options):
    w.allow_log("")
    o, a = prepare(w, **options)
    waiters = start_waiters(a)
    try:
        spoil(o, a)
    finally:
        left = let_them_wait(waiters)
    print("# %d of %d waited" % (len(left), len(waiters)))
    kill_all(left)
    return o, a


def test_origin_killed(w):
    _, a = bad_day(w, lambda o, a: o.kill())
    a.unmount()


def test_origin_stopped(w):
    o, a = bad_day(w, lambda o, a: o.signal(signal.SIGSTOP))
    a.unmount()
    o.signal(signal.SIGCONT)


def test_host_cut_off(w):
    _, a = bad_day(w, lambda o, a: a.namespace.cut(), namespace=True)
    a.unmount()


def test_host_cut_off_and_its_lease_over(w):
    def cut(o, a):
        a.namespace.cut()
        a.wait_until_disconnected()
    _, a = bad_day(w, cut, namespace=True)
    a.unmount()


def test_daemon_stopped(w):
    _, a = bad_day(w, lambda o, a: a.signal(signal.SIGSTOP))
    a.signal(signal.SIGCONT)
    a.detach()


def test_daemon_stopped_and_origin_killed(w):
    def both(o, a):
        a.signal(signal.SIGSTOP)
        o.kill()
    _, a = bad_day(w, both)
    a.signal(signal.SIGCONT)
    a.detach()


def test_daemon_killed(w):
    _, a = bad_day(w, lambda o, a: a.signal(signal.SIGKILL))
    a.detach()


leasehold.main(globals())
