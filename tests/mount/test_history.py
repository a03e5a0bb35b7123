#!/usr/bin/env python3
"""
Three hosts, several processes on each, and bad days: everything that they do to a few files and
directories is recorded, and the history of each is checked to be linearizable (tests/lib/linear.py).
Operations that failed may have been done at any time after, or never.

LEASEHOLD_HISTORY_SECONDS: how long (10); LEASEHOLD_HISTORY_SEED: what is done, and what breaks;
LEASEHOLD_HISTORY_FAULTS=0: nothing breaks.
"""

import os
import pickle
import random
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import leasehold
import linear
from faults import Faults
from leasehold import Failure

SECONDS = float(os.environ.get("LEASEHOLD_HISTORY_SECONDS", "10"))
SEED = int(os.environ.get("LEASEHOLD_HISTORY_SEED", "1"))
FAULTS = os.environ.get("LEASEHOLD_HISTORY_FAULTS", "1") != "0"
PROCESSES = 2  # on each host
KINDS = {"r": "register", "l": "log", "d": "directory"}


def start_worker(w, host, process):
    program = os.path.join(os.path.dirname(leasehold.__file__), "worker.py")
    output = os.path.join(w.path, "history.%d" % process)
    worker = subprocess.Popen(
        [sys.executable, "-B", program, host.path, output, str(process), str(SEED * 100 + process)],
        stdin=subprocess.PIPE, cwd="/")
    return worker, output


def end_worker(worker):
    worker.stdin.close()
    try:
        worker.wait(200)
    except subprocess.TimeoutExpired:
        worker.kill()
        raise Failure("a process does not come back") from None
    if worker.returncode:
        raise Failure("a worker ended with status %s" % worker.returncode)


def records_of(path):
    with open(path, "rb") as f:
        while True:
            try:
                yield pickle.load(f)
            except EOFError:
                return


def check(outputs):
    """Checks the histories; (objects, operations, of which of unknown outcome)."""
    histories = {}
    for output in outputs:
        for record in records_of(output):
            if record[0] == "wrong":
                raise Failure(record[1])
            histories.setdefault(record[0], []).append(linear.Operation(*record[1:]))
    for name, operations in sorted(histories.items()):
        found = linear.check(KINDS[name[0]], operations)
        if found:
            raise Failure("%s: %s" % (name, linear.explain(KINDS[name[0]], found)))
    flat = [o for operations in histories.values() for o in operations]
    return len(histories), len(flat), sum(o.returned is None for o in flat)


def test_everything_that_hosts_see_has_one_order(w):
    w.allow_log(r".*")  # of what is broken on purpose; sanitizers are not excused
    w.origin("--lease-term", "3s")
    hosts = [w.host(n, "-o", "timeout=20s", namespace=True) for n in ("a", "b", "c")]
    faults = Faults(w, random.Random(SEED), threading.Event())
    workers = []
    try:
        for i in range(PROCESSES * len(hosts)):
            workers.append(start_worker(w, hosts[i % len(hosts)], i))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            faults.stop.wait(min(1 + faults.random.random() * 2, SECONDS / 4))
            if FAULTS:
                faults.break_something(hosts)
    finally:
        for worker, _ in workers:
            end_worker(worker)
    print("# faults: %s" % " ".join(faults.faults), flush=True)
    objects, operations, unknown = check([output for _, output in workers])
    print("# %d operations on %d objects, %d of them of unknown outcome" % (
        operations, objects, unknown))
    if operations < 2 * SECONDS:
        raise Failure("too little was done to say anything")


if __name__ == "__main__":
    leasehold.TEST_TIMEOUT_S = int(SECONDS * 3 + 600)
    leasehold.main(globals())
