#!/usr/bin/env python3
"""
quickstart - Leasehold on this machine in a few minutes: builds it, serves a real directory tree,
mounts it twice as two hosts would, and shows what it does.

usage: tools/quickstart [--keep] [--no-build]
  --keep      leaves the origin and both mounts running, and says how to end them
  --no-build  uses build/ as it is

Leaves nothing behind unless asked to: everything lives in one temporary directory (under TMPDIR).
Needs root and /dev/fuse.
"""

import errno
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
BINARY = os.path.join(ROOT, "build", "tools", "leasehold")
TREES = ["/usr/include", "/usr/share/doc", "/usr/lib/python3", "/usr/lib/gcc", "/usr/lib/git-core",
         "/usr/bin", "/usr/share/perl"]
TREE_BYTES_MAX = 400 << 20
TREE_FILES_MAX = 20000
LARGE_BYTES = 96 << 20
SPACE_NEEDED = 2500 << 20
START_TIMEOUT_S = 30
MIB = float(1 << 20)


class Trouble(Exception):
    """What is in the way, and what to do about it, in one line."""


def step(text):
    print("\n\033[1m%s\033[0m" % text if sys.stdout.isatty() else "\n" + text, flush=True)


def say(text):
    print("  " + text, flush=True)


class Progress:
    """One line that is rewritten on a terminal, at most ten times a second; silent elsewhere."""

    def __init__(self, what):
        self.what = what
        self.shown = 0.0
        self.tty = sys.stdout.isatty()

    def at(self, text):
        now = time.monotonic()
        if self.tty and now - self.shown > 0.1:
            self.shown = now
            print("\r\033[K  %s: %s" % (self.what, text), end="", flush=True)

    def end(self):
        if self.tty:
            print("\r\033[K", end="", flush=True)


def run(*command, **keywords):
    return subprocess.run([str(c) for c in command], check=True, **keywords)


def check_machine():
    if os.geteuid() != 0:
        raise Trouble("mounting needs root: sudo tools/quickstart")
    if not os.path.exists("/dev/fuse"):
        raise Trouble("there is no /dev/fuse: modprobe fuse, or give the container that device "
                      "(--device /dev/fuse --cap-add SYS_ADMIN)")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as e:
        raise Trouble("/dev/fuse cannot be opened (%s): a container needs --device /dev/fuse "
                      "--cap-add SYS_ADMIN" % e.strerror) from None
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < SPACE_NEEDED:
        raise Trouble("%s has %d MiB free and this needs %d: set TMPDIR to another directory" % (
            tempfile.gettempdir(), free >> 20, SPACE_NEEDED >> 20))


