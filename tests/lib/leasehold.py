"""
leasehold.py - what the mount tests stand on: real origins, real mounts, a real kernel.

A test script defines functions test_...(world) and ends with `leasehold.main(globals())`. Each
function gets a World of its own: a private work directory, and whatever origins and hosts it
starts there. When it ends, pass or fail, everything it started is ended: mounts are unmounted (and
their connections aborted when that does not work), daemons are waited for, namespaces removed, and
every daemon's log is searched for what should not be there. Output is TAP.

Rules for tests: wait for conditions with eventually(), never sleep as synchronisation; coherence
itself is never waited for, it must hold at once; no test asserts a speed.

Environment: LEASEHOLD (the binary), TMPDIR (where work directories go), LEASEHOLD_TEST_KEEP=1
(leave the work directory of a failed test), LEASEHOLD_TEST_LOCAL=1 (test the tests: every host is
the exported directory itself, so that what fails expects something that a local file system does
not do), LEASEHOLD_TEST_MOUNT (options that every mount gets, before those of the test). Arguments:
names of test functions to run.
"""

import ctypes
import errno
import faulthandler
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from proxy import Proxy

BINARY = os.environ.get("LEASEHOLD", "leasehold")
# None of these is a promise of the product's: they only end what would never end, on a machine that
# has other things to do, under sanitizers.
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 90
COMMAND_TIMEOUT_S = 200
ANSWER_TIMEOUT_S = 150
LOCAL = bool(os.environ.get("LEASEHOLD_TEST_LOCAL"))
TEST_TIMEOUT_S = int(os.environ.get("LEASEHOLD_TEST_TIMEOUT", "300"))
MOUNT_OPTIONS = os.environ.get("LEASEHOLD_TEST_MOUNT", "").split()
PREFIX = "user.leasehold."

# What no log may say unless the test expects it (World.allow_log).
BAD_LOG = re.compile(
    rb"level=(warn|warning|error)\b|\bwarning:|\berror:|AddressSanitizer|LeakSanitizer|"
    rb"ThreadSanitizer|runtime error:|Assertion|assertion|SUMMARY:",
    re.IGNORECASE)
# What no test may allow.
FATAL_LOG = re.compile(rb"AddressSanitizer|LeakSanitizer|ThreadSanitizer|runtime error:|ssertion")


class Skip(Exception):
    """Raised by a test that cannot run here; says why."""


class Failure(AssertionError):
    pass


