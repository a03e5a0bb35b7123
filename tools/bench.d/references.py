"""
references.py - what cold reads and writes are measured against: curl and nghttp from nginx and from
our origin, and the bare link. A Link delays and limits reference and subject alike (bench_link.c).
"""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time

from measure import Cpu, Sample, Skip, Wrong, timed

NGINX = """
daemon off;
worker_processes auto;
pid %(path)s/pid;
error_log %(path)s/error.log;
events { worker_connections 256; }
http {
    access_log off;
    sendfile on;
    client_body_temp_path %(path)s/t1;
    proxy_temp_path %(path)s/t2;
    fastcgi_temp_path %(path)s/t3;
    uwsgi_temp_path %(path)s/t4;
    scgi_temp_path %(path)s/t5;
    http2_chunk_size 64k;
    output_buffers 4 128k;
    server {
        listen 127.0.0.1:%(port)d ssl http2;
        ssl_certificate %(path)s/cert.pem;
        ssl_certificate_key %(path)s/key.pem;
        ssl_protocols TLSv1.3;
        root %(root)s;
        autoindex on;
    }
}
"""


class Link:
    """
    A port that leads to another, delayed each way and limited (bytes per second; 0: not); with
    `shaped` it is at the near end of that link, and who comes through it comes from its far end.
    """

    def __init__(self, binary, port, delay_ms, rate, shaped=None):
        self.address = shaped.namespace.gateway if shaped else "127.0.0.1"
        self.namespace = shaped.namespace if shaped else None
        self.process = subprocess.Popen([binary, str(port), str(int(delay_ms * 1000)),
                                         str(int(rate)), self.address],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self.process.stdout.readline())

    def enter(self, command):
        return self.namespace.enter(command) if self.namespace else command

    def connect(self):
        """A socket whose other end is behind the link."""
        if not self.namespace:
            return socket.create_connection((self.address, self.port))
        # A socket is for good of the namespace in which it was made.
        with open("/proc/self/ns/net") as here, \
                open("/run/netns/" + self.namespace.name) as there:
            change_network(there.fileno())
            try:
                return socket.create_connection((self.address, self.port))
            finally:
                change_network(here.fileno())

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def change_network(fd):
    """setns(2) of this thread."""
    if libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Shaped:
    """
    A network namespace behind a link (veth) with a rate each way, by the kernel's HTB; the bytes
    counted are those of Ethernet frames. The world that the lab is in removes it.
    """

    def __init__(self, lab, rate):
        self.namespace = lab.lib.Namespace(len(lab.world.namespaces))
        lab.world.namespaces.append(self.namespace)
        for where, device in (([], self.namespace.link), (["-n", self.namespace.name], "eth0")):
            for order in (["qdisc", "add", "dev", device, "root", "handle", "1:", "htb",
                           "default", "1", "r2q", "1000"],
                          # A packet is up to 64 KiB here (GSO), and a burst at least one of them.
                          ["class", "add", "dev", device, "parent", "1:", "classid", "1:1", "htb",
                           "rate", "%dbit" % (8 * rate), "burst", "64k", "cburst", "64k"]):
                timed(["tc"] + where + order)


