"""
peers.py - what Debian packages for the same purpose, measured beside a case when asked (--peers):
rclone over nginx with its full cache, and sshfs from an sshd of ours. They keep no coherence; they
are here for the speed.
"""

import os
import shutil
import subprocess

from measure import Skip, timed

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
        install()
        self.lab = lab
        self.all = [Rclone(lab), Sshfs(lab)]
        for peer in self.all:
            lab.closing.append(peer.end)

    def cold(self, names, jobs):
        """name -> a function that reads the files through a new mount with nothing cached."""
        def reader(peer):
            def read():
                peer.end()
                peer.start()
                return self.lab.io("seq", jobs, *[os.path.join(peer.path, n) for n in names],
                                   pids={peer.name: peer.process.pid})
            return read
        return {peer.name: reader(peer) for peer in self.all}

    def warm(self, name, side):
        """name -> what `side` measures of that path; everything was read once before."""
        functions = {}
        for peer in self.all:
            if not peer.process:
                peer.start()
            functions[peer.name] = side(os.path.join(peer.path, name),
                                        {peer.name: peer.process.pid})
            functions[peer.name]()
        return functions
