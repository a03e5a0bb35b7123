"""
memory.py - resident memory: a host that knows a million inodes and has none open, and the origin for
each lease that it gave.
"""

import os

from measure import Row, Sample, Wrong

FILES = 1000000
IN_A_DIRECTORY = 1000
HOST_LIMIT = 300 << 20
LEASE_LIMIT = 100


def resident(pid):
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) << 10


def memory(lab, case):
    """The limits are the references. One round: what is measured does not go back and forth."""
    count = lab.count(FILES, IN_A_DIRECTORY)
    directories = count // IN_A_DIRECTORY
    for i in range(directories):
        os.makedirs(lab.origin.path_of("million", str(i)))
        for k in range(IN_A_DIRECTORY):
            os.close(os.open(lab.origin.path_of("million", str(i), str(k)),
                             os.O_CREAT | os.O_WRONLY))
    host = lab.host()
    pids = (host.process.pid, lab.origin.process.pid)
    leases = host.status()["leases"]["leases"]
    idle = [resident(pid) for pid in pids]
    seen = 0
    for i in range(directories):
        directory = host / "million/%d" % i
        for name in os.listdir(directory):
            seen += os.stat(os.path.join(directory, name)).st_size == 0
    after = [resident(pid) for pid in pids]
    if seen != directories * IN_A_DIRECTORY:
        raise Wrong("%d files were seen" % seen)
    leases = host.status()["leases"]["leases"] - leases
    # A smaller run is held to its share.
    limit = HOST_LIMIT * seen / FILES
    row = Row(case, "host daemon, 1,000,000 inodes known", "B", 1.0, better="less")
    row.names = ("300 MiB for a million", "mount")
    row.reference.append(Sample(limit))
    row.subject.append(Sample(after[0] - (idle[0] if seen < FILES else 0)))
    row.note = "%d files, %d leases; idle %.1f MiB" % (seen, leases, idle[0] / 2**20)
    yield row
    if leases:
        row = Row(case, "origin, for each lease", "B", 1.0, better="less")
        row.names = ("100 B", "origin")
        row.reference.append(Sample(LEASE_LIMIT))
        row.subject.append(Sample((after[1] - idle[1]) / leases))
        row.note = "with the inodes that it knows; %.1f MiB idle, %.1f MiB after" % (
            idle[1] / 2**20, after[1] / 2**20)
        yield row
    lab.end(host)
