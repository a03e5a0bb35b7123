"""
faults.py - what goes wrong on bad days: origins and hosts that are killed, stopped or cut off.

The hosts have namespaces of their own. A fault is over when break_something() returns: what it
stopped goes on, what it killed is started again.
"""

import signal
import time

from leasehold import Failure, eventually

KINDS = ("origin", "stop", "crash", "cut", "cut")


class Faults:
    """`rng` decides; `stop`, an event, ends waits."""

    def __init__(self, world, rng, stop):
        self.world, self.random, self.stop = world, rng, stop
        self.began = time.monotonic()
        self.faults = []  # for people

    def note(self, what):
        self.faults.append("%s@%.3f" % (what, time.monotonic() - self.began))

    # What goes wrong.

    def kill_origin(self):
        self.world.main_origin.kill()
        self.stop.wait(self.random.random() * 2)
        self.world.main_origin.start()

    def stop_host(self, host):
        """Past its term, and continued before or after its guardian ended the mount."""
        host.signal(signal.SIGSTOP)
        self.stop.wait(0.2 + self.random.random() * 6)
        host.signal(signal.SIGCONT)
        self.note("continued")
        try:
            eventually(lambda: not host.running() or host.answers(), "the host goes on")
        except Failure:
            if host.running():
                raise
        if not host.running():
            self.note("aborted")
            host.detach()
            host.start()

    def crash_host(self, host):
        host.crash()
        host.start()

    def cut_host(self, host):
        host.namespace.cut(incoming=self.random.random() < 0.7,
                           outgoing=self.random.random() < 0.7)
        self.stop.wait(self.random.random() * 6)
        host.namespace.mend()

    def mend_mounts(self, hosts):
        """A daemon that is late, since the machine is busy, is ended by its guardian at any time."""
        for host in hosts:
            if not host.running():
                self.note("ended")
                host.detach()
                host.start()

    def break_something(self, hosts):
        kind = self.random.choice(KINDS)
        host = self.random.choice(hosts)
        self.note(kind)
        if kind == "origin":
            self.kill_origin()
        elif kind == "stop":
            self.stop_host(host)
        elif kind == "crash":
            self.crash_host(host)
        else:
            self.cut_host(host)
        self.mend_mounts(hosts)