class Raw:
    """A server without a protocol: eight bytes ask for so many bytes. What the link itself does."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.zeros = bytes(1 << 20)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                while True:
                    asked = connection.recv(8, socket.MSG_WAITALL)
                    if len(asked) < 8:
                        return
                    left = int.from_bytes(asked, "little")
                    while left:
                        left -= connection.send(self.zeros[:min(left, 1 << 20)])
            except OSError:
                return  # who asked has gone

    def close(self):
        self.listener.close()


def ask(connection, size, buffer=memoryview(bytearray(1 << 20))):
    connection.sendall(size.to_bytes(8, "little"))
    left = size
    while left:
        n = connection.recv_into(buffer, min(left, len(buffer)))
        if n == 0:
            raise Wrong("the raw server has gone")
        left -= n


class References:
    def __init__(self, lab):
        self.lab = lab
        self.nginx = None
        self.closers = []

    def close(self):
        while self.closers:
            self.closers.pop()()

    def link(self, port, delay_ms=0, rate=0, shaped=None):
        link = Link(self.lab.args.link, port, delay_ms, 0 if shaped else rate, shaped)
        self.closers.append(link.close)
        return link

    def shaped(self, rate):
        """None: there is no HTB here, and the links limit the rate themselves."""
        try:
            return Shaped(self.lab, rate)
        except (Wrong, OSError, self.lab.lib.Failure) as e:
            self.lab.left_out.append({"reason": "no HTB, the proxy limits the rate: %s" % e})
            return None

    # ---- the bare link ----

    def raw(self):
        raw = Raw()
        self.closers.append(raw.close)
        return raw

    def link_rate(self, link, size, jobs):
        """All bytes through so many connections that are open already: as a mount's are."""
        sockets = [link.connect() for _ in range(jobs)]
        for connection in sockets:
            ask(connection, 1)
        buffers = [memoryview(bytearray(1 << 20)) for _ in sockets]
        threads = [threading.Thread(target=ask, args=(s, size // jobs, b))
                   for s, b in zip(sockets, buffers)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - start
        for connection in sockets:
            connection.close()
        return Sample(size / seconds, work=size)

    def round_trip(self, link, size, count):
        """The median of so many questions, one after the other, each answered by `size` bytes."""
        with link.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask(connection, size)
            times = []
            for _ in range(count):
                start = time.monotonic()
                ask(connection, size)
                times.append(time.monotonic() - start)
        return Sample(sorted(times)[len(times) // 2], work=count)

    # ---- nginx ----

    def start_nginx(self):
        if self.nginx:
            return
        if not shutil.which("nginx"):
            raise Skip("nginx is not installed (apt-get install nginx-light)")
        path = os.path.join(self.lab.world.path, "nginx")
        os.mkdir(path)
        self.port = self.lab.lib.free_port()
        timed(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
               "subjectAltName=IP:127.0.0.1", "-keyout", path + "/key.pem", "-out",
               path + "/cert.pem"])
        with open(path + "/nginx.conf", "w") as f:
            f.write(NGINX % {"path": path, "port": self.port, "root": self.lab.native})
        # Its workers run as somebody else, who has to reach the files.
        os.chmod(self.lab.world.path, 0o755)
        log = open(path + "/out", "wb")
        self.nginx = subprocess.Popen(["nginx", "-p", path, "-c", path + "/nginx.conf"],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.certificate = path + "/cert.pem"
        self.closers.append(self.stop_nginx)

        def answers():
            if self.nginx.poll() is not None:
                with open(path + "/out", errors="replace") as f:
                    raise Skip("nginx does not start: " + f.read()[:300])
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0
        self.lab.lib.eventually(answers, "nginx answers")

    def stop_nginx(self):
        self.nginx.terminate()
        self.nginx.wait()
        self.nginx = None

    # ---- clients ----

    def curl(self, names, base, options, pid, server, outputs=None, link=None):
        """Fetches all names at once; into files when their paths are given; through a link."""
        command = ["curl", "-sSf", "--http2"] + options
        if link:
            command += ["--connect-to", "::%s:%d" % (link.address, link.port)]
        if len(names) > 1:
            command += ["-Z", "--parallel-max", str(len(names))]
        for i, name in enumerate(names):
            command += ["-o", outputs[i] if outputs else "/dev/null", base + name]
        with Cpu(**{server: pid}) as cpu:
            seconds, used, _ = timed(link.enter(command) if link else command)
        return seconds, dict(cpu.used, client=used)

    def curl_nginx(self, names, outputs=None, link=None):
        self.start_nginx()
        return self.curl(names, "https://127.0.0.1:%d/" % self.port,
                         ["--cacert", self.certificate], self.nginx.pid, "nginx", outputs, link)

    def key_options(self, host, cert="--cert"):
        """Of a host's certificate, for curl: by links without a colon in their names."""
        keys = os.path.join(host.keys, "127.0.0.1:%d" % self.lab.origin.port)
        paths = []
        for name in ("ca.pem", "host.pem", "host.key"):
            paths.append(os.path.join(host.keys, "link-" + name))
            if not os.path.lexists(paths[-1]):
                os.symlink(os.path.join(keys, name), paths[-1])
        if cert == "--cert":
            return ["--cacert", paths[0], "--cert", paths[1], "--key", paths[2]]
        return ["--cert=" + paths[1], "--key=" + paths[2]]

    def curl_origin(self, host, names):
        return self.curl(names, "https://127.0.0.1:%d/files/default/" % self.lab.origin.port,
                         self.key_options(host), self.lab.origin.process.pid, "origin")

    def curl_parts(self, host, name, size, part, directory, link=None):
        """One file of the origin's by ranges, eight at a time, each into a file of its own."""
        config = os.path.join(directory, "config")
        options = self.key_options(host)
        with open(config, "w") as f:
            for i, start in enumerate(range(0, size, part)):
                f.write("%shttp2\nurl = https://127.0.0.1:%d/files/default/%s\nrange = %d-%d\n"
                        "output = %s/%d\n" % ("next\n" if i else "", self.lab.origin.port, name,
                                              start, min(start + part, size) - 1, directory, i))
                f.write("connect-to = \"::%s:%d\"\n" % (link.address, link.port)
                        if link else "")
                f.writelines("%s = %s\n" % (options[k][2:], options[k + 1])
                             for k in range(0, len(options), 2))
        command = ["curl", "-sSf", "-Z", "--parallel-max", "8", "-K", config]
        with Cpu(origin=self.lab.origin.process.pid) as cpu:
            seconds, used, _ = timed(command)
        got = sum(e.stat().st_size for e in os.scandir(directory) if e.name != "config")
        if got != size:
            raise Wrong("curl fetched %d bytes of %d" % (got, size))
        return seconds, dict(cpu.used, client=used)

    def nghttp(self, urls, options, pid, server):
        """nghttp checks no certificate. Its windows are as large as libcurl's."""
        with Cpu(**{server: pid}) as cpu:
            seconds, used, _ = timed(["nghttp", "-n", "-w", "25", "-W", "27", "--no-verify-peer"] +
                                     options + urls)
        return seconds, dict(cpu.used, client=used)

    def nghttp_nginx(self, names):
        self.start_nginx()
        base = "https://127.0.0.1:%d/" % self.port
        return self.nghttp([base + n for n in names], [], self.nginx.pid, "nginx")

    def nghttp_origin(self, host, names):
        base = "https://127.0.0.1:%d/files/default/" % self.lab.origin.port
        return self.nghttp([base + n for n in names], self.key_options(host, "nghttp"),
                           self.lab.origin.process.pid, "origin")

    def curl_upload(self, host, path, count, jobs):
        """The file so many times, to an address at which the origin takes it in and keeps nothing."""
        with Cpu(origin=self.lab.origin.process.pid) as cpu:
            seconds, used, out = timed(
                ["curl", "-sS", "--http2", "-Z", "--parallel-max", str(jobs), "-o", "/dev/null",
                 "-X", "POST", "-T", path, "-w", "%{http_code} %{size_upload}\n"] +
                self.key_options(host) +
                ["https://127.0.0.1:%d/v1/nothing?[1-%d]" % (self.lab.origin.port, count)])
        want = str(os.path.getsize(path))
        done = [line.split() for line in out.decode().splitlines()]
        if len(done) != count or any(size != want for _, size in done):
            raise Wrong("curl uploaded something else: %s" % done[:3])
        return seconds, dict(cpu.used, client=used)
