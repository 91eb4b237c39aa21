"""A request to the page: who may send it, what it contains, and how its reply is written."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge.web.auth import Access
from edge.web.http_server import Handler, Server, read_now
from edge.web.live_page import Page

BODY_BYTES = 1 << 10  # maximum of a request's body
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Limits:
    """Limits of the page.

    viewers: most open streams at a time.
    heartbeat_s: longest time between two images of a stream: less than proxies wait for.
    head_s: for a whole request, however slowly it is sent.
    """

    viewers: int = 16
    heartbeat_s: float = 15.0
    head_s: float = 10.0


class PageServer(Server):
    """Serves one page.

    Threads: each connection has a thread. They change `viewers` with the lock of `page.changed` held.
    """

    def __init__(
        self,
        address: tuple[str, int],
        handler: Callable[..., BaseHTTPRequestHandler],
        tls: ssl.SSLContext | None,
        page: Page,
        access: Access,
        limits: Limits,
    ) -> None:
        self.page, self.access, self.limits = page, access, limits
        self.viewers = 0
        super().__init__(*address, handler, tls, head_s=limits.head_s)


class PageHandler(Handler):
    """What all routes share: checks of a request, and replies."""

    server: PageServer

    def is_welcome(self) -> bool:
        """Whether the request names this page, and comes to it directly where it has no token. Sends the error."""
        access = self.server.access
        error = ""
        if not access.is_own_host(self.headers.get("Host") or ""):
            error = "Unknown host name. Start the agent with --page-host NAME."
        elif access.local and not access.digest and any(name in self.headers for name in _PROXY_HEADERS):
            error = "A proxy forwarded this request to a page without a token. Start the agent with --page-host https://NAME."
        if error:
            self.close_connection = True
            self.send_json_error(403, error)
        return not error

    def is_own_origin(self) -> bool:
        """Whether the request does not come from another site's page. Sends the error."""
        if self.server.access.is_own_origin(self.headers.get("Origin"), self.headers.get("Host") or ""):
            return True
        self.send_json_error(
            403, "Another site's page must not do this. Behind a proxy, start the agent with --page-host https://NAME."
        )
        return False

    def is_signed_in(self) -> bool:
        """Whether the request has the token, where one is needed. Sends the error."""
        access = self.server.access
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        tokens = [token.strip()] if scheme.lower() == "bearer" else list(self._cookies(access.cookie))
        if not access.digest or any(access.allows(one) for one in tokens):
            return True
        self.send_json_error(401, "A token is needed.", **{"WWW-Authenticate": "Bearer"})
        return False

    def _cookies(self, name: str) -> Iterator[str]:
        """The values of the cookie. http.cookies fails on cookies that other services of this host may have set."""
        for header in self.headers.get_all("Cookie", ()):
            for part in header.split(";"):
                key, _, value = part.partition("=")
                if key.strip() == name:
                    yield value.strip()

    def read_object(self) -> dict[str, Any] | None:
        """The JSON object in the body. None if there is none; then the error is sent."""
        length = self.headers.get("Content-Length") or ""
        if (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower() != "application/json":
            self.send_json_error(415, "Content-Type must be application/json.")
        elif not (length.isascii() and length.isdecimal()):
            self.send_json_error(411, "Content-Length is needed.")
        elif int(length) > BODY_BYTES:
            self.send_json_error(413, f"The body has more than {BODY_BYTES} bytes.")
        else:
            with contextlib.suppress(ValueError, RecursionError):
                body = json.loads(self.rfile.read(int(length)))
                if isinstance(body, dict):
                    return body
            self.send_json_error(400, "The body is not a JSON object.")
        return None

    @property
    def names_camera(self) -> bool:
        return "camera=" in urlsplit(self.path).query

    def camera(self) -> str | None:
        """The camera that the query names, else the first one. None for an unknown one; then the error is sent."""
        cameras = list(self.server.page.channels)
        names = parse_qs(urlsplit(self.path).query, keep_blank_values=True).get("camera", [cameras[0]])
        if len(names) == 1 and names[0] in cameras:
            return names[0]
        self.send_json_error(404, "No such camera.")
        return None

    def query(self, key: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(key, [""])[0]

    def is_gone(self) -> bool:
        """Whether the viewer has closed the connection. While nothing is sent, only reading shows it.

        Anything that the viewer sends is ignored.
        """
        return read_now(self.connection) == b""

    def begin_stream(self, kind: str) -> bool:
        """Send the head of a reply without an end. Returns whether its content is to follow."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        return self.command != "HEAD"

    def send_json(self, code: int, value: object, **headers: str) -> None:
        self.send_content(code, "application/json", json.dumps(value).encode(), **headers)

    def send_json_error(self, code: int, message: str, **headers: str) -> None:
        self.send_json(code, {"error": message}, **headers)

    def send_content(self, code: int, kind: str, body: bytes, **headers: str) -> None:
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
        for name, value in _SECURITY_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()
