#!/usr/bin/env python3
"""Stores through shared mappings: seen elsewhere, and lost only with an error."""

import errno
import mmap
import os
import random
import signal
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Reader, Storer, eventually, expect, pattern, read_file, write_file

SIZE = 64 << 10
OLD = "%08d" % 1
NEW = "%08d" % 2


def make(w, *names):
    hosts = w.hosts(*names)
    write_file(hosts[0] / "f", OLD.encode() + pattern(SIZE - len(OLD)))
    return hosts


def test_a_store_is_seen_elsewhere_after_msync(w):
    a, b = make(w, "a", "b")
    reader = Reader(w, b / "f")
    expect(reader.look("map"), OLD)
    storer = Storer(w, a / "f")
    storer("load", 0, 8, result=OLD)
    storer("store", 0, NEW)
    storer("msync")
    for question in ("map", "read", "open"):
        expect(reader.look(question), NEW, question)
    expect(read_file(w.main_origin.path_of("f"))[:8], NEW.encode(), "at the origin")


def test_a_store_is_seen_elsewhere_without_msync(w):
    a, b = make(w, "a", "b")
    reader = Reader(w, b / "f")
    storer = Storer(w, a / "f")
    for number, question in enumerate(("open", "map", "read", "newmap", "map") * 2):
        text = "%08d" % (number + 10)
        storer("store", 0, text)
        expect(reader.look(question), text, question)
        expect(reader.look("stat") != "", True)
        storer("load", 0, 8, result=text)


def test_hosts_that_store_and_write_lose_nothing(w):
    a, b = make(w, "a", "b")
    storers = Storer(w, a / "f"), Storer(w, b / "f")
    # Side by side in one page, by turns.
    for number in range(10):
        for which, storer in enumerate(storers):
            storer("store", 16 + 8 * which, "%08d" % number)
    for which, storer in enumerate(storers):
        storer("load", 16, 16, result="%08d%08d" % (9, 9))
    # At once, as fast as they can; each its own counter in one page.
    storers[0]("store", 0, "%08d%08d" % (0, 0))
    for which, storer in enumerate(storers):
        storer.ask("count %d 2000" % (8 * which))
    for storer in storers:
        expect(storer.answer(250), "ok", "count")
    for storer in storers:
        storer("load", 0, 16, result="%08d%08d" % (2000, 2000))
    # By write(2) on one side, and through the mapping on the other.
    for number in range(10):
        storers[0]("store", 32, "%08d" % number)
        storers[1]("write", 40, "%08d" % number)
        storers[1]("read", 32, 16, result="%08d%08d" % (number, number))
        storers[0]("load", 32, 16, result="%08d%08d" % (number, number))


def test_munmap_close_and_fsync_write_back(w):
    (a,) = make(w, "a")
    at_origin = w.main_origin.path_of("f")
    storer = Storer(w, a / "f")
    for number, order in enumerate(("fsync", "unmap", "map", "close")):
        text = "%08d" % (number + 3)
        if order == "map":
            storer("map")
            continue
        storer("store", 8, text)
        storer(order)
        expect(read_file(at_origin)[8:16], text.encode(), "after " + order)


def test_truncation_and_stores(w):
    a, b = make(w, "a", "b")
    storer = Storer(w, a / "f")
    storer("store", 0, NEW)
    storer("store", 60000, NEW)
    storer("truncate", 5000)
    expect(os.stat(b / "f").st_size, 5000)
    expect(read_file(b / "f"), NEW.encode() + pattern(SIZE - 8)[:4992])
    storer("store", 4992, OLD)
    os.truncate(b / "f", 4996)
    expect(read_file(b / "f")[4992:], OLD[:4].encode())
    expect(os.stat(a / "f").st_size, 4996)
    storer("store", 0, OLD)
    storer("msync")
    expect(os.stat(b / "f").st_size, 4996)
    expect(read_file(b / "f")[:8], OLD.encode())


