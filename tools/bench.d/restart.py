"""
restart.py - what two hosts with cached files and a light load see of an origin that is killed and
started again: the longest read, stat and write, beside the same load when nothing happens.
"""

import os
import statistics
import threading
import time

from measure import Row, Sample, Wrong

CACHED = 1000     # files that each host has in its cache
CACHED_BYTES = 4096
PAUSE_S = 0.002   # between two operations of one thread: a light load
QUIET_S = 2       # of load before the origin is killed
SETTLE_S = 1      # of load after both hosts have reclaimed
STUCK_S = 180     # no operation takes that long
KINDS = ("read", "stat", "write")


class Load(threading.Thread):
    """One operation after the other, each with its begin and end, until stopped or one fails."""

    def __init__(self, name, operation):
        super().__init__(name=name, daemon=True)
        self.operation = operation
        self.times = []
        self.stopping = threading.Event()
        self.error = None
        self.start()

    def run(self):
        try:
            while not self.stopping.wait(PAUSE_S):
                begin = time.monotonic()
                self.operation(len(self.times))
                self.times.append((begin, time.monotonic()))
        except Exception as e:  # raised again where the load is looked after
            self.error = e

    def check(self):
        if self.error:
            raise Wrong("restart: %s: %s" % (self.name, self.error))

    def stop(self, timeout):
        self.stopping.set()
        self.join(timeout)
        return not self.is_alive()

    def longest_ms(self, since, until):
        """Of the operations that ended in that time: the one under way at its begin is one."""
        return 1000 * max((e - b for b, e in self.times if since <= e < until), default=0)


