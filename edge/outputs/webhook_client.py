"""The HTTP client of the webhook. Only this module knows urllib3, and imports it when the first message is sent."""

from __future__ import annotations

import base64
import http.client
import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge.addresses import AddressError, parse_address
from edge.hide_passwords import without_path
from edge.outputs.durable_sink import payload
from edge.outputs.outbox_file import Message
from sightline import __version__
from sightline.errors import ConfigError

if TYPE_CHECKING:
    import urllib3

REPLY_BYTES = 64 << 10  # of a reply's body, which are read at most
INTERIM = 10  # most replies of 1xx before the final one
REASON_LENGTH = 80
RETRY_AFTER_MAX_S = 3600.0
_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)


@dataclass(frozen=True)
class Receiver:
    """The web server that takes the messages.

    tls: whether it is https.
    path: with the query.
    headers: sent with each message; passwords are among them.
    """

    host: str
    port: int
    tls: bool
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The address for people: without the path, which may be a password."""
        return without_path(f"http{'s' if self.tls else ''}://{self.host}:{self.port}{self.path}")


def parse_receiver(address: str, headers: Mapping[str, str]) -> Receiver:
    """Raises ConfigError, without what may be a password."""
    form = "Write https://HOST/PATH, percent-encoded."
    try:
        parsed = parse_address(address, {"https": 443, "http": 80})
    except AddressError as e:
        raise ConfigError(f"--webhook: not an address: {e}. {form}") from None
    if not parsed.target.isascii() or not address.isprintable() or " " in address:
        raise ConfigError(f"--webhook: not an address: it has a space or another unencoded character. {form}")
    more = dict(headers)
    if parsed.login:
        more["Authorization"] = "Basic " + base64.b64encode(parsed.login.encode()).decode()
    return Receiver(parsed.host, parsed.port, parsed.tls, parsed.target, more)


def parse_headers(lines: tuple[str, ...]) -> dict[str, str]:
    """Read lines of `Name: value`. Raises ConfigError, which names the header and not its value."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
            raise ConfigError(f"--webhook-header {name.strip()!r}: not a header. Write 'Name: value'.")
        headers[name.strip()] = value.strip()
    return headers


@dataclass(frozen=True)
class Reply:
    """retry_after_s: the pause that the receiver asks for, in seconds; 0 = none."""

    status: int
    reason: str
    retry_after_s: float


class SendError(Exception):
    """There is no reply. Its text says why, without a password."""


class Client:
    """Posts messages over one connection, which is reused while the receiver keeps it open. For one thread.

    It follows no redirect and uses no proxy of the environment.
    """

    def __init__(self, receiver: Receiver, timeout_s: float) -> None:
        """timeout_s: longest wait in one step: to connect, to send, or for more of the reply."""
        self._receiver, self._timeout_s = receiver, timeout_s
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._used = False  # the connection has carried a message already

    def post(self, message: Message) -> Reply:
        """Raises SendError."""
        import urllib3

        try:
            try:
                return self._post(message)
            except urllib3.exceptions.ProtocolError as e:
                if not self._used or not isinstance(_cause(e), _STALE):
                    raise
                self.close()  # the receiver may have closed an idle connection: that is no fault
                return self._post(message)
        except (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException) as e:
            raise SendError(self._text(_cause(e))) from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool, self._used = None, False

    def _post(self, message: Message) -> Reply:
        if self._pool is None:
            self._pool = _open_pool(self._receiver, self._timeout_s)
        headers = {"Content-Type": "application/json", "User-Agent": f"sightline/{__version__}",
                   "Idempotency-Key": _header_text(message.key), **self._receiver.headers}  # fmt: skip
        response = self._pool.urlopen(
            "POST", self._receiver.path, payload(message), headers,
            retries=False, redirect=False, preload_content=False, decode_content=False,
        )  # fmt: skip
        self._used = True
        after = response.headers.get("Retry-After", "")
        reply = Reply(
            response.status,
            (response.reason or "")[:REASON_LENGTH],
            min(float(after), RETRY_AFTER_MAX_S) if after.isdecimal() else 0.0,
        )
        size = 0
        while size < REPLY_BYTES and (data := response.read(REPLY_BYTES - size)):
            size += len(data)
        if size == REPLY_BYTES:
            response.close()  # the rest is not read, so the connection cannot carry another message
            self.close()
        else:
            response.release_conn()
        return reply

    def _text(self, error: BaseException) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({error.verify_message})"
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout_s:g} s"
        if isinstance(error, socket.gaierror):
            return "unknown host"
        if isinstance(error, http.client.RemoteDisconnected):
            return "closes the connection without an answer"
        if isinstance(error, http.client.HTTPException):
            return f"does not answer as a web server ({type(error).__name__})"
        return getattr(error, "strerror", None) or type(error).__name__


class _FinalResponse(http.client.HTTPResponse):
    """Skips all interim replies, such as 103 Early Hints. http.client skips 100 only, and returns the others."""

    def begin(self) -> None:
        for _ in range(INTERIM + 1):
            super().begin()
            if not 102 <= self.status < 200:
                return
            self.headers = self.msg = None  # type: ignore[assignment]
        raise http.client.HTTPException("too many interim replies")


def _drop(record: logging.LogRecord) -> bool:
    """A filter for log messages that contain the path, which may be a password: nothing passes."""
    return False


def _open_pool(receiver: Receiver, timeout_s: float) -> urllib3.HTTPConnectionPool:
    import urllib3
    from urllib3.connection import HTTPConnection, HTTPSConnection

    for name in ("urllib3.connectionpool", "urllib3.connection"):
        logging.getLogger(name).addFilter(_drop)
    timeout = urllib3.Timeout(connect=timeout_s, read=timeout_s)
    if receiver.tls:
        context = ssl.create_default_context()
        tls_pool = urllib3.HTTPSConnectionPool(receiver.host, receiver.port, timeout=timeout, ssl_context=context)
        tls_pool.ConnectionCls = type("_TlsConnection", (HTTPSConnection,), {"response_class": _FinalResponse})
        return tls_pool
    pool = urllib3.HTTPConnectionPool(receiver.host, receiver.port, timeout=timeout)
    pool.ConnectionCls = type("_Connection", (HTTPConnection,), {"response_class": _FinalResponse})
    return pool


def _cause(error: BaseException) -> BaseException:
    """The exception of the standard library inside urllib3's own."""
    for _ in range(5):
        inner = error.__cause__ or next((a for a in error.args if isinstance(a, BaseException)), None)
        if inner is None or isinstance(error, OSError | http.client.HTTPException):
            break
        error = inner
    return error


def _header_text(key: str) -> str:
    """The key as ASCII: a camera's name in it may be any text."""
    return key if key.isascii() and key.isprintable() else key.encode("ascii", "backslashreplace").decode("ascii")
