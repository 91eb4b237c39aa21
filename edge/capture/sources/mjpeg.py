"""MJPEG over HTTP, as cheap cameras and ESP32 boards speak it: pictures, one after the other, in one endless answer.

FFmpeg reads it too, but through OpenCV squeezes every picture into the size of the first, and fills what is missing of
one with grey.
"""

from __future__ import annotations

import base64
import http.client
import io
import socket
import ssl
import sys
import time
from email.message import Message
from typing import NamedTuple

from sightline.errors import SourceError

LARGEST = 16 << 20  # bytes of a picture, with all that stands around it
WHOLE_S = 8.0  # for all of an answer's head, and for all of a picture
SHORTEST_S = 1 / 240  # between two pictures: a camera that sends without a pause does not take the processor for itself
_LINE = 65536


class Address(NamedTuple):
    """login: `user:password`, or empty. target: path and query."""

    tls: bool
    host: str
    port: int
    target: str
    login: str


def unverified() -> ssl.SSLContext:
    """Encrypted, and no proof of who is at the other end, as with FFmpeg: a camera's certificate is its own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class BoundedReader(io.RawIOBase):
    """Reads a socket. A camera that sends a byte now and then keeps nobody waiting: `allow` says how long all may take.

    Raises TimeoutError where nothing comes for `idle_s`, and SourceError where something comes, but too slowly.
    """

    def __init__(self, sock: socket.socket, name: str, idle_s: float) -> None:
        self.idle_s = idle_s
        self._socket, self._name = sock, name
        self.allow(WHOLE_S)

    def allow(self, seconds: float) -> None:
        """From now on, for all that is read until the next call."""
        self._until, self._seconds, self._count = time.monotonic() + seconds, seconds, 0

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client wants of a socket."""
        return io.BufferedReader(self, 65536)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = self._until - time.monotonic()
        if left <= 0:
            raise SourceError(
                f"{self._name}: the link is too slow: {self._count / 1e6:.2f} MB came in {self._seconds:g} s, and no "
                "whole image; a smaller image, or a lower quality, needs less"
            )
        self._socket.settimeout(min(self.idle_s, left + 0.01))
        count = self._socket.recv_into(buffer)
        self._count += count
        return count


class Answer(NamedTuple):
    """To one request."""

    wire: BoundedReader
    socket: socket.socket
    response: http.client.HTTPResponse

    def close(self) -> None:
        self.response.close()
        self.socket.close()


class Pictures:
    """Of an answer that has begun. name: of the source, for errors."""

    def __init__(self, answer: Answer, boundary: str, name: str) -> None:
        self._answer, self._response, self._name = answer, answer.response, name
        self._boundary = boundary.strip("-").encode("latin-1")  # some send it with its dashes, some without
        self._at_head = False
        self._due = 0.0

    def next(self) -> bytes | bytearray:
        """The next one's bytes. Raises OSError (TimeoutError: nothing came in time) and SourceError at the end."""
        now = time.monotonic()
        if now < self._due:
            time.sleep(self._due - now)
        self._due = max(now, self._due) + SHORTEST_S
        self._answer.wire.allow(WHOLE_S)
        try:
            return self._next()
        except http.client.HTTPException:
            raise SourceError(f"{self._name}: the stream broke off") from None

    def _next(self) -> bytes | bytearray:
        self._room = LARGEST
        while not self._at_head:
            self._at_head = self._is_boundary(self._line())
        length = None
        while line := self._line().strip():
            key, _, value = line.partition(b":")
            digits = value.strip()
            if key.strip().lower() == b"content-length" and digits.isdigit():
                length = int(digits) if len(digits) < 19 else sys.maxsize
        self._at_head = False
        return self._exactly(length) if length is not None else self._until_boundary()

    def _exactly(self, length: int) -> bytes:
        if length > LARGEST:
            raise SourceError(f"{self._name}: announces a picture of {length} bytes")
        data = self._response.read(length)
        if len(data) < length:
            raise SourceError(f"{self._name}: the stream broke off")
        return data

    def _until_boundary(self) -> bytearray:
        data = bytearray()
        while not self._is_boundary(line := self._line()):
            data += line
        self._at_head = True
        return data

    def _is_boundary(self, line: bytes) -> bool:
        return line.startswith(b"--") and line.lstrip(b"-").startswith(self._boundary)

    def _line(self) -> bytes:
        line = self._response.readline(_LINE)
        if not line:
            raise SourceError(f"{self._name}: the stream broke off")
        self._room -= len(line)
        if self._room < 0:
            raise SourceError(f"{self._name}: a picture without an end; is it MJPEG?")
        return line

    def close(self) -> None:
        self._answer.close()


def ask(address: Address, name: str, open_timeout_s: float, read_timeout_s: float) -> Pictures | None:
    """The pictures at an address; None for anything else than MJPEG, for FFmpeg to try. Raises OSError.

    A password goes out only where it is asked for, and as Basic; where the camera wants Digest, FFmpeg knows how.
    """
    try:
        answer = _get(address, None, name, open_timeout_s)
        if answer.response.status == 401 and address.login and _wants_basic(answer.response.msg):
            answer.close()
            login = base64.b64encode(address.login.encode()).decode()
            answer = _get(address, f"Basic {login}", name, open_timeout_s)
    except http.client.HTTPException:  # no HTTP, but perhaps something that FFmpeg knows
        return None
    answer.wire.idle_s = read_timeout_s
    head = answer.response.msg
    boundary = head.get_param("boundary")
    if answer.response.status == 200 and head.get_content_maintype() == "multipart" and isinstance(boundary, str):
        return Pictures(answer, boundary, name)
    answer.close()
    return None


def _wants_basic(head: Message) -> bool:
    return {value.split()[0].lower() for value in head.get_all("WWW-Authenticate", []) if value.strip()} == {"basic"}


def _get(address: Address, login: str | None, name: str, timeout_s: float) -> Answer:
    if address.tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address.host, address.port, timeout=timeout_s, context=unverified()
        )
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", address.target, headers={"Authorization": login} if login else {})
        wire = BoundedReader(connection.sock, name, timeout_s)
        response = http.client.HTTPResponse(wire, method="GET")  # type: ignore[arg-type]
        response.begin()
    except BaseException:
        connection.close()
        raise
    return Answer(wire, connection.sock, response)