class Restart:
    """Two hosts with cached files and a light load, and an origin that is killed under them."""

    def __init__(self, world, eventually):
        self.eventually = eventually
        world.allow_log("")  # that the origin is away is news to both
        self.origin = world.origin(name="restarted")
        os.mkdir(self.origin.path_of("cached"))
        for i in range(CACHED):
            with open(self.origin.path_of("cached", str(i)), "wb") as f:
                f.write(self.content(i))
        self.hosts = [world.host(name, origin=self.origin) for name in ("east", "west")]
        self.lines = {host.name: 0 for host in self.hosts}
        self.loads = []

    @staticmethod
    def content(i):
        return (b"%07d\n" % i) * (CACHED_BYTES // 8)

    @staticmethod
    def line(number):
        return b"%015d\n" % number

    def read(self, host, i):
        with open(host / ("cached/%d" % i), "rb", buffering=0) as f:
            if f.read(CACHED_BYTES + 1) != self.content(i):
                raise ValueError("file %d has other bytes than were written to it" % i)

    def stat(self, host, i):
        if os.stat(host / ("cached/%d" % i)).st_size != CACHED_BYTES:
            raise ValueError("file %d has another size" % i)

    def append(self, host, fd):
        if os.write(fd, self.line(self.lines[host.name])) != len(self.line(0)):
            raise ValueError("a short write")
        self.lines[host.name] += 1

    def read_all(self, host):
        try:
            for i in range(CACHED):
                self.read(host, i)
        except (OSError, ValueError) as e:
            raise Wrong("restart: %s: %s" % (host.name, e))

    def start_load(self, host):
        fd = os.open(host / (host.name + ".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        operations = {  # strides without a common factor: each file comes up, in no order
            "read": lambda n: self.read(host, n * 7 % CACHED),
            "stat": lambda n: self.stat(host, n * 13 % CACHED),
            "write": lambda n: self.append(host, fd),
        }
        loads = {kind: Load("%s: %s" % (host.name, kind), operation)
                 for kind, operation in operations.items()}
        self.loads.append((fd, loads))
        return loads

    def stop_load(self, timeout):
        """False: something still waits, and keeps its descriptor until its mount is ended."""
        stopped = True
        for fd, loads in self.loads:
            for load in loads.values():
                load.stopping.set()
            ended = [load.stop(timeout) for load in loads.values()]
            if ended[-1]:
                try:
                    os.close(fd)
                except OSError as e:
                    loads["write"].error = loads["write"].error or e
            stopped = all(ended) and stopped
        self.loads = []
        return stopped

    def check_load(self):
        for _, loads in self.loads:
            for load in loads.values():
                load.check()

    def under_load(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.05)
            self.check_load()

    def reclaims(self, host):
        """How often it has come back to an origin that had forgotten its leases."""
        return host.log().count(b" leases reclaimed, ")

    def round(self):
        """What each host saw: by its name."""
        for host in self.hosts:
            self.read_all(host)
            if host.status()["leases"]["leases"] < CACHED:
                raise Wrong("restart: %s has no lease for each of its files" % host.name)
        loads = {host.name: self.start_load(host) for host in self.hosts}
        begin = time.monotonic()
        self.under_load(QUIET_S)
        before = {host.name: (host.status(), self.reclaims(host)) for host in self.hosts}
        killed = time.monotonic()
        self.origin.kill()
        self.origin.start()
        away_ms = 1000 * (time.monotonic() - killed)

        def reclaimed():
            self.check_load()
            return all(self.reclaims(host) > before[host.name][1] for host in self.hosts)
        self.eventually(reclaimed, "both hosts have reclaimed their leases", STUCK_S)
        self.under_load(SETTLE_S)
        last = [load for _, by_kind in self.loads for load in by_kind.values()]
        if not self.stop_load(STUCK_S):
            raise Wrong("restart: no end of an operation within %d s" % STUCK_S)
        for load in last:
            load.check()
        rows = {}
        for host in self.hosts:
            self.read_all(host)
            was, now = before[host.name][0], host.status()
            rows[host.name] = {
                "quiet_ms": {kind: load.longest_ms(begin, killed)
                             for kind, load in loads[host.name].items()},
                "restart_ms": {kind: load.longest_ms(killed, float("inf"))
                               for kind, load in loads[host.name].items()},
                "held": was["leases"]["leases"],
                "reclaimed": now["leases"]["reclaimed"] - was["leases"]["reclaimed"],
                "refused": now["leases"]["reclaims_refused"] - was["leases"]["reclaims_refused"],
                "fetched_again": now["counters"]["fetches"] - was["counters"]["fetches"],
            }
        self.check_lines()
        return away_ms, rows

    def check_lines(self):
        """Every line once and in order, seen from everywhere."""
        for writer in self.hosts:
            name = writer.name + ".log"
            want = b"".join(self.line(i) for i in range(self.lines[writer.name]))
            for path in [self.origin.path_of(name)] + [host / name for host in self.hosts]:
                with open(path, "rb") as f:
                    if f.read() != want:
                        raise Wrong("restart: %s has not the lines that were written" % path)


def restart(lab, case):
    """Reference is the load when nothing happens. One round counts both hosts."""
    test = Restart(lab.world, lab.lib.eventually)
    rows = {kind: Row(case, "restart of the origin, longest %s" % kind, "s", better="less")
            for kind in KINDS}
    away, seen = [], []
    try:
        for _ in range(lab.rounds):
            ms, by_host = test.round()
            away.append(ms)
            seen += by_host.values()
    finally:
        test.stop_load(1)
    for kind, row in rows.items():
        row.names = ("quiet", "restart")
        for host in seen:
            row.reference.append(Sample(host["quiet_ms"][kind] / 1000))
            row.subject.append(Sample(host["restart_ms"][kind] / 1000))
    rows["read"].note = "origin away for %.0f ms; of %d leases %s; fetched again: %d ranges" % (
        statistics.median(away), CACHED,
        ", ".join("%d %s" % (statistics.median(host[key] for host in seen), key)
                  for key in ("reclaimed", "refused")),
        statistics.median(host["fetched_again"] for host in seen))
    yield from rows.values()
    for host in test.hosts:
        host.unmount()
    test.origin.stop()