def eventually(condition, what, timeout=START_TIMEOUT_S):
    """Waits until condition() is true; its value. Raises Failure after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("not within %s s: %s" % (timeout, what))
        time.sleep(0.01)


def is_stopped(pid):
    """By a signal (T), and not by who traces it (t)."""
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"
    except OSError:
        return False


def expect(actual, expected, what=""):
    if actual != expected:
        def short(value):
            text = repr(value)
            return text if len(text) < 300 else text[:300] + "... (%d)" % len(text)
        raise Failure("%s: got %s, expected %s" % (what or "value", short(actual), short(expected)))


def expect_errno(code, function, *arguments, **keywords):
    """The call must fail with that errno (one of them, for a tuple)."""
    codes = code if isinstance(code, tuple) else (code,)
    try:
        value = function(*arguments, **keywords)
    except OSError as e:
        if e.errno in codes:
            return e
        raise Failure("%s%r: got %s, expected %s" % (
            getattr(function, "__name__", "call"), arguments, errno.errorcode.get(e.errno, e.errno),
            "/".join(errno.errorcode[c] for c in codes))) from e
    raise Failure("%s%r: succeeded (%r), expected %s" % (
        getattr(function, "__name__", "call"), arguments, value,
        "/".join(errno.errorcode[c] for c in codes)))


def write_file(path, data, mode="wb"):
    with open(path, mode, buffering=0) as f:
        view = memoryview(data)
        while view:
            view = view[f.write(view):]


def read_file(path):
    with open(path, "rb", buffering=0) as f:
        return f.read()


def pattern(size, seed=0):
    """`size` bytes that differ from those of other seeds at every page."""
    block = bytes((i * 7 + seed * 31 + (i >> 8)) & 0xff for i in range(4096))
    out = bytearray()
    while len(out) < size:
        out += (b"%08x:%08x:" % (seed & 0xffffffff, len(out))) + block[18:]
    return bytes(out[:size])


def peek(mapping, start=0, end=None):
    """
    Bytes of a mapping. The kernel does the look, so that a page that cannot be had is EFAULT
    and not a SIGBUS that ends the test with everything that it runs.
    """
    end = len(mapping) if end is None else end
    fd = os.memfd_create("peek")
    try:
        with memoryview(mapping) as view:
            at = start
            while at < end:
                at += os.pwrite(fd, view[at:end], at - start)
        return os.pread(fd, end - start, 0)
    finally:
        os.close(fd)


def run_together(functions, errors=None):
    """Runs them in threads that begin at one moment; raises the first error. What lasts until another
    one fails is given a list `errors` to look at."""
    barrier = threading.Barrier(len(functions))
    errors = [] if errors is None else errors

    def guarded(function):
        barrier.wait()
        try:
            function()
        except BaseException as e:
            errors.append(e)
    threads = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def run(*command, check=True, timeout=COMMAND_TIMEOUT_S, **keywords):
    """Runs a command to its end; its stdout, stderr and status as text."""
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                            text=True, **keywords)
    if check and result.returncode != 0:
        raise Failure("%s: exit status %d\n%s%s" % (
            " ".join(str(c) for c in command), result.returncode, result.stdout, result.stderr))
    return result


def device_of(path):
    """MAJOR:MINOR of what is mounted there, the last of them; None: nothing."""
    with open("/proc/self/mountinfo") as f:
        fields = [line.split(" ") for line in f]
    return next((x[2] for x in reversed(fields) if x[4] == path), None)


def is_mounted(path):
    return device_of(path) is not None


_libc = ctypes.CDLL(None, use_errno=True)


def rename2(old, new, flags):
    """renameat2(2), which Python does not have."""
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), old)


RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Daemon:
    """A child process in the foreground whose standard error is a log in the work directory."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.process = None
        self.log_path = os.path.join(world.path, name + ".log")
        world.daemons.append(self)

    def spawn(self, command, stdout=None):
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL,
                                        stdout=stdout or log, stderr=log)
        log.close()

    def log(self):
        try:
            with open(self.log_path, "rb") as f:
                return f.read()
        except FileNotFoundError:
            return b""

    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=STOP_TIMEOUT_S):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure("%s did not end within %s s%s" % (
                self.name, timeout, self.why_not_ended())) from None

    def why_not_ended(self):
        return ""

    def kill(self):
        """SIGKILL, and waits."""
        if self.process:
            self.process.kill()
            self.process.wait()


class Origin(Daemon):
    def __init__(self, world, name, options):
        super().__init__(world, name)
        self.export = os.path.join(world.path, name + ".export")
        self.state = os.path.join(world.path, name + ".state")
        os.makedirs(self.export, exist_ok=True)
        self.port = free_port()
        self.options = options
        self.token = None
        self.url = "https://127.0.0.1:%d/default" % self.port

    def start(self, wait=True):
        if LOCAL:
            return self
        # Standard output is a file as well: a pipe nobody reads would stop the origin.
        out_path = self.log_path + ".out"
        out = open(out_path, "wb")
        names = ",".join(["127.0.0.1"] + [gateway(n) for n in range(NAMESPACES_MAX)])
        self.spawn([BINARY, "origin", self.export, "--listen", "0.0.0.0:%d" % self.port,
                    "--state", self.state, "--name", names] + self.options, stdout=out)
        out.close()
        if wait:
            self.wait_until_serving(out_path)
        return self

    def wait_until_serving(self, out_path):
        def token():
            if not self.running():
                raise Failure("the origin ended with status %s\n%s" % (
                    self.process.returncode, self.log().decode(errors="replace")))
            match = re.search(rb"--join[= ](\S+)", read_file(out_path))
            return match and match.group(1).decode()
        self.token = eventually(token, "the origin prints its mount command")

    def stop(self):
        self.signal(signal.SIGTERM)
        status = self.wait()
        expect(status, 0, "exit status of the origin")

    def path_of(self, *parts):
        """A path in the exported directory itself."""
        return os.path.join(self.export, *parts)


