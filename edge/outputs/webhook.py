"""Webhook: each promised message is POSTed as JSON, in order, until the receiver has said 2xx.

`Idempotency-Key` is the message's key. A message that the receiver cannot read (400, 409, 413, 414, 422) is not sent
again, and counted. Any other answer is about the receiver or the address, not about this message: it stays in the
outbox and is tried for ever, with growing pauses. So a token that ran out or a server that moved costs nothing.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.addresses import AddressError, parse_address
from edge.credentials import without_path
from edge.outputs.durable_sink import FLUSH_S, DurableSink, payload
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.send_filter import SendMode
from sightline import __version__
from sightline.backoff import Backoff
from sightline.errors import ConfigError

TIMEOUT_S = 10.0
BACKOFF_S, BACKOFF_MAX_S = 0.5, 60.0
ANSWER = 64 << 10  # bytes of an answer that are read, at most
INTERIM = 10  # answers of 1xx before the one that counts, at most
REFUSED = (400, 409, 413, 414, 422)  # what is wrong is this message
HINTS = {401: "check the token or password", 403: "check the token or password", 407: "the proxy wants a password",
         404: "check the address", 405: "check the address", 410: "check the address"}  # fmt: skip


@dataclass(frozen=True)
class Receiver:
    """tls: https. path: with its query. headers: sent with each message, passwords among them."""

    host: str
    port: int
    tls: bool
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """For people: the path may be a password."""
        return without_path(f"http{'s' if self.tls else ''}://{self.host}:{self.port}{self.path}")


def parse_receiver(address: str, headers: Mapping[str, str]) -> Receiver:
    """Raises ConfigError, without what may be a password."""
    hint = "Write https://host/path, percent-encoded."
    try:
        parsed = parse_address(address, {"https": 443, "http": 80})
    except AddressError as e:
        raise ConfigError(f"--webhook: not a valid address: {e}. {hint}") from None
    if not parsed.target.isascii() or not address.isprintable() or " " in address:
        raise ConfigError(f"--webhook: not a valid address: it has a space or another unencoded character. {hint}")
    more = dict(headers)
    if parsed.login:
        more["Authorization"] = "Basic " + base64.b64encode(parsed.login.encode()).decode()
    return Receiver(parsed.host, parsed.port, parsed.tls, parsed.target, more)


def parse_headers(lines: tuple[str, ...]) -> dict[str, str]:
    """`Name: value` each. Raises ConfigError, which names the header and not its value."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
            raise ConfigError(f"--webhook-header {name.strip()!r}: not as 'Name: value'")
        headers[name.strip()] = value.strip()
    return headers


class Webhook(DurableSink):
    def __init__(self, receiver: Receiver, outbox: Outbox, what: SendMode, **options: Any) -> None:
        super().__init__("webhook", outbox, what, **options)
        self._receiver = receiver
        self._connection: http.client.HTTPConnection | None = None
        self._used = False

    def _send_all(self) -> None:
        until, last, backoff = 0.0, 0, Backoff(BACKOFF_S, BACKOFF_MAX_S)
        while True:
            if self._closing.is_set():
                until = until or time.monotonic() + FLUSH_S
                if backoff.failures or time.monotonic() >= until:
                    break
            newest = self.outbox.newest(self.name)
            messages = self.outbox.take(self.name, last, 1)
            if not messages:
                if self._closing.is_set():
                    break
                with self.outbox.changed:
                    if self.outbox.newest(self.name) == newest and not self._closing.is_set():
                        self.outbox.changed.wait(1.0)
                continue
            pause = self._deliver(messages[0])
            if pause is None:
                backoff.reset()
                last = messages[0].id
                continue
            self._hang_up()
            self.outbox.release(self.name)
            self._closing.wait(max(pause, backoff.next_s()))
        self._hang_up()

    def _deliver(self, message: Message) -> float | None:
        """None when it is done with; else seconds that the receiver wants to be left alone, at least."""
        where = self._receiver.where
        try:
            try:
                status, reason, retry_after = self._post(message)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                if not self._used:
                    raise
                self._hang_up()  # a connection that was kept may be closed by now: that is no fault
                status, reason, retry_after = self._post(message)
        except (OSError, http.client.HTTPException) as e:
            self.failed = f"{where}: {_why(e)}"
            return 0.0
        if not 200 <= status < 300 and status not in REFUSED:
            hint = "give --webhook its new address" if 300 <= status < 400 else HINTS.get(status)
            self.failed = f"{where}: answers {status} {reason}{f'; {hint}' if hint else ''}"
            return retry_after
        if status in REFUSED:
            # to keep it would keep all others
            self.refused += 1
            self.failed = f"{where}: refuses with {status} {reason}; {self.refused} messages were not taken"
        else:
            self.sent += 1
            self.failed = None
        self.outbox.delete(self.name, [message.id])
        return None

    def _post(self, message: Message) -> tuple[int, str, float]:
        r = self._receiver
        if self._connection is None:
            if r.tls:
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(r.host, r.port, timeout=TIMEOUT_S, context=context)
            else:
                self._connection = http.client.HTTPConnection(r.host, r.port, timeout=TIMEOUT_S)
        headers = {"Content-Type": "application/json", "User-Agent": f"sightline/{__version__}",
                   "Idempotency-Key": _header(message.key), **r.headers}  # fmt: skip
        self._connection.request("POST", r.path, payload(message), headers)
        with self._connection.getresponse() as answer:
            self._used = True
            for _ in range(INTERIM):
                if not 102 <= answer.status < 200:
                    break
                # such as 103 Early Hints: the library knows 100 only, and takes the others for the answer itself
                answer.headers = answer.msg = None  # type: ignore[assignment]
                answer.begin()
            if len(answer.read(ANSWER)) == ANSWER or answer.will_close:
                self._hang_up()
            after = answer.getheader("Retry-After") or ""
            return answer.status, answer.reason[:80], min(float(after), 3600.0) if after.isdecimal() else 0.0

    def _hang_up(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.close()
            self._connection, self._used = None, False


def _header(key: str) -> str:
    """A camera's name is any text, a header is not."""
    return key if key.isascii() and key.isprintable() else key.encode("ascii", "backslashreplace").decode("ascii")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not one that is trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, http.client.RemoteDisconnected):
        return "takes the message and hangs up"
    if isinstance(error, http.client.HTTPException):
        return f"does not answer as a web server ({type(error).__name__})"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
