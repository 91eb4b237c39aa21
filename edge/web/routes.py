"""The routes of the page.

`static/openapi.json` describes the routes and their replies; a test compares the two.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge.monitoring.health import Monitor, Problems
from edge.monitoring.prometheus import exposition
from edge.web.auth import Access
from edge.web.handler import Limits, PageHandler, PageServer
from edge.web.live_page import Page
from sightline.errors import ConfigError, DeviceError, fault_type
from sightline.predictions import SCHEMA_FILE

EVENTS_PER_SECOND = 12
SNAPSHOT_S = 3.0  # longest wait for a frame
STREAM_POLL_S = 1.0
WRONG_TOKEN_S = 0.5  # pause before the reply, which slows guessing down
COOKIE_S = 31_536_000  # a year
LIMITS = Limits()
_STATIC = Path(__file__).with_name("static")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}


def _description() -> dict[str, Any]:
    """The OpenAPI document of this server, with the schema of a prediction from `sightline`."""
    document: dict[str, Any] = json.loads((_STATIC / "openapi.json").read_text())
    # OpenAPI keeps a schema's definitions at the document's root
    schema = json.loads(SCHEMA_FILE.read_text().replace("#/$defs/", "#/components/schemas/"))
    document["components"]["schemas"] |= {"Prediction": schema, **schema.pop("$defs")}
    for key in ("$schema", "$id"):
        del schema[key]
    return document


class Web:
    """Serves a page.

    Threads: `start` begins one thread, which accepts connections; each of them gets its own. See `PageServer`.

    url: for people on this machine.
    """

    def __init__(
        self,
        page: Page,
        port: int,
        *,
        address: str = "127.0.0.1",
        access: Access | None = None,
        tls: ssl.SSLContext | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        """Raises DeviceError for a port in use or an address that this machine does not have now, and ConfigError for a
        port that this user may not use.

        port: 0 = any free one.
        """
        self.page = page
        try:
            self._server = PageServer((address, port), _Handler, tls, page, access or Access(), limits)
        except OSError as e:
            text = f"--page-port {port}: {e.strerror}. Choose another port, or 0 for any free one."
            text = text if address == "127.0.0.1" else f"--page-address {address}, {text}"
            raise fault_type(e, ConfigError)(text) from None
        self.port = int(self._server.server_address[1])
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
        name = f"[{local}]" if ":" in local else local
        self.url = f"http{'s' if tls else ''}://{name}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="page", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def viewers(self) -> int:
        """Number of open streams."""
        return self._server.viewers

    @property
    def bound_address(self) -> str:
        """The address that the server listens on."""
        return str(self._server.server_address[0])

    def close(self) -> None:
        self.page.close()
        self._server.shutdown()
        self._server.server_close()


class _Handler(PageHandler):
    def do_GET(self) -> None:
        if not self.is_welcome():
            return
        path = urlsplit(self.path).path
        if path in _FILES:
            name, kind = _FILES[path]
            self.send_content(200, kind, (_STATIC / name).read_bytes())
        elif path == "/openapi.json":
            self.send_json(200, _description())
        elif path in POST_ROUTES:
            self.send_json_error(405, "Method not allowed: use POST.", Allow="POST")
        elif path not in GET_ROUTES:
            self.send_json_error(404, "Not found.")
        elif self.is_signed_in():
            GET_ROUTES[path](self)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.close_connection = True  # the body may not be read to its end
        if not self.is_welcome():
            return
        path = urlsplit(self.path).path
        if path in {*_FILES, "/openapi.json", *GET_ROUTES}:
            self.send_json_error(405, "Method not allowed: use GET.", Allow="GET")
        elif path not in POST_ROUTES:
            self.send_json_error(404, "Not found.")
        elif self.is_own_origin():
            POST_ROUTES[path](self)

    def info(self) -> None:
        page = self.server.page
        self.send_json(200, page.info | {"cameras": list(page.channels)})

    def login(self) -> None:
        body = self.read_object()
        if body is None:
            return
        token = body.get("token")
        if not isinstance(token, str) or not self.server.access.allows(token):
            time.sleep(WRONG_TOKEN_S)
            self.send_json_error(401, "Wrong token.")
            return
        safe = "".join(c for c in token if c.isalnum() or c in "-_")
        over_tls = self.server.access.tls or (self.headers.get("Origin") or "").startswith("https://")
        secure = "; Secure" if over_tls else ""
        cookie = f"{self.server.access.cookie}={safe}; HttpOnly; SameSite=Strict; Path=/; Max-Age={COOKIE_S}{secure}"
        self.send_json(200, {}, **{"Set-Cookie": cookie})

    def threshold(self) -> None:
        if not self.is_signed_in():
            return
        body = self.read_object()
        if body is None:
            return
        value = body.get("threshold")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1 or len(body) != 1:
            self.send_json_error(400, 'The body must be {"threshold": NUMBER}, with a number from 0 to 1.')
            return
        self.server.page.set_threshold(float(value))
        self.send_json(200, {"threshold": float(value)})

    def predictions(self) -> None:
        channels = self.server.page.channels
        if self.names_camera:
            camera = self.camera()
            if camera is None:
                return
            channels = {camera: channels[camera]}
        self.send_json(200, {name: c.result.to_json() if c.result else None for name, c in channels.items()})

    def metrics(self) -> None:
        monitor = self.server.page.monitor
        text = exposition(monitor) if monitor else ""
        self.send_content(200, "text/plain; version=0.0.4; charset=utf-8", text.encode("utf-8", "replace"))

    def alive(self) -> None:
        self._send_problems(lambda monitor: monitor.liveness())

    def ready(self) -> None:
        self._send_problems(lambda monitor: self.server.page.problems() | monitor.readiness())

    def _send_problems(self, check: Callable[[Monitor], Problems]) -> None:
        monitor = self.server.page.monitor
        problems = check(monitor) if monitor else {"loop": {"code": "opening", "text": "the agent is starting"}}
        self.send_json(503 if problems else 200, problems)

    def snapshot(self) -> None:
        camera = self.camera()
        if camera is None:
            return
        try:
            data = self.server.page.snapshot(camera, SNAPSHOT_S)
        except DeviceError as e:
            self.send_json_error(503, str(e))
            return
        if data is None:
            self.send_json_error(503, f"No frame for {SNAPSHOT_S:g} seconds.")
        else:
            self.send_content(200, "image/jpeg", data)

    def events(self) -> None:
        self._serve_viewer(self._send_events)

    def websocket(self) -> None:
        self._serve_viewer(self._send_websocket)

    def stream(self) -> None:
        self._serve_viewer(self._send_stream)

    def _serve_viewer(self, serve: Callable[[str], None]) -> None:
        camera = self.camera()
        if camera is None:
            return
        page, server = self.server.page, self.server
        with page.changed:
            has_room = server.viewers < server.limits.viewers
            server.viewers += has_room
        if not has_room:
            self.send_json_error(503, "Too many viewers.")
            return
        try:
            serve(camera)
        finally:
            with page.changed:
                server.viewers -= 1
            self.close_connection = True

    def _send_stream(self, camera: str) -> None:
        page = self.server.page
        with page.viewing(camera, self.query("view")) as channel:
            last = channel.jpeg[0] if not channel.jpeg[1] else -1
            if not self.begin_stream("multipart/x-mixed-replace; boundary=frame"):
                return
            sent = time.monotonic()
            while not page.closed and not self.is_gone():
                with page.changed:
                    new = page.changed.wait_for(
                        lambda: page.closed or (channel.jpeg[1] and channel.jpeg[0] != last),  # noqa: B023
                        STREAM_POLL_S,
                    )
                    number, data = channel.jpeg
                if page.closed or (not new and time.monotonic() - sent < self.server.limits.heartbeat_s):
                    continue
                if not data:
                    return  # no image yet: the page asks again, before a proxy in between gives up
                last, sent = number, time.monotonic()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")

    def _send_events(self, camera: str) -> None:
        """A window that names its stream also gets whether that is still sent: browsers do not notice its end."""
        page, channel, view = self.server.page, self.server.page.channels[camera], self.query("view")
        if not self.begin_stream("text/event-stream"):
            return
        while not page.closed and not self.is_gone():
            result = channel.result
            message: dict[str, Any] = {"result": result.to_json() if result else None, "status": page.status()}
            if view:
                message |= {"streaming": view in page.views, "problem": channel.problem}
            self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())
            time.sleep(1 / EVENTS_PER_SECOND)

    def _send_websocket(self, camera: str) -> None:
        from edge.web.websocket import serve  # 15 ms, and few clients use it

        if not self.is_own_origin():
            return
        if self.command == "HEAD":
            self.send_json_error(400, "A WebSocket handshake is needed.")
            return
        page = self.server.page
        with page.listening(camera if self.names_camera else "") as listener:
            head = dict(self.headers.items())
            serve(self.connection, self.requestline, head, listener, lambda: page.closed)


GET_ROUTES: dict[str, Callable[[_Handler], None]] = {
    "/api/info": _Handler.info,
    "/api/predictions": _Handler.predictions,
    "/events": _Handler.events,
    "/ws": _Handler.websocket,
    "/stream.mjpg": _Handler.stream,
    "/snapshot.jpg": _Handler.snapshot,
    "/metrics": _Handler.metrics,
    "/healthz": _Handler.alive,
    "/readyz": _Handler.ready,
}
POST_ROUTES: dict[str, Callable[[_Handler], None]] = {
    "/api/threshold": _Handler.threshold,
    "/api/login": _Handler.login,
}
