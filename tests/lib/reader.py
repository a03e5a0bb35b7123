"""
reader.py PATH - a process that keeps a descriptor and a mapping of PATH open and looks when told.

Each line on standard input is a question, each line on standard output its answer: the first
8 bytes as text, or the name of an errno. A process of its own, since a look at a fenced mapping
may kill it (SIGBUS) and a look at a file may never come back.
"""

import errno
import mmap
import os
import signal
import sys

path = sys.argv[1]
fd = os.open(path, os.O_RDONLY)
mapping = mmap.mmap(fd, 8, prot=mmap.PROT_READ)


def look(question):
    if question == "read":
        return os.pread(fd, 8, 0)
    if question == "map":
        return mapping[0:8]
    if question == "newmap":
        with mmap.mmap(fd, 8, prot=mmap.PROT_READ) as another:
            return another[0:8]
    if question == "open":
        other = os.open(path, os.O_RDONLY)
        try:
            return os.pread(other, 8, 0)
        finally:
            os.close(other)
    if question == "all":
        return b"%08d" % sum(len(os.pread(fd, 65536, at))
                             for at in range(0, os.fstat(fd).st_size, 65536))
    if question == "stat":
        return b"%08d" % int(os.stat(path).st_mtime)
    raise ValueError(question)


signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = look(line.strip()).decode()
    except OSError as e:
        answer = errno.errorcode.get(e.errno, str(e.errno))
    print(answer, flush=True)
