"""The live page: what the camera sees and what the model says, on 127.0.0.1, at no cost while nobody looks."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.mailbox import Slot
from edge.monitor import Monitor, Problems
from sightline.errors import ConfigError
from sightline.predictions import Result
from sightline.preprocess import Frame, InputSpec, Preprocessor

JPEG_QUALITY = 80
CLIENTS = 16  # open streams; one more is told to wait
EVENTS_PER_SECOND = 12
_HTML = Path(__file__).with_name("page.html")


class Page:
    """Serves the page, its picture (MJPEG) and its data (SSE). `observe` is called by the loop with each result.

    The picture is copied, scaled and encoded at most `fps` times a second, in the page's own threads, and only while
    somebody looks.
    """

    def __init__(self, port: int, *, fps: int, width: int, info: dict[str, Any], status: Callable[[], dict[str, Any]]):
        """port: 0 = any that is free. info: what does not change. status: called for each event, must be quick."""
        self.info, self.status = info, status
        self.clients = 0
        self.event: dict[str, Any] | None = None
        self.jpeg: tuple[int, bytes] = (0, b"")
        self.changed = threading.Condition()
        self.closed = False
        self.monitor: Monitor | None = None  # once there is a loop to look at
        self._interval_ns, self._width = 1_000_000_000 // fps, width
        self._offered_ns = 0
        self._frame: Frame | None = None
        self._server = _bind(port, self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True),
            threading.Thread(target=self._encode, name="page encoder", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def observe(self, result: Result, slot: Slot | None) -> None:
        """Keep the newest result, and a copy of its frame where one is due. Costs the loop nothing without clients."""
        if not self.clients:
            return
        now = time.monotonic_ns()
        with self.changed:
            self.event = result.to_json()
            due = slot is not None and slot.frame is not None and now - self._offered_ns >= self._interval_ns
            if due and self._frame is None:
                assert slot is not None and slot.frame is not None
                self._frame = slot.frame.copy()
                self._offered_ns = now
                self.changed.notify_all()

    def _encode(self) -> None:
        scaled: Preprocessor | None = None
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self._frame is not None)
                if self.closed:
                    return
                frame = self._frame
            assert frame is not None
            height, width = frame.shape[:2]
            if width > self._width:
                size = (self._width, max(1, round(height * self._width / width)))
                if scaled is None or (scaled.spec.width, scaled.spec.height) != size:
                    scaled = Preprocessor(InputSpec(*size, resize="stretch"))
                frame = np.ascontiguousarray(scaled(frame)[:, :, ::-1])
            ok, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            with self.changed:
                self._frame = None
                if ok:
                    self.jpeg = (self.jpeg[0] + 1, data.tobytes())
                self.changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    page: Page

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle of a picture is no error."""


def _bind(port: int, page: Page) -> _Server:
    try:
        server = _Server(("127.0.0.1", port), _Handler)
    except OSError as e:
        raise ConfigError(f"--page-port {port}: {e.strerror}; give another one, or 0 for any that is free") from None
    server.page = page
    return server


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds for a client to send its request, or to take what it asked for
    server_version = "Sightline"
    sys_version = ""

    def do_GET(self) -> None:
        routes: dict[str, Callable[[], None]] = {
            "/": self._html,
            "/events": partial(self._as_viewer, self._events),
            "/stream.mjpg": partial(self._as_viewer, self._stream),
            "/snapshot.jpg": partial(self._as_viewer, self._snapshot),
            "/api/info": self._info,
            "/metrics": self._metrics,
            "/healthz": partial(self._problems, lambda monitor: monitor.dead()),
            "/readyz": partial(self._problems, lambda monitor: monitor.unready()),
        }
        # a page elsewhere that points its own name at 127.0.0.1 must not read this camera
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            self._send(403, "text/plain", b"this page answers to 127.0.0.1 and localhost only\n")
            return
        route = routes.get(self.path.split("?")[0])
        if route is None:
            self._send(404, "text/plain", b"not here\n")
            return
        route()

    def _html(self) -> None:
        self._send(200, "text/html; charset=utf-8", _HTML.read_bytes())

    def _info(self) -> None:
        self._send(200, "application/json", json.dumps(self.server.page.info).encode())

    def _metrics(self) -> None:
        monitor = self.server.page.monitor
        text = monitor.metrics() if monitor else ""
        self._send(200, "text/plain; version=0.0.4; charset=utf-8", text.encode("utf-8", "replace"))

    def _problems(self, ask: Callable[[Monitor], Problems]) -> None:
        monitor = self.server.page.monitor
        problems = ask(monitor) if monitor else {"loop": {"code": "opening", "text": "the agent starts"}}
        self._send(503 if problems else 200, "application/json", json.dumps(problems).encode())

    def _snapshot(self) -> None:
        page = self.server.page
        with page.changed:
            before = page.jpeg[0]
            fresh = page.changed.wait_for(lambda: page.closed or page.jpeg[0] > before, timeout=3) and not page.closed
            data = page.jpeg[1]
        if fresh:
            self._send(200, "image/jpeg", data)
        else:
            self._send(503, "text/plain", b"no picture for 3 seconds\n")

    def _stream(self) -> None:
        page = self.server.page
        self._head("multipart/x-mixed-replace; boundary=frame")
        seen = -1
        while not page.closed and not self._gone():
            with page.changed:
                new = page.changed.wait_for(lambda: page.closed or (page.jpeg[1] and page.jpeg[0] > seen), 1)  # noqa: B023
                number, data = page.jpeg
            if new and not page.closed:
                seen = number
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")

    def _events(self) -> None:
        page = self.server.page
        self._head("text/event-stream")
        while not page.closed:
            message = {"result": page.event, "status": page.status()}
            self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())
            time.sleep(1 / EVENTS_PER_SECOND)

    def _gone(self) -> bool:
        """Whether the viewer closed the connection: while there is nothing to send, nothing else would tell."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _as_viewer(self, serve: Callable[[], None]) -> None:
        """Serve what needs pictures or results: the loop copies none while there are no viewers."""
        page = self.server.page
        with page.changed:
            welcome = page.clients < CLIENTS
            if not page.clients:  # what the last viewer saw may be from yesterday
                page.event, page.jpeg = None, (page.jpeg[0], b"")
            page.clients += welcome
        if not welcome:
            self._send(503, "text/plain", b"too many viewers\n")
            return
        try:
            serve()
        finally:
            with page.changed:
                page.clients -= 1
            self.close_connection = True

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self._security()
        self.end_headers()

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self._security()
        self.end_headers()
        self.wfile.write(body)

    def _security(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "connect-src 'self'; frame-ancestors 'none'",
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: stderr belongs to the agent."""
