"""
warm.py - reads of what is in the cache, against the same bytes in the native file system under it.

Native files and caches are on one file system. That warm is warm the daemon's counters say: nothing
is fetched while it is measured.
"""

import os
import shutil

from lab import MIB
from measure import Row, Skip, Wrong, alternate, drop_caches


# Of a file's READs, the share that may reach the daemon where it is to be left alone.
READS_MAX = 0.01
TRIES = 3


def middle(function, times):
    """The median sample of so many."""
    return sorted([function() for _ in range(times)], key=lambda s: s.value)[times // 2]


class Warm:
    """A host with files in its cache; `row()` measures and checks."""

    def __init__(self, lab, case, names, options=(), sealed=False):
        self.lab, self.case, self.names = lab, case, names
        self.host = lab.host(*options)
        lab.fill(self.host, *names)
        if sealed:
            lab.seal(self.host, names[0])

    def side(self, path, pids, kind, jobs, *count, before=None, times=1, enter=None):
        """A function that measures it; with `times`, the median of so many runs."""
        def once():
            if before:
                before()
            return self.lab.io(kind, jobs, *count, path, pids=pids, enter=enter)
        return lambda: middle(once, times)

    def row(self, title, unit, target, kind, jobs, count=None, asked=False, others=None, **how):
        """
        `asked`: the daemon is to be asked for all of it; else the kernel has it already. `others`:
        names and paths of what is read beside it. Peers are, where it is one sequential reader.
        """
        row = Row(self.case, title, unit, target)
        row.names = ("native", "mount")
        count = [] if count is None else [count]
        name = self.names[0]

        def side(path, pids):
            return self.side(path, pids, kind, jobs, *count, **how)

        def peer(path, pids):
            return self.side(path, pids, kind, jobs, *count, **dict(how, times=1))
        native = side(self.lab.native_path(name), {})
        mount = side(self.host / name, {"host": self.host.process.pid})
        native(), mount()  # not measured: both begin equally warm
        sides = self.lab.warm_peers(name, peer) if kind == "seq" and jobs == 1 else {}
        for other, path in (others or {}).items():
            sides[other] = side(path, {})
        size = os.path.getsize(self.lab.native_path(name)) * self.lab.rounds * how.get("times", 1)
        for left in range(TRIES - 1, -1, -1):
            row.clear()
            fetched, read = self.lab.moved(
                self.host, lambda: alternate(row, self.lab.rounds, native, mount, sides),
                "fetched_bytes", "read_bytes")
            if not fetched and (read >= size if asked else read <= size * READS_MAX):
                break  # else somebody dropped the kernel's cache meanwhile, or a fence did
            if left == 0:
                raise Wrong("%s: %d bytes were fetched, the daemon was asked for %d of %d" % (
                    title, fetched, read, size))
            mount()
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


def in_small_pages(lab, name):
    """
    A copy of the native file that the kernel has in pages of 4 KiB. Its own read-ahead puts a native
    file into larger ones (folios), which FUSE has not: this is what they make, without any FUSE.
    """
    path = lab.native_path(name + "-in-small-pages")
    if not os.path.exists(path):
        shutil.copyfile(lab.native_path(name), path)
    os.sync()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        for offset in range(0, os.path.getsize(path), 4096):
            os.pread(fd, 4096, offset)
    finally:
        os.close(fd)
    return path


def unsealed(lab, case, options=(), mark=""):
    warm = Warm(lab, case, one_file(lab), options)
    small = in_small_pages(lab, warm.names[0])
    yield warm.row("page cache%s, 1 MiB" % mark, "B/s", 0.75, "seq", 1, times=3,
                   others={"native, in pages of 4 KiB": small})
    yield warm.row("page cache%s, random 4 KiB" % mark, "op/s", 0.9, "rand", 1,
                   lab.count(400000))
    warm.end()


def dropped(lab, case, options=(), mark=""):
    """From the disk on both sides, whose own speed varies: a round is the median of three runs."""
    warm = Warm(lab, case, one_file(lab), options)
    yield warm.row("kernel cache dropped%s, 1 MiB" % mark, "B/s", 0.28, "seq", 1, asked=True,
                   before=drop_caches, times=3)
    warm.end()


def without_passthrough(function):
    def run(lab, case):
        if not lab.offers("--passthrough", "mount"):
            raise Skip("this build has no --passthrough: it is the case without '-off'")
        yield from function(lab, case, ("--passthrough", "off"), ", passthrough=off")
    return run


def many_files(lab, case, title, target, kind, jobs, count, options=()):
    """20,000 native opens take 50 ms: so a round is the median of three runs, too."""
    name = lab.small_files("many-%d" % count, count, 4096)
    host = lab.host(*options)
    fill = lab.io("open", 4, count, host / name)
    row = Row(case, title, "op/s", target)
    row.names = ("native", "mount")
    if fill.checksum != lab.io("open", 4, count, lab.native_path(name)).checksum:
        raise Wrong("%s: other bytes than the native files'" % title)

    def side(path, pids, times=1):
        return lambda: middle(lambda: lab.io(kind, jobs, count, path, pids=pids), times)
    native = side(lab.native_path(name), {}, 3)
    mount = side(host / name, {"host": host.process.pid}, 3)
    peers = {} if options else lab.warm_peers(name, side)  # they have no such options
    native(), mount()
    fetched = lab.counters(host)["fetched_bytes"]
    alternate(row, lab.rounds, native, mount, peers)
    if lab.counters(host)["fetched_bytes"] != fetched:
        raise Wrong("%s: not warm, something was fetched" % title)
    lab.same_bytes(host, os.path.join(name, "0"))
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


def stats_names(lab, case):
    if not lab.offers("--kernel-names", "mount"):
        raise Skip("this build has no --kernel-names")
    yield many_files(lab, case, "the same with --kernel-names", 0.7, "stat", 1, lab.count(50000),
                     ("--kernel-names",))
