#!/usr/bin/env python3
"""Hosts in network namespaces of their own, cut off without a sound and joined again."""

import os
import signal
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
from leasehold import Reader, eventually, expect, pattern, read_file, write_file

OLD = "%08d" % 1
NEW = "%08d" % 2


def cut_and_mend(w, **how):
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a = w.host("a")
    b = w.host("b", "-o", "timeout=60s", namespace=True)
    write_file(a / "f", OLD.encode())
    questions = ("read", "map", "open")
    readers = {q: Reader(w, b / "f") for q in questions}
    for question, reader in readers.items():
        expect(reader.look(question), OLD, question + " before")
    b.namespace.cut(**how)
    write_file(a / "f", NEW.encode(), "r+b")  # returns when b's lease has provably ended
    for question, reader in readers.items():
        reader.ask(question)
    early = {q: r.answer(1) for q, r in readers.items()}
    b.namespace.mend()
    for question, reader in readers.items():
        answer = early[question] or reader.answer()
        if answer not in (NEW, "EIO", "ETIMEDOUT", "SIGBUS"):
            raise leasehold.Failure("%s sees %s, acknowledged was %s" % (question, answer, NEW))
        expect(early[question] in (None, "EIO", "ETIMEDOUT", "SIGBUS"), True,
               "%s while cut off: %s" % (question, early[question]))
    eventually(lambda: read_file(b / "f") == NEW.encode(), "b reads again")
    write_file(b / "f", b"from b")
    expect(read_file(a / "f"), b"from b")


def test_a_host_that_is_cut_off_serves_nothing_old(w):
    cut_and_mend(w)


def test_a_host_that_hears_nothing_serves_nothing_old(w):
    cut_and_mend(w, outgoing=False)


def test_a_host_that_is_not_heard_serves_nothing_old(w):
    cut_and_mend(w, incoming=False)


def test_a_host_that_is_cut_off_can_be_unmounted(w):
    w.allow_log("")
    w.origin("--lease-term", "30s")
    b = w.host("b", namespace=True)
    for busy in (False, True):
        write_file(b / "f", b"1")
        fd = os.open(b / "f", os.O_RDONLY) if busy else None
        b.namespace.cut()
        if busy:
            b.signal(signal.SIGTERM)
            expect(b.wait(), 0, "exit status")
            os.close(fd)
        else:
            b.unmount()
        expect(leasehold.is_mounted(b.path), False, "still mounted")
        b.namespace.mend()
        b.start()


def test_a_short_cut_is_not_noticed(w):
    w.allow_log("")
    w.origin("--lease-term", "30s")
    a = w.host("a")
    b = w.host("b", namespace=True)
    write_file(a / "f", b"1")
    expect(read_file(b / "f"), b"1")
    b.namespace.cut()
    expect(read_file(b / "f"), b"1", "within the term the lease stands")
    b.namespace.mend()
    write_file(a / "f", b"2")
    expect(read_file(b / "f"), b"2")


def test_appends_across_cuts_are_done_once(w):
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a = w.host("a")
    b = w.host("b", "-o", "timeout=60s", namespace=True)
    done, errors = [], []
    stop = threading.Event()

    def append():
        fd = os.open(b / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        n = 0
        while not stop.is_set():
            try:
                os.write(fd, b"%06d\n" % n)
                done.append(n)
            except OSError as e:
                errors.append((n, e))
            n += 1
        os.close(fd)
    writer = threading.Thread(target=append)
    writer.start()
    for round in range(3):
        before = len(done)
        eventually(lambda: len(done) > before + 20, "appends go on")
        b.namespace.cut(incoming=round != 1, outgoing=round != 2)
        if round == 0:
            b.wait_until_disconnected()
        b.namespace.mend()
    before = len(done)
    eventually(lambda: len(done) > before + 20, "appends go on after the last cut")
    stop.set()
    writer.join()
    lines = [int(x) for x in read_file(a / "log").split()]
    expect(len(lines), len(set(lines)), "lines that are there once")
    expect(sorted(set(done) - set(lines)), [], "acknowledged, and not there")
    expect(lines, sorted(lines), "in order")
    unknown = {n for n, _ in errors}
    expect(set(lines) - set(done) - unknown, set(), "there, and never acknowledged")


def test_what_is_open_stays_open_across_a_cut(w):
    w.allow_log("")
    w.origin("--lease-term", "5s")
    a = w.host("a")
    b = w.host("b", "-o", "timeout=60s", namespace=True)
    data = pattern(300000)
    for name in ("changed", "same"):
        write_file(a / name, data)
    fds = [os.open(b / name, os.O_RDONLY) for name in ("changed", "same")]
    b.namespace.cut()
    b.wait_until_disconnected()
    write_file(a / "changed", b"!", "r+b")  # so that the lease cannot be had back
    b.namespace.mend()

    def claimed():
        leases = b.status()["leases"]
        return leases["reclaimed"] >= 1 and leases["reclaims_refused"] >= 1
    eventually(claimed, "b has told what is open")
    for name in ("changed", "same"):
        os.unlink(a / name)
    expect(os.pread(fds[0], 300000, 0), b"!" + data[1:], "changed, then unlinked elsewhere")
    expect(os.pread(fds[1], 300000, 0), data, "unlinked elsewhere")
    for fd in fds:
        os.close(fd)


def test_hosts_that_are_not_cut_off_go_on(w):
    w.allow_log("")
    w.origin("--lease-term", "2s")
    a, c = w.hosts("a", "c")
    b = w.host("b", namespace=True)
    write_file(a / "f", b"0")
    os.mkdir(a / "d")
    for h in (a, b, c):
        read_file(h / "f")
        os.listdir(h / "d")
    b.namespace.cut()
    for i in range(30):
        write_file(a / "f", b"%d" % i)
        expect(read_file(c / "f"), b"%d" % i)
        write_file(c / ("d/%d" % i), b"")
        expect(len(os.listdir(a / "d")), i + 1)
    b.namespace.mend()
    eventually(lambda: len(os.listdir(b / "d")) == 30, "b is back")
    expect(read_file(b / "f"), b"29")


leasehold.main(globals())