class Host(Daemon):
    """One mount with its cache and keys, as if it were on a machine of its own."""

    def __init__(self, world, origin, name, options, namespace):
        super().__init__(world, name)
        self.origin = origin
        self.path = os.path.join(world.path, name + ".mnt")
        self.cache = os.path.join(world.path, name + ".cache")
        self.keys = os.path.join(world.path, name + ".keys")
        for directory in (self.path, self.cache, self.keys):
            os.makedirs(directory, exist_ok=True)
        self.options = options
        self.namespace = namespace
        self.below = ""  # or "/DIRECTORY": what of the export is mounted
        self.joined = False
        self.mounts_said = 0
        self.connection = None

    def url(self):
        if self.namespace:
            return "https://%s:%d/default%s" % (self.namespace.gateway, self.origin.port, self.below)
        return self.origin.url + self.below

    def command(self, *more):
        command = [BINARY, "mount", self.url(), self.path, "--cache", self.cache,
                   "--cache-size", "1G", "--keys", self.keys, "--host-name", self.name, "-f"]
        if not self.joined:
            command += ["--join", self.origin.token]
        command += MOUNT_OPTIONS + self.options + list(more)
        return self.namespace.enter(command) if self.namespace else command

    def start(self, *more):
        if LOCAL:
            self.path = self.origin.export
            return self
        self.mounts_said = self.log().count(b" mounted on ")
        self.spawn(self.command(*more))
        eventually(self.answers, "%s is mounted" % self.name)
        self.joined = True
        self.connection = os.minor(os.stat(self.path).st_dev)
        return self

    def answers(self):
        if not self.running():
            raise Failure("the mount of %s ended with status %s\n%s" % (
                self.name, self.process.returncode, self.log().decode(errors="replace")))
        # It answers others a moment before it has asked itself; umount would find it busy.
        if not is_mounted(self.path) or self.log().count(b" mounted on ") <= self.mounts_said:
            return False
        try:
            return os.getxattr(self.path, PREFIX + "version")
        except OSError:
            return False

    def recorded_bytes(self):
        """Of its cache's ranges, those whose records are on disk: what a killed daemon has left."""
        total = 0
        for directory, _, names in os.walk(os.path.join(self.cache, "objects")):
            for name in names:
                try:
                    record = os.getxattr(os.path.join(directory, name), PREFIX + "record")
                except OSError:
                    continue  # it has none yet, or is gone
                # fs/cache/record.c: magic, version, ranges; handle; change, size; start, end of each.
                count, length = struct.unpack_from("<HB", record, 6)
                ranges = struct.unpack_from("<%dQ" % (2 * count), record, 9 + length + 24)
                total += sum(ranges[1::2]) - sum(ranges[::2])
        return total

    def wait_until_cache_is_free(self):
        """A daemon in the background ends a moment after umount(8) has returned."""
        with open(os.path.join(self.cache, "leasehold-cache"), "rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX)

    def __truediv__(self, name):
        return os.path.join(self.path, name)

    def xattr(self, name, path=""):
        return os.getxattr(os.path.join(self.path, path), PREFIX + name).decode()

    def status(self):
        """Needs no origin, unlike user.* attributes: for those the kernel asks who may look."""
        return json.loads(os.getxattr(self.path, "system.leasehold.status"))

    def wait_until_disconnected(self):
        """Until the session is over, and the kernel has nothing of it any more."""
        def over():
            status = self.status()
            return (status["state"] == "disconnected" and
                    status["counters"]["fences"] >= status["leases"]["sessions"])
        eventually(over, "the term is over")

    def unmount(self, check=True):
        """umount(8), and waits for the daemon to end in good order."""
        run("umount", self.path, timeout=STOP_TIMEOUT_S)
        status = self.wait()
        if check:
            expect(status, 0, "exit status of the mount of %s" % self.name)

    def abort(self, unmounting=False):
        """
        Ends the kernel's side, whatever state the daemon is in. Not by a number that may be that of
        another's mount by now, unless umount(8) of this one is known not to have returned.
        """
        if not unmounting and device_of(self.path) != "0:%s" % self.connection:
            return
        try:
            write_file("/sys/fs/fuse/connections/%d/abort" % self.connection, b"1")
        except OSError:
            pass  # it is gone already

    def why_not_ended(self):
        return ": of its mount " + holders(self.path, self.connection)

    def crash(self):
        """SIGKILL of the daemon, then the mount point is freed: a host that restarts."""
        self.kill()
        self.detach()

    def detach(self):
        if is_mounted(self.path):
            self.abort()
            run("umount", "-l", self.path, check=False)
        self.connection = None

    def pids(self):
        """The daemon and what it started (the guardian)."""
        pids = [self.process.pid]
        for pid in pids:
            try:
                with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
                    pids += [int(p) for p in f.read().split()]
            except OSError:
                pass
        return pids


NUMBERS_MAX = 60
NAMESPACES_MAX = 4
PORT_FIRST = 16384  # below those that the kernel gives to whoever asks for any
PORTS_MAX = 128     # of one test program
_network = None  # (number, descriptor whose lock makes the number this process's own)
_ports = 0       # given so far


def network():
    """A number of this process's own, so that tests that run side by side do not meet."""
    global _network
    for number in range(NUMBERS_MAX) if _network is None else ():
        fd = os.open("/run/lock/leasehold-test-%d" % number, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        _network = (number, fd)
        break
    if _network is None:
        raise Failure("more than %d test programs at once" % NUMBERS_MAX)
    return _network[0]


def reaches(process, path, device):
    """What a process has of a mount."""
    if os.readlink(process + "/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
        with open(process + "/mountinfo") as f:
            for fields in (line.split(" ") for line in f):
                if fields[4] == path or fields[2] == device:
                    yield "a copy of it"
    for link in ["cwd", "root"] + ["fd/" + fd for fd in os.listdir(process + "/fd")]:
        try:
            target = os.readlink(os.path.join(process, link))
        except OSError:
            continue
        if (target + "/").startswith(path + "/"):
            yield "%s %s" % (link, target)


def holders(path, connection):
    """
    Who keeps a mount from ending, as text: processes that have something open below, and those in
    other mount namespaces, which have a copy of it.
    """
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            has = sorted(set(reaches("/proc/" + pid, path, "0:%s" % connection)))
            command = read_file("/proc/%s/cmdline" % pid).replace(b"\0", b" ").decode(
                errors="replace")
        except OSError:
            continue  # it has ended
        if has:
            found.append("process %s (%s) has %s" % (pid, command.strip()[:200], ", ".join(has)))
    return "; ".join(found) or "nobody has it"


def free_port():
    """
    A port that nobody else gets, also while nobody listens there: origins are killed and started
    again, and a port that the kernel gave once it may give to another meanwhile.
    """
    global _ports
    for _ in range(PORTS_MAX):
        port = PORT_FIRST + network() * PORTS_MAX + _ports % PORTS_MAX
        _ports += 1
        with socket.socket() as s:
            try:
                s.bind(("0.0.0.0", port))
                return port
            except OSError:
                pass  # of an earlier run, or somebody else's
    raise Failure("no port is free")


def gateway(index):
    """Where the origin is, seen from this process's namespace of that index."""
    return "10.201.%d.1" % (network() * NAMESPACES_MAX + index)


class Namespace:
    """A network namespace joined to ours by one link, which can be cut."""

    def __init__(self, index):
        self.name = "lh-%d-%d" % (network(), index)
        self.link = "lh%dn%d" % (network(), index)
        self.gateway = gateway(index)
        self.address = self.gateway[:-1] + "2"
        self.remove()  # of a run that was killed
        run("ip", "netns", "add", self.name)
        try:
            run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0",
                "netns", self.name)
            run("ip", "addr", "add", self.gateway + "/30", "dev", self.link)
            run("ip", "link", "set", self.link, "up")
            run("ip", "-n", self.name, "addr", "add", self.address + "/30", "dev", "eth0")
            run("ip", "-n", self.name, "link", "set", "eth0", "up")
            run("ip", "-n", self.name, "link", "set", "lo", "up")
        except Failure:
            self.remove()
            raise

    def enter(self, command):
        # Not `ip netns exec`: that makes a mount namespace too, and nobody else sees the mount.
        return ["nsenter", "--net=/run/netns/" + self.name] + command

    def cut(self, incoming=True, outgoing=True):
        """Packets are dropped, silently: as a partition looks, and not as a reset."""
        rules = "add table inet cut\n"
        if incoming:
            rules += "add chain inet cut in { type filter hook input priority 0; policy drop; }\n"
        if outgoing:
            rules += "add chain inet cut out { type filter hook output priority 0; policy drop; }\n"
        run(*self.enter(["nft", rules]))

    def mend(self):
        run(*self.enter(["nft", "delete", "table", "inet", "cut"]))

    def remove(self):
        run("ip", "netns", "del", self.name, check=False)
        run("ip", "link", "del", self.link, check=False)


class Reader:
    """A process (reader.py) that holds a file open and mapped. One question at a time."""

    program = "reader.py"

    def __init__(self, world, path):
        self.process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(os.path.dirname(__file__), self.program), path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        world.readers.append(self)
        expect(self.answer(), "ready", "reader of " + path)

    def ask(self, question):
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, timeout=ANSWER_TIMEOUT_S):
        """The answer; "SIGBUS" when the look killed the process; None when there is none yet."""
        ready, _, _ = select.select([self.process.stdout], [], [], timeout)
        if not ready:
            return None
        line = self.process.stdout.readline()
        if line:
            return line.decode().strip()
        status = self.process.wait()
        return signal.Signals(-status).name if status < 0 else "exit status %d" % status

    def look(self, question, timeout=ANSWER_TIMEOUT_S):
        self.ask(question)
        answer = self.answer(timeout)
        if answer is None:
            raise Failure("'%s' does not come back within %s s" % (question, timeout))
        return answer

    def end(self):
        self.process.kill()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            pass  # it waits in the kernel for a mount, which is ended next


class Storer(Reader):
    """The same (storer.py) with a shared mapping that it may store to: storer("store", 0, "text")."""

    program = "storer.py"

    def __call__(self, *order, result="ok"):
        expect(self.look(" ".join(map(str, order))), result, " ".join(map(str, order)))


class World:
    def __init__(self, name):
        self.path = os.path.realpath(tempfile.mkdtemp(prefix=name[5:40] + "-"))
        self.daemons = []
        self.namespaces = []
        self.readers = []
        self.proxies = []
        self.allowed = []
        self.failed = False
        self.timed_out = False
        self.seals = False  # what is sealed in the end has the immutable flag
        self.main_origin = None
        self.done = threading.Event()
        self.watchdog = threading.Thread(target=self.watch, daemon=True)
        self.watchdog.start()

    def watch(self):
        """
        A test that hangs is ended: whoever waits in the kernel for a mount gets an error when its
        connection is aborted, which is the only thing that wakes a process in D state.
        """
        if self.done.wait(TEST_TIMEOUT_S):
            return
        self.timed_out = True
        print("# no end after %d s; aborting. Stacks:" % TEST_TIMEOUT_S, flush=True)
        faulthandler.dump_traceback(file=sys.stdout)
        while not self.done.wait(1):
            for daemon in list(self.daemons):
                if isinstance(daemon, Host):
                    daemon.abort()
                if daemon.process:
                    daemon.process.kill()

    def allow_log(self, regex):
        """The test causes such lines itself."""
        self.allowed.append(re.compile(regex.encode()))

    def origin(self, *options, name="origin", start=True):
        origin = Origin(self, name, list(options))
        self.main_origin = self.main_origin or origin
        return origin.start() if start else origin

    def host(self, name, *options, origin=None, namespace=False, start=True):
        origin = origin or self.main_origin or self.origin()
        if namespace:
            namespace = Namespace(len(self.namespaces))
            self.namespaces.append(namespace)
        host = Host(self, origin, name, list(options), namespace or None)
        return host.start() if start else host

    def hosts(self, *names):
        return [self.host(name) for name in names]

    def slow_host(self, name, delay_ms, *options):
        """A host whose link delays what passes, each way; host.proxy counts it."""
        origin = self.main_origin or self.origin()
        proxy = Proxy(origin.port, delay_ms)
        self.proxies.append(proxy)
        host = self.host(name, *options, start=False)
        host.proxy = proxy
        host.url = lambda: proxy.url
        return host.start()

    # How it ends.

    def finish(self):
        problems = []
        for reader in self.readers:
            reader.end()
        for daemon in reversed(self.daemons):
            try:
                self.end(daemon, problems)
            except Exception as e:  # whatever else went wrong, the rest is ended too
                problems.append("ending %s: %s" % (daemon.name, e))
        # What went to the background by itself.
        unmount_below(self.path)
        for namespace in self.namespaces:
            namespace.remove()
        for proxy in self.proxies:
            proxy.close()
        self.done.set()
        if self.timed_out:
            problems.append("timed out")
        for daemon in self.daemons:
            problems += self.bad_lines(daemon)
        return problems

    def end(self, daemon, problems):
        if isinstance(daemon, Host):
            # Others are left alone: one that looks for leaks at its end would not come back.
            for pid in daemon.pids() if daemon.running() else []:
                try:
                    if is_stopped(pid):
                        os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
            if daemon.running() and is_mounted(daemon.path) and not self.timed_out:
                result = subprocess.Popen(["umount", daemon.path], stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    result.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    problems.append("umount of %s does not return: %s" % (
                        daemon.name, holders(daemon.path, daemon.connection)))
                    daemon.abort(unmounting=True)
                    result.wait()
            if is_mounted(daemon.path):
                daemon.abort()
                run("umount", "-l", daemon.path, check=False)
        elif daemon.running() and not self.timed_out:
            daemon.signal(signal.SIGTERM)
        if daemon.running():
            try:
                status = daemon.process.wait(STOP_TIMEOUT_S)
                if status != 0 and not self.failed:
                    problems.append("%s ended with status %s" % (daemon.name, status))
            except subprocess.TimeoutExpired:
                if not self.timed_out:
                    problems.append("%s does not end%s" % (
                        daemon.name, daemon.why_not_ended()))
                daemon.kill()

    def bad_lines(self, daemon):
        bad = []
        for line in daemon.log().splitlines():
            if not BAD_LOG.search(line):
                continue
            if not FATAL_LOG.search(line) and any(a.search(line) for a in self.allowed):
                continue
            bad.append("%s says: %s" % (daemon.name, line.decode(errors="replace")[:300]))
        return bad[:10] if not self.failed else bad[:3]

    def tails(self):
        for daemon in self.daemons:
            lines = daemon.log().decode(errors="replace").splitlines()
            print("# --- %s, last lines of its log" % daemon.name)
            for line in lines[-15:]:
                print("#   " + line[:300])

    def remove(self):
        if self.failed and os.environ.get("LEASEHOLD_TEST_KEEP"):
            print("# kept: " + self.path)
            return
        if not any(is_mounted(d.path) for d in self.daemons if isinstance(d, Host)):
            if self.seals:
                make_mutable(self.path)
            shutil.rmtree(self.path, ignore_errors=True)


def why_not():
    """What is missing to run mount tests at all; None when nothing is."""
    if os.geteuid() != 0:
        return "mount tests need root"
    if not os.path.exists("/dev/fuse"):
        return "mount tests need /dev/fuse"
    if not (os.access(BINARY, os.X_OK) or shutil.which(BINARY)):
        return "there is no leasehold binary (LEASEHOLD=%s)" % BINARY
    return None


def ensure_fusectl():
    """Connections are aborted through it; not every machine mounts it at boot."""
    directory = "/sys/fs/fuse/connections"
    if os.path.isdir(directory) and not is_mounted(directory):
        run("mount", "-t", "fusectl", "fusectl", directory, check=False)


def run_one(number, name, function):
    world = World(name)
    skipped = None
    problems = []
    interrupted = False
    try:
        function(world)
    except Skip as e:
        skipped = str(e)
    except BaseException as e:
        world.failed = True
        problems.append("".join(traceback.format_exception(e)).rstrip())
        interrupted = isinstance(e, KeyboardInterrupt)
    problems += world.finish()
    world.failed = bool(problems)
    title = name[5:].replace("_", " ")
    if problems:
        print("not ok %d - %s" % (number, title))
        for problem in problems:
            for line in problem.splitlines():
                print("#   " + line)
        world.tails()
    elif skipped:
        print("ok %d - %s # SKIP %s" % (number, title, skipped))
    else:
        print("ok %d - %s" % (number, title))
    sys.stdout.flush()
    world.remove()
    if interrupted:
        print("Bail out! interrupted", flush=True)
        os._exit(1)
    return not problems


def run_all(tests):
    def terminated(_number, _frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, terminated)
    signal.signal(signal.SIGINT, terminated)
    ok = True
    for number, (name, function) in enumerate(tests, 1):
        ok = run_one(number, name, function) and ok
    return ok


def mounts_below(directory):
    """(device, path) of each, the innermost first."""
    with open("/proc/self/mountinfo") as f:
        fields = [line.split(" ") for line in f]
    return [(x[2], x[4]) for x in reversed(fields) if x[4].startswith(directory + "/")]


FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10


def inode_flags(path, clear=0):
    """Those of chattr(1), without `clear`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        flags, = struct.unpack("i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(4)))
        if flags & clear:
            flags &= ~clear
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("i", flags))
        return flags
    finally:
        os.close(fd)


def make_mutable(directory):
    for root, directories, names in os.walk(directory):
        for path in [root] + [os.path.join(root, n) for n in names]:
            try:
                inode_flags(path, FS_IMMUTABLE_FL)
            except OSError:
                pass  # it has none: a symlink, a fifo


def unmount_below(directory):
    for device, path in mounts_below(directory):
        major, minor = device.split(":")
        try:
            if major == "0":  # another's connection can have the number of a loop device
                write_file("/sys/fs/fuse/connections/%s/abort" % minor, b"1")
        except OSError:
            pass
        run("umount", "-l", path, check=False)


def clean_up_after(group, root):
    """What a test program that died itself has left."""
    unmount_below(root)
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def supervise(tests):
    """
    The tests run in a child, in a process group of its own: when it dies (a signal, a crash of the
    interpreter) there is somebody left to end what it had started.
    """
    root = os.path.realpath(tempfile.mkdtemp(prefix="leasehold-test-"))
    os.chmod(root, 0o755)  # tests look from other users' processes too
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        tempfile.tempdir = root
        ok = run_all(tests)
        sys.stdout.flush()
        os._exit(0 if ok else 1)

    def forward(number, _frame):
        try:
            os.kill(child, number)
        except ProcessLookupError:
            pass
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print("Bail out! the test program died of %s" % signal.Signals(-status).name)
        clean_up_after(child, root)
    if status == 0 or not os.environ.get("LEASEHOLD_TEST_KEEP"):
        if not mounts_below(root):
            shutil.rmtree(root, ignore_errors=True)
    return 0 if status == 0 else 1


def main(names):
    tests = [(n, f) for n, f in names.items() if n.startswith("test_") and callable(f)]
    wanted = sys.argv[1:]
    if wanted:
        tests = [(n, f) for n, f in tests if n in wanted or n[5:] in wanted]
        if not tests:
            sys.exit("no such test: " + " ".join(wanted))
    reason = why_not()
    if reason:
        print("1..0 # SKIP " + reason)
        sys.exit(0)
    ensure_fusectl()
    print("1..%d" % len(tests), flush=True)
    sys.exit(supervise(tests))
