"""
peers.py - what Debian packages for the same purpose, measured beside a case when asked (--peers):
rclone over nginx with its full cache, and sshfs from an sshd of ours. They keep no coherence; they
are here for the speed. One that does not start, or fails, is left out, and the reason is told.
"""

import os
import shutil
import subprocess

from measure import Skip, Wrong, timed

PACKAGES = {"rclone": "rclone", "sshfs": "sshfs", "/usr/sbin/sshd": "openssh-server"}


def install():
    """Whatever is missing, from Debian."""
    missing = [package for command, package in PACKAGES.items() if not shutil.which(command)]
    if missing:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        timed(["apt-get", "update"], env=environment)
        # No service of theirs is to start.
        timed(["apt-get", "install", "-y", "--no-install-recommends"] + missing, env=environment)


class Peer:
    """A mount of the native directory. `start()` with nothing cached; `end()`."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.path = os.path.join(lab.world.path, "peer-" + name)
        self.process = None
        os.makedirs(self.path, exist_ok=True)

    def start(self):
        log = open(self.path + ".log", "ab")
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log,
                                        stderr=log)
        log.close()

        def mounted():
            if self.process.poll() is not None:
                raise Skip("%s does not start, see its log" % self.name)
            return self.lab.lib.is_mounted(self.path)
        self.lab.lib.eventually(mounted, self.name + " is mounted")

    def pids(self):
        return {self.name: self.process.pid}

    def end(self):
        if not self.process:
            return
        subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            subprocess.run(["umount", "-l", self.path], stderr=subprocess.DEVNULL)
            self.process.kill()
            self.process.wait()
        self.process = None


class Rclone(Peer):
    def __init__(self, lab):
        super().__init__(lab, "rclone")
        lab.references.start_nginx()
        self.cache = self.path + ".cache"

    def command(self):
        shutil.rmtree(self.cache, ignore_errors=True)
        return ["rclone", "mount", ":http:", self.path, "--http-url",
                "https://127.0.0.1:%d/" % self.lab.references.port, "--no-check-certificate",
                "--config", "/dev/null", "--vfs-cache-mode", "full", "--cache-dir", self.cache,
                "--dir-cache-time", "1h", "--read-only"]

    def end(self):
        super().end()
        shutil.rmtree(self.cache, ignore_errors=True)


class Sshfs(Peer):
    def __init__(self, lab):
        super().__init__(lab, "sshfs")
        keys = self.path + ".keys"
        os.mkdir(keys)
        os.makedirs("/run/sshd", exist_ok=True)
        for name in ("server", "client"):
            timed(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "%s/%s" % (keys, name)])
        self.port = lab.lib.free_port()
        self.keys = keys
        self.server = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(self.port), "-h",
             keys + "/server", "-o", "ListenAddress=127.0.0.1", "-o", "UsePAM=no",
             "-o", "PidFile=none", "-o", "StrictModes=no", "-o", "PermitRootLogin=yes",
             "-o", "AuthorizedKeysFile=%s/client.pub" % keys,
             "-o", "Subsystem=sftp internal-sftp"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(self.path + ".sshd.log", "wb"))
        lab.closing.append(self.stop_server)

    def stop_server(self):
        self.server.terminate()
        self.server.wait()

    def command(self):
        return ["sshfs", "-f", "-p", str(self.port), "-o", "IdentityFile=%s/client" % self.keys,
                "-o", "StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,ro",
                "root@127.0.0.1:" + self.lab.native, self.path]


class Peers:
    def __init__(self, lab):
        self.lab = lab
        self.all = []
        try:
            install()
        except Wrong as e:
            self.leave_out("peers", e)
            return
        for kind in (Rclone, Sshfs):
            try:
                peer = kind(lab)
            except (Skip, Wrong, OSError, lab.lib.Failure) as e:
                self.leave_out(kind.__name__.lower(), e)
                continue
            self.all.append(peer)
            lab.closing.append(peer.end)

    def leave_out(self, name, reason):
        self.lab.left_out.append({"reason": "%s is left out: %s" % (name, reason)})
        print("    %s is left out: %s" % (name, reason), flush=True)

    def functions(self, make):
        """name -> a function that measures; None from one whose peer has failed."""
        def guarded(peer, function):
            def measured():
                if peer not in self.all:
                    return None
                try:
                    return function()
                except (Skip, Wrong, OSError, self.lab.lib.Failure) as e:
                    self.all.remove(peer)
                    self.leave_out(peer.name, e)
                    return None
            return measured
        return {peer.name: guarded(peer, make(peer)) for peer in self.all}

    def cold(self, names, jobs):
        """Reads of the files through a new mount with nothing cached."""
        def reader(peer):
            def read():
                peer.end()
                peer.start()
                return self.lab.io("seq", jobs, *[os.path.join(peer.path, n) for n in names],
                                   pids=peer.pids())
            return read
        return self.functions(reader)

    def warm(self, name, side):
        """What `side` measures of that path, once everything was read."""
        def reader(peer):
            inner = None

            def read():
                nonlocal inner
                if not inner:
                    if not peer.process:
                        peer.start()
                    inner = side(os.path.join(peer.path, name), peer.pids())
                    inner()
                return inner()
            return read
        return self.functions(reader)
