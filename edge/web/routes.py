"""The page over HTTP: its routes, and who may ask for them.

Routes and their answers are described by site/openapi.json; a test holds them to it.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.monitoring.health import Monitor, Problems
from edge.monitoring.prometheus import exposition
from edge.web.auth import Access
from edge.web.http_server import Handler, Server, read_now
from edge.web.live_page import Page
from sightline.errors import ConfigError, DeviceError, fault_type
from sightline.predictions import SCHEMA_FILE

VIEWERS = 16  # open streams; one more is told to wait
BODY_BYTES = 1 << 10
EVENTS_PER_SECOND = 12
SNAPSHOT_S = 3.0
HEARTBEAT_S = 15.0  # between two images of a stream: less than what proxies wait for
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")  # a proxy's
_SITE = Path(__file__).with_name("static")
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
        """port: 0 = any that is free. Raises DeviceError for a port that is taken or an address that this machine does
        not have now; ConfigError for a port that this user may not have."""
        self.page = page
        try:
            self._server = _Server(address, port, _Handler, tls)
        except OSError as e:
            what = f"--page-port {port}: {e.strerror}; give another one, or 0 for any that is free"
            what = what if address == "127.0.0.1" else f"--page-address {address}, {what}"
            raise fault_type(e, ConfigError)(what) from None
        self._server.page, self._server.access = page, access or Access()
        self.port = int(self._server.server_address[1])
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
        name = f"[{here}]" if ":" in here else here
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


class _Server(Server):
    page: Page
    access: Access
    viewers = 0


class _Handler(Handler):
    server: _Server

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
            "/readyz": partial(self._problems, lambda monitor: self.server.page.problems() | monitor.unready()),
        }

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.close_connection = True  # for the body, of which not all may be read
        if not self._welcome():
            return
        path = urlsplit(self.path).path
        if path not in ("/api/threshold", "/api/login"):
            known = path in {*_FILES, "/openapi.json", *self._routes()}
            self._error(405 if known else 404, "not to be posted to", Allow="GET")
        elif not self._from_ourselves():
            pass
        elif path == "/api/login":
            self._login()
        elif self._known():
            self._threshold()

    def _welcome(self) -> bool:
        """Whether the request names this page and no other, and does not come from elsewhere to a page without a
        token."""
        access = self.server.access
        wrong = ""
        if not access.host_is_ours(self.headers.get("Host") or ""):
            wrong = "this page does not answer to that name; --page-host gives it one"
        elif access.local and not access.digest and any(name in self.headers for name in _PASSED_ON):
            wrong = "a proxy passed this on, and the page has no token: start the agent with --page-host https://NAME"
        if wrong:
            self.close_connection = True
            self._error(403, wrong)
        return not wrong

    def _from_ourselves(self) -> bool:
        """Whether no other site's page speaks here."""
        if self.server.access.origin_is_ours(self.headers.get("Origin"), self.headers.get("Host") or ""):
            return True
        self._error(403, "another site may not do this; behind a proxy the agent needs --page-host https://NAME")
        return False

    def _known(self) -> bool:
        access = self.server.access
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        tokens = [token.strip()] if scheme.lower() == "bearer" else list(self._cookies(access.cookie))
        if not access.digest or any(access.allows(one) for one in tokens):
            return True
        self._error(401, "a token is needed", **{"WWW-Authenticate": "Bearer"})
        return False

    def _cookies(self, name: str) -> Iterator[str]:
        """The values of this name. Other services on this host have cookies of every form, which http.cookies does not
        get past."""
        for header in self.headers.get_all("Cookie", ()):
            for part in header.split(";"):
                key, _, value = part.partition("=")
                if key.strip() == name:
                    yield value.strip()

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
        over_tls = self.server.access.tls or (self.headers.get("Origin") or "").startswith("https://")
        secure = "; Secure" if over_tls else ""
        cookie = f"{self.server.access.cookie}={safe}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000{secure}"
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
        text = exposition(monitor) if monitor else ""
        self._send(200, "text/plain; version=0.0.4; charset=utf-8", text.encode("utf-8", "replace"))

    def _problems(self, ask: Callable[[Monitor], Problems]) -> None:
        monitor = self.server.page.monitor
        problems = ask(monitor) if monitor else {"loop": {"code": "opening", "text": "the agent starts"}}
        self._json(503 if problems else 200, problems)

    def _snapshot(self) -> None:
        camera = self._camera()
        if camera is None:
            return
        try:
            data = self.server.page.snapshot(camera, SNAPSHOT_S)
        except DeviceError as e:
            self._error(503, str(e))
            return
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
            serve(camera)
        finally:
            with page.changed:
                server.viewers -= 1
            self.close_connection = True

    def _query(self, key: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(key, [""])[0]

    def _stream(self, camera: str) -> None:
        page = self.server.page
        with page.looking_at(camera, self._query("view")) as channel:
            seen = channel.jpeg[0] if not channel.jpeg[1] else -1
            if not self._head("multipart/x-mixed-replace; boundary=frame"):
                return
            sent = time.monotonic()
            while not page.closed and not self._gone():
                with page.changed:
                    new = page.changed.wait_for(
                        lambda: page.closed or (channel.jpeg[1] and channel.jpeg[0] != seen),  # noqa: B023
                        1,
                    )
                    number, data = channel.jpeg
                if page.closed or (not new and time.monotonic() - sent < HEARTBEAT_S):
                    continue
                if not data:
                    return  # nothing to show yet: the page asks again, and no proxy in between gives up
                seen, sent = number, time.monotonic()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")

    def _events(self, camera: str) -> None:
        """To a window that gives the name of its picture, also whether that is still sent: what it shows may have
        ended without a word."""
        page, channel, view = self.server.page, self.server.page.channels[camera], self._query("view")
        if not self._head("text/event-stream"):
            return
        while not page.closed and not self._gone():
            result = channel.result
            message: dict[str, Any] = {"result": result.to_json() if result else None, "status": page.status()}
            if view:
                message |= {"streaming": view in page.views, "problem": channel.problem}
            self.wfile.write(f"data: {json.dumps(message)}\n\n".encode())
            time.sleep(1 / EVENTS_PER_SECOND)

    def _websocket(self, camera: str) -> None:
        from edge.web.websocket import serve  # 15 ms, and few ask for it

        if not self._from_ourselves():
            return
        if self.command == "HEAD":
            self._error(400, "a WebSocket handshake is needed")
            return
        page = self.server.page
        with page.listening(camera if "camera=" in urlsplit(self.path).query else "") as listener:
            head = dict(self.headers.items())
            serve(self.connection, self.requestline, head, listener, lambda: page.closed)

    def _gone(self) -> bool:
        """Whether the viewer closed the connection: while there is nothing to send, nothing else would tell. What it
        still says is for nobody."""
        return read_now(self.connection) == b""

    def _head(self, kind: str) -> bool:
        """Of an answer without an end. Whether its content is wanted too."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        return self.command != "HEAD"

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
