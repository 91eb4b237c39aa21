"""An HTTP server with one thread per connection, and limits that protect the agent from bad clients; and its TLS."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from edge.tls import load_key_pair

CONNECTIONS = 64  # at a time
HEAD_BYTES = 16 << 10
HEAD_S = 10.0  # for a whole request, however slowly it is sent
SEND_S = 10.0  # for a client to accept data
READ_BYTES = 4096
# a client that disappears (a cable, a battery) is noticed after 25 s, also while nothing is sent to it
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}


class Server(ThreadingHTTPServer):
    """Threads: one accepts connections, and each connection has its own. A semaphore bounds their number.

    head_s: time limit for a request's head and for a TLS handshake, in seconds.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(
        self,
        address: str,
        port: int,
        handler: Callable[..., BaseHTTPRequestHandler],
        tls: ssl.SSLContext | None,
        head_s: float | None = None,
    ) -> None:
        """Raises OSError. handler: a class, or a partial of one."""
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._tls, self.head_s = tls, HEAD_S if head_s is None else head_s
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__((address, port), handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, client_address = super().get_request()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):  # Linux has all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return connection, client_address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:  # in the connection's own thread: a slow handshake delays nobody else
            request.settimeout(self.head_s)
            with self._tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
            return
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignored: a browser may leave in the middle of an image."""


class Handler(BaseHTTPRequestHandler):
    """The limits of a request, for every server of this project."""

    server: Server

    protocol_version = "HTTP/1.1"
    timeout = SEND_S
    server_version, sys_version = "Sightline", ""
    error_content_type, error_message_format = "text/plain", "%(message)s\n"

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile: Any = BoundedReader(self.connection, self.server.head_s)

    def handle_one_request(self) -> None:
        self.rfile.begin()
        try:
            super().handle_one_request()
        except http.client.HTTPException:  # the first line is too long; http.server itself replies to other errors
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.close_connection = True
            self.send_error(431)

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # an unread body must not be taken for the next request
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For http.server's own errors: an unknown method is not the server's fault."""
        super().send_error(405 if code == 501 else code, message, explain)

    def log_message(self, format: str, *args: Any) -> None:
        """Ignored: stderr is for the agent."""


class BoundedReader:
    """The file that http.server reads a request from, with limits for the whole head.

    http.server alone has limits for each line and each read only.
    """

    closed = False

    def __init__(self, connection: socket.socket, head_s: float) -> None:
        self._connection, self._buffer, self._head_s = connection, bytearray(), head_s
        self.begin()

    def begin(self) -> None:
        """Begin a request."""
        self._left, self._until = HEAD_BYTES, time.monotonic() + self._head_s

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
        data = self._connection.recv(READ_BYTES)
        self._connection.settimeout(SEND_S)
        self._buffer += data
        return bool(data)

    def _take(self, end: int) -> bytes:
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        return data


def read_now(connection: socket.socket) -> bytes | None:
    """Received bytes, at most READ_BYTES; None = none yet, b"" = the connection is closed. Keeps its timeout."""
    timeout_s = connection.gettimeout()
    connection.setblocking(False)
    try:
        return connection.recv(READ_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
    except OSError:
        return b""
    finally:
        connection.settimeout(timeout_s)


def server_tls(certificate: Path, key: Path | None, options: str) -> ssl.SSLContext:
    """Raises ConfigError.

    key: None = it is in the certificate's file.
    options: the names of both options, for the error.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_key_pair(context, certificate, key, options)
    return context
