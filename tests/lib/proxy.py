"""
proxy.py - a TCP proxy that delays what passes, each way by the same time, and counts it.

It knows nothing of TLS: it counts bytes, and turns. A turn is a message of the host's that comes
after something of the origin's (or is the first of its connection): what a host asks in one turn
costs one round trip, however many packets it is.
"""

import collections
import socket
import threading
import time


class Proxy:
    def __init__(self, port, delay_ms=0):
        self.target = ("127.0.0.1", port)
        self.delay = delay_ms / 1000
        self.turns = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self.lock = threading.Lock()
        self.sockets = []
        self.closed = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = "https://127.0.0.1:%d/default" % self.port
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def round_trip(self):
        return 2 * self.delay

    def accept(self):
        while True:
            try:
                host, _ = self.listener.accept()
                origin = socket.create_connection(self.target)
            except OSError:
                if self.closed:
                    return
                host.close()  # the origin is not there
                continue
            for one in (host, origin):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.sockets += [host, origin]
            connection = {"last": None}
            self.pump(connection, host, origin, "up")
            self.pump(connection, origin, host, "down")

    def pump(self, connection, source, sink, way):
        """Two threads: one reads, one writes what is due; so nothing adds to the delay."""
        queue = collections.deque()
        filled = threading.Condition()

        def take():
            while True:
                try:
                    data = source.recv(1 << 16)
                except OSError:
                    data = b""
                with self.lock:
                    if way == "up":
                        self.bytes_up += len(data)
                        self.turns += bool(data) and connection["last"] != "up"
                    else:
                        self.bytes_down += len(data)
                    connection["last"] = way
                with filled:
                    queue.append((time.monotonic() + self.delay, data))
                    filled.notify()
                if not data:
                    return

        def give():
            while True:
                with filled:
                    while not queue:
                        filled.wait()
                    due, data = queue.popleft()
                time.sleep(max(0, due - time.monotonic()))
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    source.close()
                    return
        for function in (take, give):
            threading.Thread(target=function, daemon=True).start()

    def close(self):
        self.closed = True
        with self.lock:
            sockets = [self.listener] + self.sockets
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()
