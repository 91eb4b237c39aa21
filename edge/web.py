"""The page over HTTP: its routes, and who may ask for them.

Routes and their answers are described by site/openapi.json; a test holds them to it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.access import Access
from edge.monitor import Monitor, Problems
from edge.page import Channel, Listener, Page
from edge.server import SEND_S, Server, Wire
from sightline.errors import ConfigError
from sightline.predictions import SCHEMA_FILE

VIEWERS = 16  # open streams; one more is told to wait
BODY_BYTES = 1 << 10
EVENTS_PER_SECOND = 12
SNAPSHOT_S = 3.0
COOKIE = "sightline"
_SITE = Path(__file__).with_name("site")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
}


def _description() -> dict[str, Any]:
    """Of this server, in OpenAPI; with the form of a prediction as `sightline` has it."""
    document: dict[str, Any] = json.loads((_SITE / "openapi.json").read_text())
    # its own definitions are looked for at the document's root
    schema = json.loads(SCHEMA_FILE.read_text().replace("#/$defs/", "#/components/schemas/"))
    document["components"]["schemas"] |= {"Prediction": schema, **schema.pop("$defs")}
    for key in ("$schema", "$id"):
        del schema[key]
    return document


class Web:
    """Serves a page. url: for people on this machine."""

    def __init__(
        self,
        page: Page,
        port: int,
        *,
        address: str = "127.0.0.1",
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """port: 0 = any that is free. Raises ConfigError."""
        self.page = page
        try:
            self._server = Server(address, port, _Handler, page, access or Access(), tls)
        except OSError as e:
            what = f"--page-port {port}: {e.strerror}; give another one, or 0 for any that is free"
            raise ConfigError(what if address == "127.0.0.1" else f"--page-address {address}, {what}") from None
        self.port = int(self._server.server_address[1])
        name = f"[{address}]" if ":" in address else "127.0.0.1" if address == "0.0.0.0" else address
        self.url = f"http{'s' if tls else ''}://{name}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def viewers(self) -> int:
        """Open streams."""
        return self._server.viewers

    def close(self) -> None:
        self.page.close()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = SEND_S
    server_version, sys_version = "Sightline", ""
    error_content_type, error_message_format = "text/plain", "%(message)s\n"

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile: Any = Wire(self.connection)

    def handle_one_request(self) -> None:
        self.rfile.begin()
        try:
            super().handle_one_request()
        except http.client.HTTPException:  # a first line without end; of the rest http.server says it
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.close_connection = True
            self.send_error(431)

    def do_GET(self) -> None:
        if not self._welcome():
            return
        path = urlsplit(self.path).path
        if path in _FILES:
            name, kind = _FILES[path]
            self._send(200, kind, (_SITE / name).read_bytes())
            return
        if path == "/openapi.json":
            self._json(200, _description())
            return
        routes = self._routes()
        if path in ("/api/threshold", "/api/login"):
            self._error(405, "POST only", Allow="POST")
        elif path not in routes:
            self._error(404, "not here")
        elif self._known():
            routes[path]()

    def _routes(self) -> dict[str, Callable[[], None]]:
        return {
            "/api/info": lambda: self._json(200, self.server.page.info | {"cameras": list(self.server.page.channels)}),
            "/api/predictions": self._predictions,
            "/events": partial(self._as_viewer, self._events),
            "/ws": partial(self._as_viewer, self._websocket),
            "/stream.mjpg": partial(self._as_viewer, self._stream),
            "/snapshot.jpg": self._snapshot,
            "/metrics": self._metrics,
            "/healthz": partial(self._problems, lambda monitor: monitor.dead()),
            "/readyz": partial(self._problems, lambda monitor: monitor.unready()),
        }

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.close_connection = True  # a body that was not read must not be taken for the next request
        if not self._welcome():
            return
        path = urlsplit(self.path).path
        if path not in ("/api/threshold", "/api/login"):
            known = path in {*_FILES, "/openapi.json", *self._routes()}
            self._error(405 if known else 404, "not to be posted to", Allow="GET")
        elif not self.server.access.origin_is_ours(self.headers.get("Origin"), self.headers.get("Host") or ""):
            self._error(403, "another site may not do this")
        elif path == "/api/login":
            self._login()
        elif self._known():
            self._threshold()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of http.server's own: a method that nobody knows is no fault of the server's."""
        super().send_error(405 if code == 501 else code, message, explain)

    def _welcome(self) -> bool:
        """Whether the request names this page and no other."""
        if self.server.access.host_is_ours(self.headers.get("Host") or ""):
            return True
        self.close_connection = True
        self._error(403, "this page does not answer to that name; --page-host gives it one")
        return False

    def _known(self) -> bool:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            cookie: SimpleCookie = SimpleCookie()
            with contextlib.suppress(CookieError):
                cookie.load(self.headers.get("Cookie") or "")
            token = cookie[COOKIE].value if COOKIE in cookie else ""
        if self.server.access.allows(token.strip() or None):
            return True
        self._error(401, "a token is needed", **{"WWW-Authenticate": "Bearer"})
        return False

    def _body(self) -> dict[str, Any] | None:
        """A JSON object; None when there is none, which has been told."""
        length = self.headers.get("Content-Length") or ""
        if (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower() != "application/json":
            self._error(415, "application/json is needed")
        elif not (length.isascii() and length.isdecimal()):
            self._error(411, "Content-Length is needed")
        elif int(length) > BODY_BYTES:
            self._error(413, f"{BODY_BYTES} bytes at most")
        else:
            with contextlib.suppress(ValueError, RecursionError):
                body = json.loads(self.rfile.read(int(length)))
                if isinstance(body, dict):
                    return body
            self._error(400, "not a JSON object")
        return None

    def _login(self) -> None:
        body = self._body()
        if body is None:
            return
        token = body.get("token")
        if not isinstance(token, str) or not self.server.access.allows(token):
            time.sleep(0.5)
            self._error(401, "not the token")
            return
        safe = "".join(c for c in token if c.isalnum() or c in "-_")
        secure = "; Secure" if self.server.access.tls else ""
        cookie = f"{COOKIE}={safe}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000{secure}"
        self._json(200, {}, **{"Set-Cookie": cookie})

    def _threshold(self) -> None:
        body = self._body()
        if body is None:
            return
        value = body.get("threshold")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1 or len(body) != 1:
            self._error(400, '{"threshold": a number from 0 to 1} is needed')
            return
        self.server.page.set_threshold(float(value))
        self._json(200, {"threshold": float(value)})

    def _camera(self) -> str | None:
        """The one that the query names, else the first; None for one that there is not, which has been told."""
        names = list(self.server.page.channels)
        asked = parse_qs(urlsplit(self.path).query, keep_blank_values=True).get("camera", [names[0]])
        if len(asked) == 1 and asked[0] in names:
            return asked[0]
        self._error(404, "no such camera")
        return None

    def _predictions(self) -> None:
        channels = self.server.page.channels
        if "camera=" in urlsplit(self.path).query:
            camera = self._camera()
            if camera is None:
                return
            channels = {camera: channels[camera]}
        self._json(200, {name: c.result.to_json() if c.result else None for name, c in channels.items()})

    def _metrics(self) -> None:
        monitor = self.server.page.monitor
        text = monitor.metrics() if monitor else ""
        self._send(200, "text/plain; version=0.0.4; charset=utf-8", text.encode("utf-8", "replace"))

    def _problems(self, ask: Callable[[Monitor], Problems]) -> None:
        monitor = self.server.page.monitor
        problems = ask(monitor) if monitor else {"loop": {"code": "opening", "text": "the agent starts"}}
        self._json(503 if problems else 200, problems)

    def _snapshot(self) -> None:
        camera = self._camera()
        if camera is None:
            return
        data = self.server.page.snapshot(camera, SNAPSHOT_S)
        if data is None:
            self._error(503, f"no picture for {SNAPSHOT_S:g} seconds")
        else:
            self._send(200, "image/jpeg", data)

    def _as_viewer(self, serve: Callable[[str], None]) -> None:
        camera = self._camera()
        if camera is None:
            return
        page, server = self.server.page, self.server
        with page.changed:
            welcome = server.viewers < VIEWERS
            server.viewers += welcome
        if not welcome:
            self._error(503, "too many viewers")
            return
        try:
            if self.command == "GET":
                serve(camera)
        finally:
            with page.changed:
                server.viewers -= 1
            self.close_connection = True

    def _stream(self, camera: str) -> None:
        page, channel = self.server.page, self.server.page.channels[camera]
        with self._looking_at(channel):
            self._head("multipart/x-mixed-replace; boundary=frame")
            seen = channel.jpeg[0] if not channel.jpeg[1] else -1
            while not page.closed and not self._gone():
                with page.changed:
                    new = page.changed.wait_for(
                        lambda: page.closed or (channel.jpeg[1] and channel.jpeg[0] != seen),  # noqa: B023
                        1,
                    )
                    number, data = channel.jpeg
                if new and not page.closed:
                    seen = number
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")

    @contextlib.contextmanager
    def _looking_at(self, channel: Channel) -> Any:
        changed = self.server.page.changed
        with changed:
            if not channel.viewers:  # what the last viewer saw may be from yesterday
                channel.jpeg = (channel.jpeg[0], b"")
            channel.viewers += 1
        try:
            yield
        finally:
            with changed:
                channel.viewers -= 1

    def _events(self, camera: str) -> None:
        page, channel = self.server.page, self.server.page.channels[camera]
        self._head("text/event-stream")
        while not page.closed and not self._gone():
            result = channel.result
            message = {"result": result.to_json() if result else None, "status": page.status()}
            self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())
            time.sleep(1 / EVENTS_PER_SECOND)

    def _websocket(self, camera: str) -> None:
        from edge.websocket import serve  # 15 ms, and few ask for it

        if not self.server.access.origin_is_ours(self.headers.get("Origin"), self.headers.get("Host") or ""):
            self._error(403, "another site may not do this")
            return
        page = self.server.page
        listener = Listener(camera if "camera=" in urlsplit(self.path).query else "")
        page.listeners.append(listener)
        try:
            head = dict(self.headers.items())
            serve(self.connection, self.requestline, head, listener, lambda: page.closed)
        finally:
            page.listeners.remove(listener)

    def _gone(self) -> bool:
        """Whether the viewer closed the connection: while there is nothing to send, nothing else would tell."""
        if isinstance(self.connection, ssl.SSLSocket):
            return False  # it cannot be peeked into; a write tells
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()

    def _json(self, code: int, value: object, **headers: str) -> None:
        self._send(code, "application/json", json.dumps(value).encode(), **headers)

    def _error(self, code: int, message: str, **headers: str) -> None:
        self._json(code, {"error": message}, **headers)

    def _send(self, code: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: stderr belongs to the agent."""
