"""
measure.py - how tools/bench measures: samples, rounds in which reference and subject alternate, and
what becomes of them.

A ratio is that of the medians; beside it stand the lowest and the highest ratio of one round. For
rates more is better, for times less. Processor time is user and system, of every process that takes
part: who reads (`client`), the host's daemon (`host`), the origin or the reference's server.
"""

import json
import os
import platform
import statistics
import subprocess
import time

PEER_ROUNDS = 3
profiler = None  # with --profile: a function that runs another, and says where its time went
TICKS = os.sysconf("SC_CLK_TCK")


class Wrong(Exception):
    """What was read or counted is not what it has to be: no figure of this run is good."""


class Skip(Exception):
    """The case cannot be measured here; says why."""


class Sample:
    def __init__(self, value, checksum=None, cpu=None, work=0):
        self.value = value
        self.checksum = checksum
        self.cpu = cpu or {}
        self.work = work  # bytes or operations


def cpu_seconds(pid):
    """Of a process and of the children that it has now."""
    total = 0.0
    try:
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rpartition(")")[2].split()
        total = (int(fields[11]) + int(fields[12])) / TICKS
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            children = [int(c) for c in f.read().split()]
    except OSError:
        return total
    return total + sum(cpu_seconds(c) for c in children)


class Cpu:
    """Processor time of daemons while something runs: `with Cpu(host=pid) as cpu`."""

    def __init__(self, **pids):
        self.pids = pids
        self.used = {}

    def __enter__(self):
        self.before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        return self

    def __exit__(self, *_):
        for name, pid in self.pids.items():
            self.used[name] = round(cpu_seconds(pid) - self.before[name], 3)


def timed(command, **keywords):
    """Runs a command: (seconds, its processor seconds, its output)."""
    before = os.times()
    start = time.monotonic()
    result = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keywords)
    seconds = time.monotonic() - start
    after = os.times()
    if result.returncode != 0:
        raise Wrong("%s: status %d: %s" % (" ".join(map(str, command))[:200], result.returncode,
                                           result.stderr.decode(errors="replace")[:500]))
    cpu = (after.children_user - before.children_user +
           after.children_system - before.children_system)
    return seconds, cpu, result.stdout


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def summary(name, values):
    return {"name": name, "values": values, "median": statistics.median(values),
            "low": min(values), "high": max(values)}


def cpu_per(samples, unit):
    """Processor seconds per GB or per 1,000 operations by who used it: medians of the rounds."""
    per = {}
    for sample in samples:
        scale = sample.work / (1e9 if unit == "B/s" else 1e3)
        for name, used in sample.cpu.items():
            per.setdefault(name, []).append(used / scale if scale else 0)
    return {name: round(statistics.median(values), 3) for name, values in per.items()}


class Row:
    """One line of the table. `better`: "more" (rates) or "less" (times, sizes)."""

    def __init__(self, case, title, unit, target=None, better="more"):
        self.case, self.title, self.unit = case, title, unit
        self.target, self.better = target, better
        self.reference, self.subject = [], []
        self.peers = {}
        self.names = ("reference", "subject")
        self.note = ""
        self.profile = None

    def clear(self):
        """To be measured again."""
        for samples in [self.reference, self.subject] + list(self.peers.values()):
            samples.clear()

    def as_dict(self):
        def values(samples):
            return [s.value for s in samples]
        by_round = [s.value / r.value for r, s in zip(self.reference, self.subject)]
        reference = summary(self.names[0], values(self.reference))
        subject = summary(self.names[1], values(self.subject))
        reference["cpu"], subject["cpu"] = (
            cpu_per(samples, self.unit) for samples in (self.reference, self.subject))
        per_gb = {who: subject["cpu"][who] for who in ("host", "origin")
                  if self.unit == "B/s" and who in subject["cpu"]}
        return {
            "case": self.case.name, "group": self.case.group, "title": self.title,
            "unit": self.unit, "better": self.better, "target": self.target,
            "rounds": len(self.subject), "reference": reference, "subject": subject,
            "cpu_s_per_gb": per_gb,
            "ratio": {"median": subject["median"] / reference["median"],
                      "low": min(by_round), "high": max(by_round)},
            "peers": {name: dict(summary(name, values(samples)),
                                 ratio=statistics.median(values(samples)) / reference["median"])
                      for name, samples in self.peers.items() if samples},
            "note": self.note, "profile": self.profile,
        }


def alternate(row, rounds, reference, subject, peers=None):
    """
    Measures both in turns, the first of a round in turns too. Each of them is a function that
    returns a Sample; all that have a checksum must have the same. Peers may return None, and are
    measured in the first rounds only: they are slow, and not what is compared.
    """
    sides = [(row.reference, reference), (row.subject, subject)]
    for name, function in (peers or {}).items():
        sides.append((row.peers.setdefault(name, []), function))
    for number in range(rounds):
        if number == PEER_ROUNDS:
            sides = sides[:2]
        order = sides if number % 2 == 0 else sides[::-1]
        found = set()
        for samples, function in order:
            sample = function()
            if sample is None:  # a peer that failed
                continue
            samples.append(sample)
            if sample.checksum is not None:
                found.add(sample.checksum)
        if len(found) > 1:
            raise Wrong("%s: the sides read different bytes" % row.title)
    if profiler:
        row.profile = profiler(subject)
    return row


def first_line(*command):
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        return result.stdout.splitlines()[0].strip() if result.stdout else None
    except OSError:
        return None


def cpu_model():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def machine(binary, root, directory):
    """What the figures were measured on, and with."""
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) >> 10
    return {
        "processor": cpu_model(), "cores": os.cpu_count(), "memory_mib": memory,
        "kernel": platform.release(), "load": os.getloadavg()[0],
        "file_system": first_line("stat", "-f", "-c", "%T", directory),
        "leasehold": first_line(binary, "--version"),
        "commit": first_line("git", "-C", root, "describe", "--always", "--dirty"),
        "curl": first_line("curl", "--version"), "nginx": first_line("nginx", "-v"),
        "nghttp": first_line("nghttp", "--version"), "openssl": first_line("openssl", "version"),
        "rclone": first_line("rclone", "--version"), "sshfs": first_line("sshfs", "--version"),
        "l3": first_line("getconf", "LEVEL3_CACHE_SIZE"),
    }


def write_json(path, what):
    with open(path, "w") as f:
        json.dump(what, f, indent=1)
        f.write("\n")
