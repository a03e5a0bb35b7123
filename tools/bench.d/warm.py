"""
warm.py - reads of what is in the cache, against the same bytes in the native file system under it.

Native files and caches are on one file system. That warm is warm the daemon's counters say: nothing
is fetched while it is measured.
"""

from lab import MIB
from measure import Row, Skip, Wrong, alternate, drop_caches


class Warm:
    """A host with files in its cache; `row()` measures and checks."""

    def __init__(self, lab, case, names, options=(), sealed=False):
        self.lab, self.case, self.names = lab, case, names
        self.host = lab.host(*options)
        lab.fill(self.host, *names)
        if sealed:
            lab.seal(self.host, names[0])

    def row(self, title, unit, target, kind, jobs, count=None, before=None, enter=None):
        row = Row(self.case, title, unit, target)
        row.names = ("native", "mount")
        count = [] if count is None else [count]
        name = self.names[0]

        def side(path, pids):
            def measure():
                if before:
                    before()
                return self.lab.io(kind, jobs, *count, path, pids=pids, enter=enter)
            return measure
        native = side(self.lab.native_path(name), {})
        mount = side(self.host / name, {"host": self.host.process.pid})
        native(), mount()  # not measured: both begin equally warm
        fetched = self.lab.counters(self.host)["fetched_bytes"]
        alternate(row, self.lab.rounds, native, mount, self.lab.warm_peers(name, side))
        if self.lab.counters(self.host)["fetched_bytes"] != fetched:
            raise Wrong("%s: not warm, something was fetched" % title)
        return row

    def end(self):
        self.lab.same_bytes(self.host, self.names[0])
        self.lab.end(self.host)


def one_file(lab):
    return [lab.file("big", lab.bytes(512 * MIB))]


def jobs_text(jobs):
    return "%d job%s" % (jobs, "s" * (jobs > 1))


def sealed_seq(lab, case):
    warm = Warm(lab, case, one_file(lab), sealed=True)
    for jobs in (1, 4):
        yield warm.row("sealed, sequential 1 MiB, " + jobs_text(jobs), "B/s", 0.90, "seq", jobs)
    warm.end()


def sealed_rand(lab, case):
    warm = Warm(lab, case, one_file(lab), sealed=True)
    for jobs in (1, 4):
        yield warm.row("sealed, random 4 KiB, " + jobs_text(jobs), "op/s", 0.85, "rand", jobs,
                       lab.count(400000))
    warm.end()


def sealed_map(lab, case):
    warm = Warm(lab, case, one_file(lab), sealed=True)
    yield warm.row("sealed, mapping, scan", "B/s", 0.95, "mapscan", 1)
    yield warm.row("sealed, mapping, random", "op/s", 0.95, "maprand", 1, lab.count(4000000))
    warm.end()


def sealed_limit(lab, case):
    """In a cgroup with a quarter of the data: whoever reads pays for its page cache."""
    names = one_file(lab)
    enter = lab.memory_group(max(lab.bytes(512 * MIB) // 4, 32 * MIB))
    warm = Warm(lab, case, names, sealed=True)
    yield warm.row("sealed, larger than the memory limit", "B/s", 0.85, "seq", 1,
                   before=drop_caches, enter=enter)
    warm.end()


def unsealed(lab, case, options=(), mark=""):
    warm = Warm(lab, case, one_file(lab), options)
    yield warm.row("page cache%s, 1 MiB" % mark, "B/s", 0.75, "seq", 1)
    yield warm.row("page cache%s, random 4 KiB" % mark, "op/s", 0.9, "rand", 1,
                   lab.count(400000))
    warm.end()


def dropped(lab, case, options=(), mark=""):
    warm = Warm(lab, case, one_file(lab), options)
    yield warm.row("kernel cache dropped%s, 1 MiB" % mark, "B/s", 0.28, "seq", 1,
                   before=drop_caches)
    warm.end()


def without_passthrough(function):
    def run(lab, case):
        if not lab.offers("--passthrough", "mount"):
            raise Skip("this build has no --passthrough: it is the case without '-off'")
        yield from function(lab, case, ("--passthrough", "off"), ", passthrough=off")
    return run


def many_files(lab, case, title, target, kind, jobs, count, options=()):
    name = lab.small_files("many-%d" % count, count, 4096)
    host = lab.host(*options)
    fill = lab.io("open", 4, count, host / name)
    row = Row(case, title, "op/s", target)
    row.names = ("native", "mount")
    if fill.checksum != lab.io("open", 4, count, lab.native_path(name)).checksum:
        raise Wrong("%s: other bytes than the native files'" % title)

    def side(path, pids):
        return lambda: lab.io(kind, jobs, count, path, pids=pids)
    native = side(lab.native_path(name), {})
    mount = side(host / name, {"host": host.process.pid})
    native(), mount()
    fetched = lab.counters(host)["fetched_bytes"]
    alternate(row, lab.rounds, native, mount, lab.warm_peers(name, side))
    if lab.counters(host)["fetched_bytes"] != fetched:
        raise Wrong("%s: not warm, something was fetched" % title)
    lab.end(host)
    return row


def opens(lab, case):
    yield many_files(lab, case, "open, read 4 KiB, close; 4 threads", 0.15, "open", 4,
                     lab.count(20000))


def opens_uring(lab, case):
    if not lab.offers("uring", "mount"):
        raise Skip("this build has no FUSE-over-io_uring")
    try:
        with open("/sys/module/fuse/parameters/enable_uring") as f:
            if f.read().strip() != "Y":
                raise Skip("the kernel has FUSE-over-io_uring switched off (enable_uring)")
    except OSError:
        raise Skip("the kernel has no FUSE-over-io_uring") from None
    yield many_files(lab, case, "the same with io_uring", 0.30, "open", 4, lab.count(20000))


def opens_small(lab, case):
    if not lab.offers("--small", "mount"):
        raise Skip("this build has no -o small")
    yield many_files(lab, case, "the same with -o small", 0.7, "open", 4, lab.count(20000),
                     ("--small",))


def stats(lab, case):
    yield many_files(lab, case, "stat of warm files", 0.7, "stat", 1, lab.count(50000))
