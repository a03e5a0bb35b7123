"""
perf.py - where the processor's time goes while a subject runs once more (--profile): perf samples
everything on the machine, and what the daemons, the reader and the reference's server had is told
apart by process. The run that is profiled is not one of those that are measured.
"""

import os
import shutil
import signal
import subprocess

from measure import Skip, first_line

TOP = 8
HZ = 1999


def check():
    if not shutil.which("perf") or not first_line("perf", "--version"):
        raise Skip("there is no perf (apt-get install linux-perf)")


def top_entries(data, names):
    """name -> [[percent of its own samples, symbol], ...]; `names`: pid -> name."""
    script = subprocess.run(["perf", "script", "-i", data, "-F", "pid,ip,sym,dso"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True).stdout
    counts = {}
    for line in script.splitlines():
        parts = line.split(None, 2)
        name = names.get(parts[0]) if len(parts) == 3 else None
        if name:
            symbol, _, where = parts[2].rpartition(" (")
            if symbol == "[unknown]":  # a library without symbols: its name says something
                symbol = os.path.basename(where.rstrip(")"))
            of_name = counts.setdefault(name, {})
            of_name[symbol] = of_name.get(symbol, 0) + 1
    entries = {}
    for name, of_name in counts.items():
        total = sum(of_name.values())
        best = sorted(of_name.items(), key=lambda item: -item[1])[:TOP]
        entries[name] = [[round(100 * n / total, 1), symbol] for symbol, n in best]
    return entries


def profile(lab, function):
    """Runs it once under perf."""
    data = os.path.join(lab.world.path, "perf.data")
    orders, order = os.pipe()
    answers, answer = os.pipe()
    recorder = subprocess.Popen(
        ["perf", "record", "-q", "-a", "-F", str(HZ), "-e", "cpu-clock", "-o", data, "-D", "-1",
         "--control", "fd:%d,%d" % (orders, answer)], pass_fds=(orders, answer),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(orders)
    os.close(answer)
    try:
        try:
            os.write(order, b"enable\n")
            os.read(answers, 16)  # it takes a while to begin
        except OSError:
            pass  # it has ended, and there will be no profile
        function()
    finally:
        recorder.send_signal(signal.SIGINT)
        recorder.wait()
        os.close(order)
        os.close(answers)
    if not os.path.exists(data):
        return {}
    names = {str(pid): "host" for pid in lab.host_pids}
    if lab.origin_started:
        names[str(lab.origin.process.pid)] = "origin"
    entries = top_entries(data, names)
    os.unlink(data)
    return entries