def build():
    step("Building")
    directory = os.path.join(ROOT, "build")
    log = os.path.join(directory, "build.log")
    os.makedirs(directory, exist_ok=True)
    with open(log, "w") as out:
        try:
            if not os.path.exists(os.path.join(directory, "build.ninja")):
                run("meson", "setup", directory, cwd=ROOT, stdout=out, stderr=out)
            progress = Progress("building")
            ninja = subprocess.Popen(["ninja", "-C", directory, "tools/leasehold"],
                                     stdout=subprocess.PIPE, stderr=out, text=True)
            for line in ninja.stdout:
                out.write(line)
                match = re.match(r"\[(\d+/\d+)\]", line)
                if match:
                    progress.at(match.group(1))
            progress.end()
            if ninja.wait() != 0:
                raise subprocess.CalledProcessError(ninja.returncode, "ninja")
        except subprocess.CalledProcessError:
            out.flush()
            with open(log) as f:
                sys.stderr.writelines(f.readlines()[-15:])
            raise Trouble("the build failed; all of it is in " + log) from None
    say("build/tools/leasehold, " + subprocess.run(
        [BINARY, "version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def copy_tree(target):
    """A copy of what every machine has, until there is enough; and one large file."""
    step("Copying a real directory tree")
    progress = Progress("copying")
    files = total = 0
    for source in TREES:
        # Links that lead elsewhere are left out, so that the copy is complete in itself.
        for directory, _, names in os.walk(source):
            relative = os.path.relpath(directory, "/")
            for name in names:
                path = os.path.join(directory, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                size = os.path.getsize(path)
                if total + size > TREE_BYTES_MAX or files >= TREE_FILES_MAX or size > 64 << 20:
                    continue
                os.makedirs(os.path.join(target, relative), exist_ok=True)
                shutil.copy2(path, os.path.join(target, relative, name))
                files += 1
                total += size
                progress.at("%d files, %d MiB" % (files, total >> 20))
    with open(os.path.join(target, "large.bin"), "wb") as f:
        for _ in range(LARGE_BYTES >> 20):
            f.write(os.urandom(1 << 20))
    progress.end()
    say("%d files, %d MiB, one of them %d MiB" % (files + 1, (total + LARGE_BYTES) >> 20,
                                                 LARGE_BYTES >> 20))


def checksums(root, what):
    """{path: sha256} of all files below root; also the bytes and the seconds."""
    progress = Progress(what)
    sums, total = {}, 0
    start = time.monotonic()
    for directory, directories, names in os.walk(root):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            digest = hashlib.sha256()
            with open(path, "rb", buffering=0) as f:
                while chunk := f.read(1 << 20):
                    digest.update(chunk)
                    total += len(chunk)
            sums[os.path.relpath(path, root)] = digest.digest()
            progress.at("%d files, %d MiB" % (len(sums), total >> 20))
    seconds = time.monotonic() - start
    progress.end()
    return sums, total, seconds


def read_large(path):
    """MiB/s of one sequential read."""
    buffer = bytearray(1 << 20)
    total = 0
    start = time.monotonic()
    with open(path, "rb", buffering=0) as f:
        while n := f.readinto(buffer):
            total += n
    return total / MIB / (time.monotonic() - start)


def stat_all(root):
    """Files per second, found and stat'ed."""
    start = time.monotonic()
    count = 0
    for directory, directories, names in os.walk(root):
        for name in names:
            os.stat(os.path.join(directory, name))
            count += 1
    return count / (time.monotonic() - start)



def is_mounted(path):
    with open("/proc/self/mountinfo") as f:
        return any(line.split(" ")[4] == path for line in f)


class Demo:
    def __init__(self):
        self.path = os.path.realpath(tempfile.mkdtemp(prefix="leasehold-quickstart-"))
        self.tree = os.path.join(self.path, "tree")
        self.mounts = []
        self.origin = None
        self.keep = False
        os.mkdir(self.tree)

    def start_origin(self):
        step("Starting an origin")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        out_path = os.path.join(self.path, "origin.out")
        log_path = os.path.join(self.path, "origin.log")
        with open(out_path, "wb") as out, open(log_path, "wb") as log:
            # A session of its own, so that ^C ends it when we say, after the mounts.
            self.origin = subprocess.Popen(
                [BINARY, "origin", self.tree, "--listen", "127.0.0.1:%d" % self.port, "--state",
                 os.path.join(self.path, "state"), "--name", "127.0.0.1"], stdout=out, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True)
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            with open(out_path) as f:
                match = re.search(r"--join[= ](\S+)", f.read())
            if match:
                break
            if self.origin.poll() is not None or time.monotonic() > end:
                with open(log_path) as f:
                    raise Trouble("the origin does not start: " + f.read().strip()[-500:])
            time.sleep(0.02)
        self.token = match.group(1)
        say("leasehold origin %s --listen 127.0.0.1:%d --state ..." % (self.tree, self.port))

    def mount(self, name):
        path = os.path.join(self.path, name)
        os.mkdir(path)
        command = [BINARY, "mount", "https://127.0.0.1:%d/default" % self.port, path,
                   "--cache", path + ".cache", "--cache-size", "2G", "--keys", path + ".keys",
                   "--host-name", name, "--log", path + ".log"]
        self.mounts.append(path)
        errors_path = path + ".err"
        with open(errors_path, "wb") as errors:
            result = subprocess.run(command + ["--join", self.token], stdin=subprocess.DEVNULL,
                                    stdout=errors, stderr=errors)
        if result.returncode != 0:
            with open(errors_path) as errors:
                raise Trouble("the mount failed: " + errors.read().strip())
        say("leasehold mount https://127.0.0.1:%d/default %s --cache %s.cache --join ..." % (
            self.port, path, path))
        return path

    def finish(self):
        """Ends everything, in whatever state it is."""
        for path in reversed(self.mounts):
            if is_mounted(path):
                subprocess.run(["umount", path], stderr=subprocess.DEVNULL, check=False)
            if is_mounted(path):
                subprocess.run(["umount", "-l", path], check=False)
        if self.origin and self.origin.poll() is None:
            self.origin.terminate()
            try:
                self.origin.wait(15)
            except subprocess.TimeoutExpired:
                self.origin.kill()
                self.origin.wait()
        if any(is_mounted(path) for path in self.mounts):
            print("still mounted, left as it is: " + self.path, file=sys.stderr)
            return
        # A daemon that has just been unmounted may still write its last records.
        for _ in range(100):
            shutil.rmtree(self.path, ignore_errors=True)
            if not os.path.exists(self.path):
                break
            time.sleep(0.05)


def compare(expected, actual, who):
    different = [p for p in expected if actual.get(p) != expected[p]]
    if different or len(actual) != len(expected):
        raise Trouble("%s: %d files of %d differ, for example %s. That is a bug; please keep the "
                      "output" % (who, len(different), len(expected), (different or ["(names)"])[0]))
    say("%s: %d files, every checksum as in the source" % (who, len(actual)))


def show_changes(a, b):
    """Each change is made on one host and looked at once on the other, without a wait."""
    step("Changing files on one host, looking on the other")
    name_a, name_b = os.path.basename(a), os.path.basename(b)
    directory = "usr/include"
    file = os.path.join(directory, sorted(
        n for n in os.listdir(os.path.join(a, directory))
        if os.path.isfile(os.path.join(a, directory, n)))[0])

    def read(path):
        with open(path, "rb") as f:
            return f.read()

    def check(what, got, expected):
        if got != expected:
            raise Trouble("%s: got %r, expected %r. That is a bug" % (what, got, expected))
        say("%-58s seen at once" % what)

    before = read(os.path.join(b, file))
    with open(os.path.join(a, file), "r+b") as f:
        f.write(b"LEASEHOLD")
    check("bytes written in place on " + name_a, read(os.path.join(b, file)),
          b"LEASEHOLD" + before[9:])
    with open(os.path.join(b, file), "ab") as f:
        f.write(b"one more line\n")
    check("a line appended on " + name_b, read(os.path.join(a, file))[-14:], b"one more line\n")
    os.truncate(os.path.join(a, file), 5)
    check("a file truncated on " + name_a,
          (os.path.getsize(os.path.join(b, file)), read(os.path.join(b, file))), (5, b"LEASE"))
    try:
        os.stat(os.path.join(b, "new"))
    except FileNotFoundError:
        pass
    with open(os.path.join(a, "new"), "wb") as f:
        f.write(b"fresh")
    check("a name that was absent a moment ago", read(os.path.join(b, "new")), b"fresh")
    with open(os.path.join(b, "new.tmp"), "wb") as f:
        f.write(b"replaced")
    os.rename(os.path.join(b, "new.tmp"), os.path.join(b, "new"))
    check("a file replaced by rename on " + name_b, read(os.path.join(a, "new")), b"replaced")
    with open(os.path.join(b, "new"), "rb") as held:
        os.unlink(os.path.join(a, "new"))
        check("a file removed on %s while open on %s" % (name_a, name_b),
              (os.path.exists(os.path.join(b, "new")), held.read()), (False, b"replaced"))
    os.mkdir(os.path.join(a, "made"))
    check("a directory made on " + name_a, "made" in os.listdir(b), True)
    os.chmod(os.path.join(b, "made"), 0o700)
    check("a mode changed on " + name_b, os.stat(os.path.join(a, "made")).st_mode & 0o777, 0o700)
    os.rmdir(os.path.join(b, "made"))
    check("a directory removed on " + name_b, os.path.exists(os.path.join(a, "made")), False)


def show_attributes(path):
    step("What is cached, as extended attributes tell it")
    for name in ("cached", "ranges", "lease", "change"):
        try:
            value = os.getxattr(path, "user.leasehold." + name).decode()
        except OSError as e:
            if e.errno != errno.ENODATA:
                raise
            continue
        say("user.leasehold.%-7s = %s" % (name, value))


def show_rates(rates):
    step("Rates, beside those of the local file system under the origin")
    say("%-34s %12s %12s %12s" % ("", "local", "host, cold", "host, warm"))
    for what, unit, native, cold, warm in rates:
        say("%-34s %12s %12s %12s" % (what + ", " + unit, "%.0f" % native,
                                      "%.0f (%.2f)" % (cold, cold / native),
                                      "%.0f (%.2f)" % (warm, warm / native)))
    say("In brackets: times the local rate. One machine, both hosts and the origin on it; cold is")
    say("an empty cache, warm is the second time. Local is from the page cache, warm as well.")


def demonstrate(demo):
    copy_tree(demo.tree)
    demo.start_origin()
    step("Mounting it on two hosts (two mount points, two caches)")
    a, b = demo.mount("host-a"), demo.mount("host-b")

    step("Reading everything through both")
    checksums(demo.tree, "local")  # once for the page cache
    expected, total, native_s = checksums(demo.tree, "local")
    native_stat = stat_all(demo.tree)
    native_large = read_large(os.path.join(demo.tree, "large.bin"))
    sums, _, cold_s = checksums(a, "host-a")
    compare(expected, sums, "host-a")
    cold_stat = stat_all(b)
    cold_large = read_large(os.path.join(b, "large.bin"))
    sums, _, _ = checksums(b, "host-b")
    compare(expected, sums, "host-b")
    sums, _, warm_s = checksums(a, "host-a")
    compare(expected, sums, "host-a, from its cache")
    warm_stat = stat_all(b)
    warm_large = read_large(os.path.join(b, "large.bin"))

    show_changes(a, b)
    show_attributes(os.path.join(a, "large.bin"))
    show_rates([
        ("whole tree with checksums", "MiB/s", total / MIB / native_s, total / MIB / cold_s,
         total / MIB / warm_s),
        ("one large file", "MiB/s", native_large, cold_large, warm_large),
        ("walk and stat", "files/s", native_stat, cold_stat, warm_stat),
    ])
    return a, b


def how_to_go_on(demo, a, b):
    step("How to go on")
    if demo.keep:
        say("The origin (process %d) and both mounts are left running in %s" % (
            demo.origin.pid, demo.path))
        say("  ls %s; %s status %s" % (a, BINARY, a))
        say("End it: umount %s %s; kill %d; rm -r %s" % (a, b, demo.origin.pid, demo.path))
    else:
        say("tools/quickstart --keep leaves this running to look around in.")
    say("Export a directory of yours:  build/tools/leasehold origin DIR --state STATEDIR")
    say("It prints the command for each host. README.md has the rest; tools/test runs the tests.")


def main():
    arguments = set(sys.argv[1:])
    if arguments & {"-h", "--help"}:
        print(__doc__.strip())
        return 0
    if arguments - {"--keep", "--no-build"}:
        print(__doc__.strip(), file=sys.stderr)
        return 2

    def interrupted(number, _frame):
        raise KeyboardInterrupt
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    demo = None
    ok = False
    started = time.monotonic()
    try:
        check_machine()
        if "--no-build" not in arguments:
            build()
        elif not os.access(BINARY, os.X_OK):
            raise Trouble("there is no %s yet: run without --no-build" % BINARY)
        demo = Demo()
        demo.keep = "--keep" in arguments
        a, b = demonstrate(demo)
        how_to_go_on(demo, a, b)
        ok = True
    except Trouble as e:
        print("\nquickstart: %s" % e, file=sys.stderr)
    except subprocess.CalledProcessError as e:
        print("\nquickstart: %s failed" % e.cmd[0], file=sys.stderr)
    except OSError as e:
        print("\nquickstart: %s" % e, file=sys.stderr)
    except KeyboardInterrupt:
        print("\nquickstart: interrupted, cleaning up", file=sys.stderr)
    finally:
        if demo and not (ok and demo.keep):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # cleaning up is not interrupted
            demo.finish()
    if ok:
        print("\nDone in %d s%s." % (time.monotonic() - started,
                                     "" if demo.keep else "; nothing is left behind"))
    return 0 if ok else 1


sys.exit(main())
