"""MJPEG over HTTP, as cheap cameras and ESP32 boards send it: images, one after the other, in one endless response.

FFmpeg reads it too, but through OpenCV it scales every image to the size of the first one, and fills the missing part
of a truncated image with grey.
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

from edge.addresses import Address
from edge.capture.sources.limits import StreamLimits
from sightline.errors import SourceError

MIN_INTERVAL_S = 1 / 240  # between two images: a camera that sends without a pause must not take the whole processor
MAX_LINE_BYTES = 65536
BUFFER_BYTES = 65536


def unverified_tls() -> ssl.SSLContext:
    """TLS without a check of the peer, as FFmpeg does it: a camera's certificate is self-signed."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class BoundedReader(io.RawIOBase):
    """Reads a socket within a total time, so that a camera that sends a byte now and then cannot block it.

    Raises TimeoutError if no byte comes for `idle_s`, and SourceError if bytes come too slowly.

    idle_s: longest wait for a byte.
    """

    def __init__(self, sock: socket.socket, name: str, idle_s: float, transfer_s: float) -> None:
        """name: of the source, for error messages."""
        self.idle_s = idle_s
        self._socket, self._name, self._transfer_s = sock, name, transfer_s
        self.restart()

    def restart(self) -> None:
        """Restart the total time, for the next image."""
        self._until, self._count = time.monotonic() + self._transfer_s, 0

    def makefile(self, mode: str) -> io.BufferedReader:
        """The method of a socket that http.client calls."""
        return io.BufferedReader(self, BUFFER_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        left = self._until - time.monotonic()
        if left <= 0:
            raise SourceError(
                f"{self._name}: the link is too slow: {self._count / 1e6:.2f} MB in {self._transfer_s:g} s, less than "
                "one image. Choose a smaller image or a lower quality in the camera's settings."
            )
        self._socket.settimeout(min(self.idle_s, left + 0.01))
        count = self._socket.recv_into(buffer)
        self._count += count
        return count


class Response(NamedTuple):
    """The response to one request, whose head is read."""

    reader: BoundedReader
    socket: socket.socket
    http: http.client.HTTPResponse

    def close(self) -> None:
        self.http.close()
        self.socket.close()


class MjpegStream:
    """The images of a response. Only the capture thread uses it."""

    def __init__(self, response: Response, boundary: str, name: str, max_image_bytes: int) -> None:
        """name: of the source, for error messages."""
        self._response, self._name, self._max_image_bytes = response, name, max_image_bytes
        self._boundary = boundary.strip("-").encode("latin-1")  # some cameras announce it with its dashes
        self._is_at_head = False
        self._due = 0.0

    def next(self) -> bytes | bytearray:
        """The bytes of the next image. Raises OSError (TimeoutError: no byte in time), and SourceError at the end."""
        now = time.monotonic()
        if now < self._due:
            time.sleep(self._due - now)
        self._due = max(now, self._due) + MIN_INTERVAL_S
        self._response.reader.restart()
        try:
            return self._next()
        except http.client.HTTPException:
            raise self._broken() from None

    def _next(self) -> bytes | bytearray:
        self._bytes_left = self._max_image_bytes
        while not self._is_at_head:
            self._is_at_head = self._is_boundary(self._line())
        length = None
        while line := self._line().strip():
            key, _, value = line.partition(b":")
            digits = value.strip()
            if key.strip().lower() == b"content-length" and digits.isdigit():
                length = int(digits) if len(digits) < 19 else sys.maxsize
        self._is_at_head = False
        return self._exactly(length) if length is not None else self._until_boundary()

    def _exactly(self, length: int) -> bytes:
        if length > self._max_image_bytes:
            raise SourceError(
                f"{self._name}: announces an image of {length} bytes. The maximum is {self._max_image_bytes}."
            )
        data = self._response.http.read(length)
        if len(data) < length:
            raise self._broken()
        return data

    def _until_boundary(self) -> bytearray:
        data = bytearray()
        while not self._is_boundary(line := self._line()):
            data += line
        self._is_at_head = True
        return data

    def _is_boundary(self, line: bytes) -> bool:
        return line.startswith(b"--") and line.lstrip(b"-").startswith(self._boundary)

    def _line(self) -> bytes:
        line = self._response.http.readline(MAX_LINE_BYTES)
        if not line:
            raise self._broken()
        self._bytes_left -= len(line)
        if self._bytes_left < 0:
            raise SourceError(
                f"{self._name}: an image without an end: more than {self._max_image_bytes} bytes. Check that the "
                "address is that of an MJPEG stream."
            )
        return line

    def _broken(self) -> SourceError:
        return SourceError(f"{self._name}: the stream broke off")

    def close(self) -> None:
        self._response.close()


def open_mjpeg(address: Address, name: str, limits: StreamLimits) -> MjpegStream | None:
    """Request an address. None for anything but MJPEG, which FFmpeg may know. Raises OSError and SourceError.

    A password is sent only if the camera asks for Basic authentication. If it asks for Digest, FFmpeg can do that.

    name: of the source, for error messages.
    """
    try:
        response = _get(address, None, name, limits)
        if response.http.status == 401 and address.login and _wants_basic(response.http.msg):
            response.close()
            login = base64.b64encode(address.login.encode()).decode()
            response = _get(address, f"Basic {login}", name, limits)
    except http.client.HTTPException:  # not HTTP, but perhaps something that FFmpeg knows
        return None
    response.reader.idle_s = limits.read_timeout_s
    head = response.http.msg
    boundary = head.get_param("boundary")
    if response.http.status == 200 and head.get_content_maintype() == "multipart" and isinstance(boundary, str):
        return MjpegStream(response, boundary, name, limits.max_image_bytes)
    response.close()
    return None


def _wants_basic(head: Message) -> bool:
    return {value.split()[0].lower() for value in head.get_all("WWW-Authenticate", []) if value.strip()} == {"basic"}


def _get(address: Address, login: str | None, name: str, limits: StreamLimits) -> Response:
    """login: value of the Authorization header."""
    if address.tls:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address.host, address.port, timeout=limits.open_timeout_s, context=unverified_tls()
        )
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=limits.open_timeout_s)
    try:
        connection.request("GET", address.target, headers={"Authorization": login} if login else {})
        reader = BoundedReader(connection.sock, name, limits.open_timeout_s, limits.transfer_s)
        response = http.client.HTTPResponse(reader, method="GET")  # type: ignore[arg-type]
        response.begin()
    except BaseException:
        connection.close()
        raise
    return Response(reader, connection.sock, response)