def test_random_stores_and_writes_agree_with_a_model(w):
    seed = int(os.environ.get("LEASEHOLD_TEST_SEED", "1"))
    rng = random.Random(seed)
    hosts = make(w, "a", "b")
    storers = [Storer(w, hosts[i // 2] / "f") for i in range(3)]
    model = bytearray(b"." * SIZE)
    write_file(hosts[0] / "f", bytes(model), "r+b")
    for step in range(int(os.environ.get("LEASEHOLD_TEST_STEPS", "1500"))):
        which = rng.randrange(len(storers))
        order = rng.choice(("store",) * 4 + ("load",) * 3 + ("write", "write", "read", "read",
                                                             "msync", "fsync", "truncate"))
        at, count = rng.randrange(len(model) - 16), rng.randrange(1, 16)
        text = "".join(rng.choice("abcdefgh") for _ in range(count))
        if order in ("store", "write"):
            storers[which](order, at, text)
            model[at:at + count] = text.encode()
        elif order in ("load", "read"):
            expect(storers[which].look("%s %d %d" % (order, at, count)),
                   model[at:at + count].decode(),
                   "seed %d step %d: %s at %d by %d" % (seed, step, order, at, which))
        elif order == "truncate" and at > 4096 and rng.random() < 0.1:
            del model[at + 16:]
            storers[which]("truncate", len(model))
            for i, storer in enumerate(storers):
                os.stat(hosts[i // 2] / "f")  # a mapping does not see by itself that it is shorter
                storer("unmap")
                storer("map")
        elif order in ("msync", "fsync"):
            storers[which](order)
    for host in hosts:
        expect(read_file(host / "f"), bytes(model), "seed %d at the end" % seed)


def test_many_dirty_pages_are_given_up(w):
    a, b = w.hosts("a", "b")
    size = 8 << 20
    write_file(a / "f", b"\0" * size)
    data = pattern(size, 7)
    with open(a / "f", "r+b") as f, mmap.mmap(f.fileno(), size) as mapping:
        mapping[:] = data
        expect(read_file(b / "f") == data, True, "what b reads")
        mapping[:4] = b"more"
    expect(read_file(b / "f")[:4], b"more")


def test_a_mapping_of_a_new_file(w):
    """As numpy.memmap does it: made, made large by its last byte, mapped."""
    a, b = w.hosts("a", "b")
    with open(a / "array", "w+b") as f:
        f.seek(SIZE - 1)
        f.write(b"\0")
        f.flush()
        with mmap.mmap(f.fileno(), SIZE) as array:
            array[:] = pattern(SIZE)
            array.flush()
    expect(read_file(b / "array"), pattern(SIZE))


def test_sqlite_with_a_write_ahead_log_on_one_host(w):
    import sqlite3
    a, b = w.hosts("a", "b")
    writer = sqlite3.connect(a / "db")
    expect(writer.execute("pragma journal_mode=wal").fetchone()[0], "wal")
    writer.execute("create table t (i integer)")
    reader = sqlite3.connect(a / "db")
    for i in range(50):
        writer.execute("insert into t values (?)", (i,))
        writer.commit()
        expect(reader.execute("select count(*) from t").fetchone()[0], i + 1)
    expect(writer.execute("pragma integrity_check").fetchone()[0], "ok")
    reader.close()
    writer.close()
    other = sqlite3.connect(b / "db")
    expect(other.execute("select sum(i) from t").fetchone()[0], sum(range(50)))
    other.close()


def test_stores_of_a_host_that_is_cut_off_are_lost_with_an_error(w):
    w.allow_log("")
    w.origin("--lease-term", "5s")
    a = w.host("a")
    b = w.host("b", "-o", "timeout=60s", namespace=True)
    write_file(a / "f", OLD.encode() + pattern(SIZE - 8))
    storer, other = Storer(w, b / "f"), Storer(w, b / "f")
    storer("store", 0, "lost0000")
    b.namespace.cut()
    write_file(a / "f", NEW.encode(), "r+b")
    # Its own clock ended the lease before: the pages are gone, written back to nobody.
    storer("msync", result="EIO")
    b.namespace.mend()
    eventually(lambda: read_file(b / "f")[:8] == NEW.encode(), "b reads again")
    other("fsync", result="EIO")
    storer("fsync")
    other("fsync")
    storer("load", 0, 8, result=NEW)
    expect(read_file(a / "f")[:8], NEW.encode(), "never applied late")
    storer("store", 0, "00000003")
    storer("msync")
    expect(read_file(a / "f")[:8], b"00000003", "the mapping goes on")


def test_the_end_of_a_busy_mount_writes_back(w):
    w.allow_log("is busy|ended with the daemon")
    (a,) = make(w, "a")
    storer = Storer(w, a / "f")
    storer("store", 0, NEW)
    a.signal(signal.SIGTERM)
    expect(a.wait(), 0, "exit status")
    expect(read_file(w.main_origin.path_of("f"))[:8], NEW.encode(), "at the origin")
    storer.end()


def test_a_mapping_goes_on_after_the_origin_was_killed(w):
    w.allow_log("")
    (a,) = make(w, "a")
    storer, other = Storer(w, a / "f"), Storer(w, a / "f")
    storer("store", 0, NEW)
    storer("msync")
    storer("store", 8, "kept0000")
    w.main_origin.kill()
    w.main_origin.start()
    storer("msync")  # its lease did not die with the origin
    storer("load", 0, 16, result=NEW + "kept0000")
    for round in range(3):
        storer("store", 16, "%08d" % round)
        other("load", 16, 8, result="%08d" % round)
        other("store", 24, "%08d" % round)
        storer("msync")
        expect(read_file(w.main_origin.path_of("f"))[16:32], b"%08d%08d" % (round, round))


def test_stores_under_a_restart_of_the_origin_reach_the_other_host(w):
    w.allow_log("")
    a, b = make(w, "a", "b")
    storer, other = Storer(w, a / "f"), Storer(w, b / "f")
    for round in range(3):
        text = "%08d" % (round + 10)
        storer("store", 0, text)
        if round == 1:
            storer("store", 20000, text)
        w.main_origin.kill()
        storer("store", 8, text)  # while it is away
        w.main_origin.start()
        storer("store", 16, text)
        other("load", 0, 24, result=3 * text)
        storer("msync")
        other("store", 0, OLD)
        storer("load", 0, 8, result=OLD)
    expect(read_file(b / "f")[20000:20008], b"%08d" % 11)


def test_stores_are_lost_when_the_origin_is_away_for_longer_than_a_term(w):
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a, b = make(w, "a", "b")
    storer = Storer(w, a / "f")
    storer("store", 0, "lost0000")
    w.main_origin.kill()
    a.wait_until_disconnected()
    storer("msync", result="EIO")
    w.main_origin.start()
    eventually(lambda: read_file(b / "f")[:8] == OLD.encode(), "b reads")
    eventually(lambda: storer.look("load 0 8") == OLD, "a loads")


def test_stores_under_a_daemon_that_is_killed_or_stopped_end_in_errors(w):
    for number in (signal.SIGKILL, signal.SIGSTOP):
        w.allow_log("")
        if number == signal.SIGKILL:
            w.origin("--lease-term", "2s")
        a = w.host("a%d" % number)
        b = w.host("b%d" % number)
        write_file(a / "f", OLD.encode() + pattern(SIZE - 8))
        storer = Storer(w, b / "f")
        storer("store", 0, "lost0000")
        b.signal(number)
        write_file(a / "f", NEW.encode(), "r+b")  # returns when b's lease has provably ended
        answer = storer.look("msync")
        expect(answer in ("EIO", "ENOTCONN", "ECONNABORTED"), True, "msync: " + answer)
        expect(read_file(a / "f")[:8], NEW.encode(), "never applied late")
        if number == signal.SIGSTOP:
            b.signal(signal.SIGCONT)
        else:
            expect(b.wait(), -signal.SIGKILL)
        storer.end()
        expect(read_file(a / "f")[:8], NEW.encode(), "never applied late")
        b.crash()
        a.unmount()


if __name__ == "__main__":
    leasehold.main(globals())
