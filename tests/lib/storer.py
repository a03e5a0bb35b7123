"""
storer.py PATH - a process that keeps a descriptor and a shared mapping of PATH, both for reading and
writing, and does what it is told.

Each line on standard input is an order, each line on standard output what came of it: text that was
read, "ok", or the name of an errno. A process of its own, since a store to a mapping that was lost
may kill it (SIGBUS) and an msync may never come back.
"""

import errno
import mmap
import os
import signal
import sys

path = sys.argv[1]
fd = os.open(path, os.O_RDWR)
mapping = mmap.mmap(fd, os.fstat(fd).st_size)


def do(order, at=0, what=""):
    global mapping
    at = int(at)
    if order == "store":
        mapping[at:at + len(what)] = what.encode()
    elif order == "load":
        return mapping[at:at + int(what)].decode()
    elif order == "msync":
        mapping.flush()
    elif order == "fsync":
        os.fsync(fd)
    elif order == "unmap":
        mapping.close()
    elif order == "map":
        mapping = mmap.mmap(fd, os.fstat(fd).st_size)
    elif order == "write":
        os.pwrite(fd, what.encode(), at)
    elif order == "read":
        return os.pread(fd, int(what), at).decode()
    elif order == "truncate":
        os.ftruncate(fd, at)
    elif order == "count":
        # A counter in the mapping, stepped `what` times: stores as fast as they can be made.
        for _ in range(int(what)):
            mapping[at:at + 8] = b"%08d" % (int(mapping[at:at + 8]) + 1)
    elif order == "close":
        os.close(fd)
    else:
        raise ValueError(order)
    return "ok"


signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = do(*line.split())
    except OSError as e:
        answer = errno.errorcode.get(e.errno, str(e.errno))
    print(answer, flush=True)
