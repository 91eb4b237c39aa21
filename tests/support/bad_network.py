"""A TCP proxy on 127.0.0.1 that breaks connections on demand, as networks and reverse proxies do."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from urllib.parse import urlsplit

POLL_S = 0.05


class BadNetwork:
    """Passes bytes on between clients and one server.

    fault: "" = none; a status = each request gets a reply of this status; "cut" = connections are closed; "silent" =
    connections stay open, and nothing is passed on. While there is a fault, earlier connections end, or are silent.

    Threads: the test's thread sets `fault`; one thread accepts connections, and each connection has a thread.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.fault: int | str = ""
        self._server = (str(parts.hostname), int(parts.port or 80))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL_S)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._closed = threading.Event()
        self._cuts: list[tuple[str, threading.Event]] = []  # per request line: what ends its connection
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)
        self._listener.close()

    def end(self, path: str) -> None:
        """Close the connections on which this path was requested last."""
        for text, cut in list(self._cuts):
            if path in text:
                cut.set()

    def _accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self._server, timeout=5) as server:
            cut = threading.Event()
            while not self._closed.is_set() and not cut.is_set():
                fault = self.fault
                ready, _, _ = select.select([client] if fault == "silent" else [client, server], [], [], POLL_S)
                request = client.recv(65536) if client in ready else None
                if fault == "silent":
                    if request == b"":
                        return
                    continue
                if fault == "cut" or (isinstance(fault, int) and request is None):
                    return
                if isinstance(fault, int):
                    body = b"<h1>no</h1>"
                    head = f"HTTP/1.1 {fault} No\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"
                    client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
                    return
                if request == b"":
                    return
                if request:
                    line = request.partition(b"\r\n")[0].decode("latin-1")
                    self._cuts = [(text, event) for text, event in self._cuts if event is not cut] + [(line, cut)]
                    server.sendall(request)
                reply = server.recv(65536) if server in ready else None
                if reply == b"":
                    return
                if reply:
                    client.sendall(reply)
