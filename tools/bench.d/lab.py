"""
lab.py - what the cases of tools/bench stand on: data, an origin, hosts, limits, and the loops.

Native files lie in a directory beside the caches, on the same file system; the origin exports copies
of them. Hosts are those of tests/lib/leasehold.py, so that whatever happens everything that was
started is ended. `scale` makes everything smaller, to try the bench itself.
"""

import json
import os
import shutil
import struct
import subprocess

import measure
from measure import Cpu, Sample, Skip, Wrong, timed

MIB = 1 << 20
PAGE = 4096
CACHE_SIZE = "16G"


class Lab:
    def __init__(self, args, world, lib):
        self.args, self.world, self.lib = args, world, lib
        self.rounds = args.rounds
        self.native = os.path.join(world.path, "native")
        os.mkdir(self.native)
        self.made = set()
        self.sealed = False
        self.host_count = 0
        self.closing = []  # what is ended before the world is, the last first
        self.left_out = []  # parts of the case that could not be measured: {"reason": text}
        self._origin = None
        self._references = None
        self._peers = None
        self.help = {}
        self.host_pids = []
        if args.profile:
            import perf
            perf.check()
            measure.profiler = lambda function: perf.profile(self, function)

    def close(self):
        problem = None
        while self.closing:
            try:
                self.closing.pop()()
            except Exception as e:  # the rest is ended all the same
                problem = e
        if problem:
            raise problem
        if self.sealed:  # the origin keeps it immutable, also for who removes the work directory
            subprocess.run(["chattr", "-R", "-i", self.origin.export], stderr=subprocess.DEVNULL)

    # ---- sizes ----

    def bytes(self, size):
        """Scaled, whole MiB."""
        return max(MIB, int(size * self.args.scale) // MIB * MIB)

    def count(self, number, least=16):
        return max(least, int(number * self.args.scale))

    # ---- data ----

    @property
    def origin(self):
        if not self._origin:
            self._origin = self.world.origin("--lease-term", self.args.lease_term,
                                             *self.args.origin_option)
        return self._origin

    @property
    def origin_started(self):
        return self._origin is not None

    def native_path(self, *parts):
        return os.path.join(self.native, *parts)

    def export(self, name):
        """Copies what is in the native directory under that name to the origin's."""
        source, target = self.native_path(name), self.origin.path_of(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)

    def file(self, name, size):
        """A file of incompressible bytes, in which no page is like another."""
        if name in self.made:
            return name
        path = self.native_path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        block = bytearray(os.urandom(MIB))
        seed = len(self.made) << 32
        with open(path, "wb") as f:
            for i in range(size // MIB):
                for page in range(MIB // PAGE):
                    struct.pack_into("<Q", block, page * PAGE,
                                     seed + i * (MIB // PAGE) + page)
                f.write(block)
        self.export(name)
        self.made.add(name)
        return name

    def small_files(self, name, count, size):
        """name/0 .. name/COUNT-1."""
        if name in self.made:
            return name
        os.makedirs(self.native_path(name))
        block = os.urandom(size)
        for i in range(count):
            with open(self.native_path(name, str(i)), "wb") as f:
                f.write(i.to_bytes(8, "little") + block[8:])
        self.export(name)
        self.made.add(name)
        return name

    # ---- hosts ----

    def offers(self, text, *command):
        """Does `leasehold COMMAND --help` have that?"""
        if command not in self.help:
            self.help[command] = subprocess.run([self.args.binary] + list(command) + ["--help"],
                                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                                stderr=subprocess.STDOUT, text=True).stdout
        return text in self.help[command]

    def host(self, *options, link=None):
        """A mount with an empty cache, through a link (references.Link, .Shaped) or without."""
        self.host_count += 1
        host = self.world.host("host%d" % self.host_count, "--cache-size", CACHE_SIZE,
                               *self.args.mount_option, *options, origin=self.origin, start=False)
        if link:
            host.url = lambda: "https://%s:%d/default" % (link.address, link.port)
            host.namespace = link.namespace
        host.start()
        self.host_pids.append(host.process.pid)
        return host

    def end(self, host):
        """Unmounts, and gives back what its cache took."""
        host.unmount()
        shutil.rmtree(host.cache, ignore_errors=True)

    def counters(self, host):
        return host.status()["counters"]

    def moved(self, host, function, *names):
        """What a function makes those counters of the host grow by."""
        before = self.counters(host)
        function()
        after = self.counters(host)
        return [after[name] - before[name] for name in names]

    def fill(self, host, *names):
        """Until everything of those files is in the cache."""
        for name in names:
            self.io("seq", 1, host / name)
        self.same_bytes(host, *names)

    def same_bytes(self, host, *names):
        """Every byte, not only those that the loops add up. Not measured."""
        for name in names:
            for path in files_of(self.native_path(name)):
                other = host / os.path.join(name, os.path.relpath(path, self.native_path(name)))
                if subprocess.run(["cmp", "-s", path, os.path.normpath(other)]).returncode != 0:
                    raise Wrong("%s has other bytes than %s" % (other, path))

    def seal(self, host, name):
        """Seals it, and waits until a new open of it is served in passthrough."""
        if not self.offers("  seal "):
            raise Skip("this build has no `leasehold seal`")
        timed([self.args.binary, "seal", host / name])
        self.sealed = True
        path = next(files_of(host / name))
        mode = ""

        def passes():
            nonlocal mode
            with open(path, "rb") as f:
                f.read(1)
                try:
                    mode = os.getxattr(path, "user.leasehold.mode").decode()
                except OSError as e:
                    mode = e.strerror
            return mode.startswith("passthrough")
        try:
            self.lib.eventually(passes, "sealed files in passthrough", 20)
        except self.lib.Failure:
            raise Skip("sealed, but not in passthrough: mode=%s" % mode) from None

    # ---- loops ----

    def io(self, kind, jobs, *arguments, pids=None, enter=None):
        """One run of bench_io. `pids`: daemons whose processor time counts; `enter`: a cgroup."""
        command = [self.args.io, kind, str(jobs)] + [str(a) for a in arguments]
        with Cpu(**(pids or {})) as cpu:
            _, _, out = timed(command, preexec_fn=enter)
        found = json.loads(out)
        used = dict(cpu.used, client=found["cpu"])
        sample = Sample(found["rate"], found["checksum"], used, found["work"])
        sample.found = found
        return sample

    def pids(self, host):
        return {"host": host.process.pid, "origin": self.origin.process.pid}

    # ---- a limit of memory ----

    def memory_group(self, limit):
        """A function that puts the calling process in a cgroup with that limit."""
        old = os.path.isdir("/sys/fs/cgroup/memory")
        base = "/sys/fs/cgroup/memory" if old else "/sys/fs/cgroup"
        group = os.path.join(base, "leasehold-bench-%d" % os.getpid())
        if not os.path.exists(os.path.join(base, "cgroup.procs")):
            raise Skip("there is no memory controller at " + base)
        try:
            os.makedirs(group, exist_ok=True)
            name = "memory.limit_in_bytes" if old else "memory.max"
            with open(os.path.join(group, name), "w") as f:
                f.write(str(limit))
        except OSError as e:
            raise Skip("cgroup of limited memory: " + str(e)) from None
        self.closing.append(lambda: os.path.isdir(group) and os.rmdir(group))

        def enter():
            with open(os.path.join(group, "cgroup.procs"), "w") as f:
                f.write(str(os.getpid()))
        return enter

    # ---- references and peers ----

    def peers(self, names, jobs):
        """Cold reads by peers, by name; none unless asked for."""
        return self.peer_mounts.cold(names, jobs) if self.args.peers else {}

    def warm_peers(self, name, side):
        return self.peer_mounts.warm(name, side) if self.args.peers else {}

    @property
    def peer_mounts(self):
        if not self._peers:
            import peers
            self._peers = peers.Peers(self)
        return self._peers

    @property
    def references(self):
        if not self._references:
            import references
            self._references = references.References(self)
            self.closing.append(self._references.close)
        return self._references


def files_of(path):
    if os.path.isfile(path):
        yield path
    for directory, _, names in os.walk(path):
        for name in names:
            yield os.path.join(directory, name)
