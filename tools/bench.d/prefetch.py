"""
prefetch.py - what is there before it is asked for: first epochs, trees, series, orders that are known.

The reference is the same mount with `--prefetch off`, what several streams fetch without a mount, or the
round trips that it would take; all through the same link (LINK: bytes per second and delay).
"""

import concurrent.futures
import os
import random
import subprocess
import time

from lab import MIB
from measure import Row, Sample, Skip, Wrong, alternate, drop_caches, timed

GIGABIT = 125000000
DELAY_MS = 10  # each way
OFF = ("--prefetch", "off")
CONSUMER = 0.8  # of the link's rate


def need(lab, option, *command):
    if not lab.offers(option, *command):
        raise Skip("this build has no `%s`" % " ".join(("leasehold",) + command + (option,)))


def slow_link(lab, rate=0):
    shaped = lab.references.shaped(rate) if rate else None
    return lab.references.link(lab.origin.port, DELAY_MS, rate, shaped)


def rounds(lab, most):
    return min(lab.rounds, most)


def write_list(lab, name, paths):
    path = os.path.join(lab.world.path, name)
    with open(path, "w") as f:
        f.writelines("%s\n" % p for p in paths)
    return path


# ---- one file ----

def ahead(lab, case):
    size = lab.bytes(4096 * MIB)
    name = lab.file("four", size)
    keys = lab.host()
    fetched = os.path.join(lab.world.path, "parts")
    os.mkdir(fetched)
    part = min(64 * MIB, size)
    for delay in (0, DELAY_MS):
        link = lab.references.link(lab.origin.port, delay) if delay else None

        def reference():
            seconds, used = lab.references.curl_parts(keys, name, size, part, fetched, link)
            return Sample(size / seconds, cpu=used, work=size)

        def subject():
            host = lab.host(link=link)
            sample = lab.io("seq", 1, host / name, pids=lab.pids(host))
            if lab.counters(host)["fetched_bytes"] < size:
                raise Wrong("not cold")
            lab.end(host)
            sample.checksum = None  # the reference has none
            return sample

        row = Row(case, "cold sequential, %d MiB, %d ms" % (size // MIB, 2 * delay), "B/s", 0.9)
        row.names = ("8 HTTP/2 streams of the origin's, into files", "mount")
        yield alternate(row, rounds(lab, 3), reference, subject)
    lab.end(keys)


# ---- epochs ----

def tree(lab):
    """20,000 files of 110 KiB in 20 directories, and their names."""
    count = lab.count(20000, 200)
    for i in range(20):
        lab.small_files("epoch/%d" % i, count // 20, 110 << 10)
    return ["epoch/%d/%d" % (i, k) for i in range(20) for k in range(count // 20)]


def read_epoch(lab, host, names, seed):
    names = list(names)
    random.Random(seed).shuffle(names)
    return lab.io("list", 4, 0, write_list(lab, "order", [host / n for n in names]),
                  pids=lab.pids(host))


def epoch(lab, case):
    """Seconds that four readers wait, in total; in the second epoch nothing comes from the origin."""
    need(lab, "--prefetch", "mount")
    names = tree(lab)
    link = slow_link(lab)
    second = []

    def one(*options):
        host = lab.host(*options, link=link)
        sample = read_epoch(lab, host, names, 1)
        took = Sample(sample.found["waited"], sample.checksum, sample.cpu, len(names))
        if not options:
            before = lab.counters(host)["fetched_bytes"]
            again = read_epoch(lab, host, names, 2)
            second.append((lab.counters(host)["fetched_bytes"] - before, again.found["waited"]))
        lab.end(host)
        return took

    row = Row(case, "cold epoch of %d files, 4 readers, waiting" % len(names), "s", 0.2,
              better="less")
    row.names = ("--prefetch off", "mount")
    alternate(row, rounds(lab, 2), lambda: one(*OFF), one)
    row.note = "second epoch, another order: %d bytes fetched, %.2f s waited" % max(second)
    yield row


def epoch_half(lab, case):
    need(lab, "--prefetch", "mount")
    names = tree(lab)
    link = slow_link(lab)
    half = len(names) * (124 << 10) // 2  # as the cache counts: with a file's own blocks
    host = lab.host("--cache-size", str(half), link=link)
    size = len(names) * (110 << 10)
    row = Row(case, "second and third epoch, cache of half, from the cache", "share", 1.0)
    row.names = ("what is asked: 0.45", "mount")
    read_epoch(lab, host, names, 1)
    for seed in (2, 3):
        drop_caches()  # what the kernel has in memory would not be asked for
        before = lab.counters(host)["fetched_bytes"]
        read_epoch(lab, host, names, seed)
        fetched = lab.counters(host)["fetched_bytes"] - before
        row.reference.append(Sample(0.45))
        row.subject.append(Sample(max(0, 1 - fetched / size)))
    yield row
    lab.end(host)


# ---- trees ----

def find(lab, case):
    """Against one round trip for each directory."""
    need(lab, "--prefetch", "mount")
    directories = lab.count(2000, 40)
    for i in range(directories):
        path = lab.origin.path_of("tree", str(i % 40), str(i))
        os.makedirs(path)
        for k in range(24):
            os.close(os.open(os.path.join(path, str(k)), os.O_CREAT | os.O_WRONLY))
    raw = lab.references.raw()
    bare = lab.references.link(raw.port, DELAY_MS)
    link = slow_link(lab)

    def reference():
        some = min(200, directories)
        return Sample(lab.references.round_trip(bare, 4096, some).value * directories)

    def subject(tests, *options):
        host = lab.host(*options, link=link)
        seconds, _, out = timed(["find", host / "tree", "-type", "f"] + tests)
        if out.count(b"\n") != directories * 24:
            raise Wrong("%d files were found" % out.count(b"\n"))
        lab.end(host)
        return Sample(seconds)

    # Names and types alone; and the attributes of every file, which the kernel asks for one by one.
    for title, tests in (("cold find", []), ("cold find -size", ["-size", "-1"])):
        row = Row(case, "%s, %d directories, 20 ms" % (title, directories), "s", 0.05, better="less")
        row.names = ("a round trip for each directory", "mount")
        yield alternate(row, rounds(lab, 3), reference, lambda tests=tests: subject(tests),
                        {"--prefetch off": lambda tests=tests: subject(tests, *OFF)})


# ---- series, orders ----

def shards(lab, case):
    """How long a consumer at 0.8 of the link's rate waits, once two shards said what comes."""
    need(lab, "--prefetch", "mount")
    count, each = 64, lab.bytes(64 * MIB)
    names = [lab.file("series/shard-%05d.tar" % i, each) for i in range(count)]
    link = slow_link(lab, GIGABIT)
    row = Row(case, "series of %d shards of %d MiB, waiting" % (count, each // MIB), "s", 0.05,
              better="less")
    row.names = ("the time that it took", "mount")
    for _ in range(rounds(lab, 2)):
        host = lab.host(link=link)
        rate = int(CONSUMER * GIGABIT)
        lab.io("list", 1, rate, write_list(lab, "first", [host / n for n in names[:2]]))
        sample = lab.io("list", 1, rate, write_list(lab, "rest", [host / n for n in names[2:]]))
        row.reference.append(Sample(sample.found["seconds"]))
        row.subject.append(Sample(sample.found["waited"]))
        lab.end(host)
    yield row


def demand(lab, case):
    """The median of first reads through the link, alone and while a job fills it."""
    need(lab, "prefetch")
    count = lab.count(100, 40)
    names = [lab.file("bulk/%d" % i, lab.bytes(256 * MIB)) for i in range(8)]
    link = slow_link(lab, GIGABIT)
    lab.small_files("asked", count, 64 << 10)
    policy = os.path.join(lab.world.path, "policy")  # what is read is not guessed
    with open(policy, "w") as f:
        f.write("/asked/** prefetch=off\n")

    def read(job):
        host = lab.host("--policy", policy, link=link)
        os.listdir(host / "asked")
        process = None
        if job:
            process = subprocess.Popen([lab.args.binary, "prefetch"] +
                                       [host / n for n in names], stdout=subprocess.DEVNULL)
            time.sleep(1)
        times = []
        for i in range(count):
            start = time.monotonic()
            with open(host / "asked/%d" % i, "rb") as f:
                f.read()
            times.append(time.monotonic() - start)
            time.sleep(0.02)
        if process:
            if process.poll() is not None:
                row.note = "the job was done before the reads were: use a larger --scale"
            process.terminate()
            process.wait()
        lab.end(host)
        return Sample(sorted(times)[count // 2])

    row = Row(case, "cold 64 KiB beside a job, median", "s", 1.5, better="less")
    row.names = ("without the job", "beside it")
    yield alternate(row, rounds(lab, 3), lambda: read(False), lambda: read(True))


def order(lab, case):
    need(lab, "--ordered", "prefetch")
    count, each = lab.count(4000, 200), 512 << 10
    lab.small_files("known", count, each)
    names = ["known/%d" % i for i in range(count)]
    random.Random(7).shuffle(names)
    link = slow_link(lab, GIGABIT)
    host = lab.host("--cache-size", str(max(count * each // 4, 128 * MIB)), link=link)
    paths = write_list(lab, "order", [host / n for n in names])
    environment = dict(os.environ, XDG_STATE_HOME=lab.world.path)
    job = subprocess.Popen([lab.args.binary, "prefetch", "--from-list", paths, "--ordered",
                            "--window", "64M"], env=environment, stdout=subprocess.DEVNULL)
    time.sleep(1)
    sample = lab.io("list", 1, int(CONSUMER * GIGABIT), paths)
    if job.wait(60) != 0:
        raise Wrong("the job failed")
    row = Row(case, "reads that wait, order known, cache of a quarter", "share", 1.0, better="less")
    row.names = ("what is asked: 0.02", "mount")
    row.reference.append(Sample(0.02))
    row.subject.append(Sample(sample.found["slow"] / count))
    row.note = "%d bytes fetched of %d, %.2f s waited of %.2f s" % (
        lab.counters(host)["fetched_bytes"], count * each, sample.found["waited"], sample.found["seconds"])
    yield row
    lab.end(host)


# ---- weights ----

def weights(lab, case):
    """A header, then everything, in mappings of four processes; against one sequential read."""
    size = lab.bytes(2048 * MIB)
    name = lab.file("model.safetensors", size)
    link = slow_link(lab)
    policy = os.path.join(lab.world.path, "weights.policy")
    with open(policy, "w") as f:
        f.write("*.safetensors prefetch=whole wait=open\n")

    def reference():
        host = lab.host(link=link)
        seconds = lab.io("seq", 1, host / name).found["seconds"]
        lab.end(host)
        return Sample(seconds)

    def mapped(*options):
        host = lab.host(*options, link=link)
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(lab.io, "mapscan", 1, host / name) for _ in range(4)]
            if len({run.result().checksum for run in runs}) != 1:
                raise Wrong("mappings differ")
        seconds = time.monotonic() - start
        lab.end(host)
        return Sample(seconds)

    for title, options in (("mapped by 4 processes, 20 ms", ()),
                           ("the same, prefetch=whole wait=open", ("--policy", policy))):
        row = Row(case, "%d MiB %s" % (size // MIB, title), "s", better="less")
        row.names = ("one sequential read", "mappings")
        yield alternate(row, rounds(lab, 3), reference, lambda options=options: mapped(*options))
