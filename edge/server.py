"""A server of threads, whose limits a bad client meets before the agent does."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edge.access import Access
from edge.page import Page

CONNECTIONS = 64
HEAD_BYTES = 16 << 10
HEAD_S = 10.0  # for a whole request, however slowly it is sent
SEND_S = 10.0  # for a client to take what it asked for


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(
        self,
        address: str,
        port: int,
        handler: type[BaseHTTPRequestHandler],
        page: Page,
        access: Access,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.page, self.access, self._tls = page, access, tls
        self.viewers = 0
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__((address, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:  # here, in the connection's own thread: a slow handshake holds up nobody
            request.settimeout(HEAD_S)
            with self._tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle of a picture is no error."""


class Wire:
    """What http.server reads from: a request's head has a limit in bytes and a time-out for all of it, where the
    library has one for each line and each read."""

    closed = False

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._buffer = connection, bytearray()
        self.begin()

    def begin(self) -> None:
        self._left, self._until = HEAD_BYTES, time.monotonic() + HEAD_S

    def readline(self, limit: int = -1) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > self._left:
                raise http.client.HTTPException("the head is too large")
            if not self._more():
                break
        end = self._buffer.find(b"\n") + 1 or len(self._buffer)
        self._left -= end
        if self._left < 0:
            raise http.client.HTTPException("the head is too large")
        return self._take(end)

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and self._more():
            pass
        return self._take(min(size, len(self._buffer)))

    def close(self) -> None:
        self.closed = True

    def _more(self) -> bool:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        data = self._connection.recv(4096)
        self._connection.settimeout(SEND_S)
        self._buffer += data
        return bool(data)

    def _take(self, end: int) -> bytes:
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        return data
