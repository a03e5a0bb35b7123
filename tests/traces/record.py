#!/usr/bin/env python3
"""
record.py - records the traces of this directory again, from real programs on a real mount.

usage: LEASEHOLD=build/tools/leasehold tests/traces/record.py [NAME ...]. Needs root and /dev/fuse. Prints
one TAP line a trace; tests/unit/test_trace.c says what must be made of each.
"""

import json
import os
import random
import signal
import struct
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import leasehold
from leasehold import eventually, run

ROOT = os.path.join(HERE, "..", "..")
PYTHON = [sys.executable, "-c"]


def fill(path, size):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.truncate(size)  # a hole reads like anything else


def record(w, name, make, *commands):
    """Runs the commands, one after the other, in a mount of what make(directory) has made."""
    o = w.origin()
    make(o.path_of())
    host = w.host("a")
    out = os.path.join(HERE, name + ".trace")
    with open(os.path.join(w.path, "said"), "w+b") as said:
        recorder = subprocess.Popen([leasehold.BINARY, "trace", "record", "-o", out, host.path],
                                    stderr=said)

        def begun():
            said.seek(0)
            return b"recording" in said.read() or recorder.poll() is not None
        eventually(begun, "it records")
        for command in commands:
            subprocess.run(command, cwd=host.path, check=True, stdout=subprocess.DEVNULL)
        recorder.send_signal(signal.SIGINT)
        status = recorder.wait()
        said.seek(0)
        print("# " + said.read().decode().replace("\n", "\n# "))
    leasehold.expect(status, 0, "status of the recorder")


# Several files of a data set, in order, by a program that knows nothing of each other.
def test_shards(w):
    def make(directory):
        for i in range(16):
            content = os.path.join(w.path, "content")
            fill(content, 6 << 20)
            run("tar", "-cf", os.path.join(directory, "shard-%05d.tar" % i), "-C", w.path, "content")
    record(w, "shards", make, *[["tar", "-xOf", "shard-%05d.tar" % i] for i in range(16)])


EPOCHS = """
import multiprocessing, os, random, sys
files = sorted(os.path.join(d, n) for d, _, names in os.walk("train") for n in names)
def read(names):
    for name in names:
        with open(name, "rb") as f:
            f.read()
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
for seed in %s:
    random.Random(seed).shuffle(files)
    workers = [multiprocessing.Process(target=read, args=(files[i::4],)) for i in range(4)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
    files.sort()
"""


def make_epochs(directory):
    for i in range(400):
        fill(os.path.join(directory, "train", "n%02d" % (i % 10), "%08x.jpg" % (i * 2654435761 % 2**32)),
             20000 + i * 97 % 9000)


def test_epochs_same_order(w):
    record(w, "epochs-same-order", make_epochs, PYTHON + [EPOCHS % "(1, 1)"])


def test_epochs_new_order(w):
    record(w, "epochs-new-order", make_epochs, PYTHON + [EPOCHS % "(1, 2)"])


# nanoGPT's get_batch: random pieces of a file of tokens that is mapped.
TOKENS = """
import mmap, os, random
r = random.Random(1)
fd = os.open("train.bin", os.O_RDONLY)
tokens = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
for i in range(1500):
    at = r.randrange(len(tokens) - 2048) & ~1
    tokens[at:at + 2048]
"""


def test_tokens(w):
    record(w, "tokens", lambda d: fill(os.path.join(d, "train.bin"), 4 << 30), PYTHON + [TOKENS])


# A safetensors file: the length of the header, the header, then tensors.
SAFETENSORS = """
import json, mmap, os, random, struct
fd = os.open("model.safetensors", os.O_RDONLY)
length, = struct.unpack("<Q", os.pread(fd, 8, 0))
header = json.loads(os.pread(fd, length, 8))
data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
names = list(header)
%s
for name in names:
    start, end = header[name]["data_offsets"]
    bytes(data[8 + length + start:8 + length + end])
"""


def make_safetensors(directory):
    header, at = {}, 0
    for layer in range(24):
        for name, size in (("attn.qkv", 6 << 20), ("attn.out", 2 << 20), ("mlp.up", 8 << 20),
                           ("mlp.down", 8 << 20), ("norm", 4096)):
            header["layers.%d.%s.weight" % (layer, name)] = {
                "dtype": "F16", "shape": [size // 2], "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    path = os.path.join(directory, "model.safetensors")
    fill(path, 8 + len(text) + at)
    with open(path, "r+b") as f:
        f.write(struct.pack("<Q", len(text)) + text)


def test_safetensors_in_order(w):
    record(w, "safetensors-in-order", make_safetensors, PYTHON + [SAFETENSORS % ""])


def test_safetensors_out_of_order(w):
    record(w, "safetensors-out-of-order", make_safetensors,
           PYTHON + [SAFETENSORS % "random.Random(3).shuffle(names)"])


def make_tree(directory):
    for i in range(400):
        fill(os.path.join(directory, "d%d" % (i % 8), "e%d" % (i % 40), "f%d" % (i % 200), "file%d" % i),
             1000)


def test_find(w):
    record(w, "find", make_tree, ["find", ".", "-type", "f", "-size", "+0"])


def test_os_walk(w):
    record(w, "os-walk", make_tree, PYTHON + ["import os\nfor x in os.walk('.'): pass"])


def test_grep(w):
    record(w, "grep", make_tree, ["sh", "-c", "! grep -r nothing ."])


# The lease library and all of its headers, as make does it.
def test_compile(w):
    def make(directory):
        run("cp", "-r", os.path.join(ROOT, "lease"), os.path.join(ROOT, "transport"),
            os.path.join(ROOT, "prefetch"), directory)
    sources = ["lease/base/%s.c" % n for n in ("bytes", "map", "pool", "range_set", "rng")] + [
        "lease/%s.c" % n for n in ("authority", "authority_leases", "authority_locks", "holder",
                                   "holder_leases", "holder_recalls", "lock_table", "message")]
    record(w, "compile", make, *[["gcc", "-D_GNU_SOURCE", "-I.", "-fsyntax-only", n] for n in sources])


def test_tac(w):
    record(w, "tac", lambda d: fill(os.path.join(d, "log"), 16 << 20), ["tac", "log"])


if __name__ == "__main__":
    why = leasehold.why_not()
    if why:
        sys.exit(why)
    leasehold.ensure_fusectl()
    tests = [(n, f) for n, f in list(globals().items()) if n.startswith("test_")
             and (len(sys.argv) < 2 or n[5:] in sys.argv[1:])]
    sys.exit(0 if leasehold.run_all(tests) else 1)
