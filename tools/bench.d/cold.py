"""
cold.py - how fast the cache fills and how fast writes go through: cases of the transport.
"""

import os
import shutil

from lab import MIB
from measure import Row, Sample, Wrong, alternate, timed

GIGABIT = 125000000
DELAY_MS = 10  # each way


def cold_read(lab, names, size, link=None, jobs=1):
    """A function that reads them through a new mount."""
    def subject():
        host = lab.host(link=link)
        sample = lab.io("seq", jobs, *[host / n for n in names], pids=lab.pids(host))
        got = lab.counters(host)["fetched_bytes"]
        if got < size:
            raise Wrong("not cold: %d of %d bytes were fetched" % (got, size))
        if not subject.compared:
            lab.same_bytes(host, *names)
            subject.compared = True
        lab.end(host)
        return sample
    subject.compared = False
    return subject


def big_files(lab, count):
    size = lab.bytes(512 * MIB)
    if count == 1:
        return [lab.file("big", size)], size
    each = lab.bytes(size // count)
    return [lab.file("eight/%d" % i, each) for i in range(count)], each * count


def loopback(lab, case):
    """nginx fetches into a file on the cache's file system, from which it is then read."""
    for jobs in (1, 8):
        names, size = big_files(lab, jobs)
        fetched = os.path.join(lab.world.path, "fetched")

        def reference():
            shutil.rmtree(fetched, ignore_errors=True)
            os.mkdir(fetched)
            outputs = [os.path.join(fetched, str(i)) for i in range(len(names))]
            seconds, used = lab.references.curl_nginx(names, outputs)
            sample = lab.io("seq", jobs, *outputs)
            used["client"] += sample.cpu["client"]
            return Sample(size / (seconds + size / sample.value), sample.checksum, used, size)

        def nowhere():
            seconds, used = lab.references.curl_nginx(names)
            return Sample(size / seconds, cpu=used, work=size)

        row = Row(case, "cold sequential, %d file%s, loopback" % (jobs, "s" * (jobs > 1)), "B/s",
                  0.9)
        row.names = ("curl from nginx into a file, then read", "mount")
        yield alternate(row, lab.rounds, reference, cold_read(lab, names, size, jobs=jobs),
                        dict(lab.peers(names, jobs), **{"curl, into nothing": nowhere}))
        shutil.rmtree(fetched, ignore_errors=True)


def slow_link(lab, case):
    """The rate by HTB, the delay by our proxy; the same pair for the reference and for the mount."""
    raw = lab.references.raw()
    shaped = lab.references.shaped(GIGABIT)
    bare = lab.references.link(raw.port, DELAY_MS, GIGABIT, shaped)
    link = lab.references.link(lab.origin.port, DELAY_MS, GIGABIT, shaped)
    lab.references.start_nginx()
    web = lab.references.link(lab.references.port, DELAY_MS, GIGABIT, shaped)
    for jobs in (1, 8):
        names, size = big_files(lab, jobs)

        def curl():
            seconds, used = lab.references.curl_nginx(names, link=web)
            return Sample(size / seconds, cpu=used, work=size)

        row = Row(case, "cold sequential, %d file%s, 1 Gbit/s, 20 ms" % (jobs, "s" * (jobs > 1)),
                  "B/s", 0.95)
        row.names = ("the bare link", "mount")
        row.note = "rate by " + ("HTB" if shaped else "the proxy")
        yield alternate(row, lab.rounds, lambda: lab.references.link_rate(bare, size, jobs),
                        cold_read(lab, names, size, link=link, jobs=jobs),
                        {"curl from nginx": curl})


def small_file(lab, case):
    """Files that were never looked at: in a directory whose names are known, and in one unknown."""
    count = lab.count(60)
    raw = lab.references.raw()
    bare = lab.references.link(raw.port, DELAY_MS)
    link = lab.references.link(lab.origin.port, DELAY_MS)
    lab.small_files("ten", count, 10240)
    for listed in (True, False):
        def subject():
            host = lab.host(*(("--prefetch", "off") if lab.offers("--prefetch", "mount") else ()),
                            link=link)
            os.stat(host / "ten")
            if listed:
                with os.scandir(host / "ten") as entries:
                    if sum(e.is_file() for e in entries) != count:
                        raise Wrong("not all files are listed")
            before = host.status()
            sample = lab.io("first", 1, count, host / "ten", pids=lab.pids(host))
            after = host.status()
            # Bytes that come with an answer to a lookup are no fetch.
            moved = after["transport"]["bytes_in"] - before["transport"]["bytes_in"]
            if moved < count * 10240:
                raise Wrong("not cold: %d bytes came" % moved)
            calls = after["counters"]["calls"] - before["counters"]["calls"]
            row.note = "%.1f messages for each file" % (calls / count)
            lab.same_bytes(host, "ten")
            lab.end(host)
            return sample

        row = Row(case, "cold 10 KiB, 20 ms, " + ("listed" if listed else "name unknown"), "s",
                  1.15, better="less")
        row.names = ("one round trip", "mount")
        yield alternate(row, lab.rounds,
                        lambda: lab.references.round_trip(bare, 10240, count), subject)


def write(lab, case):
    jobs, each = 4, lab.bytes(64 * MIB)
    host = lab.host()
    block = os.path.join(lab.world.path, "block")
    with open(block, "wb") as f:
        f.write(os.urandom(MIB))

    def reference():
        seconds, used = lab.references.curl_upload(host, block, jobs * each // MIB, jobs)
        return Sample(jobs * each / seconds, cpu=used, work=jobs * each)

    def subject():
        sample = lab.io("write", jobs, each, host / "written", pids=lab.pids(host))
        for i in range(jobs):
            name = "written.%d" % i
            if subject.compared and i:
                break
            timed(["cmp", host / name, lab.origin.path_of(name)])
            if os.path.getsize(lab.origin.path_of(name)) != each:
                raise Wrong("%s has another size at the origin" % name)
        subject.compared = True
        return sample
    subject.compared = False

    def native():
        return lab.io("write", jobs, each, lab.native_path("written"))

    row = Row(case, "write-through 1 MiB, 4 files, fsync", "B/s", 0.8)
    row.names = ("curl uploads to the origin, which keeps nothing", "mount")
    yield alternate(row, lab.rounds, reference, subject, {"native write and fsync": native})
    lab.end(host)


def plain(lab, case):
    """The same files by plain GET: our server against nginx, with two clients."""
    names, size = big_files(lab, 8)  # an answer of ours is at most 64 MiB
    host = lab.host()
    for client, ours, theirs in (
            ("curl", lab.references.curl_origin, lab.references.curl_nginx),
            ("nghttp", lab.references.nghttp_origin, lab.references.nghttp_nginx)):
        def sample(result):
            return Sample(size / result[0], cpu=result[1], work=size)

        row = Row(case, "GET of 8 files by " + client, "B/s")
        row.names = ("nginx", "origin")
        yield alternate(row, lab.rounds, lambda: sample(theirs(names)),
                        lambda: sample(ours(host, names)))
    lab.end(host)


def messages(lab, case):
    """What one cold `cat` of 10 KiB moves. Its reference is the file itself."""
    lab.small_files("one", 1, 10240)
    for listed in (True, False):
        host = lab.host()
        os.stat(host / "one")
        if listed:
            os.listdir(host / "one")
        before = host.status()
        with open(host / "one/0", "rb") as f:
            f.read()
        after = host.status()
        moved = {key: after["transport"][key] - before["transport"][key]
                 for key in ("bytes_in", "bytes_out")}
        row = Row(case, "bytes for a cold cat of 10 KiB, " + ("listed" if listed else "unknown"),
                  "B", better="less")
        row.names = ("the file", "mount")
        row.reference.append(Sample(10240))
        row.subject.append(Sample(sum(moved.values())))
        row.note = "messages: %d, bytes in %d, out %d" % (
            after["counters"]["calls"] - before["counters"]["calls"], moved["bytes_in"],
            moved["bytes_out"])
        yield row
        lab.end(host)
