"""Network cameras: RTSP, and MJPEG or anything else that FFmpeg reads over HTTP."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import cv2

from edge.addresses import Address, AddressError, parse_address
from edge.capture.sources.base import JpegDecoder, Kind
from edge.capture.sources.limits import DEFAULT_LIMITS, StreamLimits
from edge.capture.sources.video import Video
from edge.hide_passwords import without_credentials
from sightline.errors import DataError, InputError, SourceError
from sightline.preprocess import Frame

if TYPE_CHECKING:
    import socket

    from edge.capture.sources.mjpeg import MjpegStream

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
DIAGNOSIS_TIMEOUT_S = 1.0  # for each step that finds out why a camera cannot be opened
FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # environment variable


class Stream(Video):
    """A network camera. An HTTP address is checked for MJPEG first, which is read here. FFmpeg reads all else.

    The time-outs work only with OpenCV's FFmpeg backend, and only if they are passed at opening. RTSP uses TCP (OpenCV
    asks FFmpeg for `prefer_tcp`). OpenCV scales every frame to the size of the first one, and no property shows that a
    camera has changed its size; most cameras end the session then.
    """

    live = True
    kind: Kind = "stream"
    _mjpeg: MjpegStream | None = None

    def __init__(self, url: str, limits: StreamLimits = DEFAULT_LIMITS) -> None:
        """Raises InputError for an invalid address."""
        self.url, self._limits = url, limits
        self.where = self.name = without_credentials(url)
        try:
            address = parse_address(url, DEFAULT_PORTS)
        except AddressError as e:
            raise InputError(
                f"{self.where}: not a valid address: {e}. Write rtsp://HOST/PATH, and escape /, ?, # and @ in a "
                "password as %2F, %3F, %23 and %40."
            ) from None
        path, query = (quote(text, safe="/?&=%:;,@+$!*'()~[]") for text in (address.path, address.query))
        self._address: Address = replace(address, path=path, query=query)

    def open(self) -> None:
        self.close()
        began = time.monotonic()
        # a user who sets FFmpeg's options, such as the check of certificates, needs FFmpeg
        is_http = self._address.scheme in ("http", "https")
        if is_http and FFMPEG_OPTIONS not in os.environ and self._open_mjpeg(began):
            return
        self._capture = cv2.VideoCapture(
            self.url,
            cv2.CAP_FFMPEG,
            [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * self._limits.open_timeout_s),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * self._limits.read_timeout_s),
            ],
        )  # fmt: skip
        if not self._capture.isOpened():
            raise SourceError(f"{self.where}: {self._diagnose(time.monotonic() - began)}")
        self.format = self._negotiated()

    def _open_mjpeg(self, began: float) -> bool:
        """Whether it is MJPEG; then its first image is read."""
        from edge.capture.sources.mjpeg import open_mjpeg  # http.client costs 15 ms, which other sources need not pay

        try:
            self._mjpeg = open_mjpeg(self._address, self.where, self._limits)
            if self._mjpeg is None:
                return False
            self._decode = JpegDecoder(self.where)
            self._first: Frame | None = None
            while self._first is None:
                with contextlib.suppress(DataError):
                    self._first = self._decode(self._mjpeg.next())
        except OSError:
            raise SourceError(f"{self.where}: {self._diagnose(time.monotonic() - began)}") from None
        self.format = f"MJPG {self._first.shape[1]}x{self._first.shape[0]}"
        return True

    def read(self, buffer: Frame | None) -> Frame | None:
        fault = f"{self.where}: the stream broke off, or sent nothing for {self._limits.read_timeout_s:.0f} s"
        if self._mjpeg is None:
            frame = self._next(buffer)
            if frame is None:
                raise SourceError(fault)
            return frame
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        try:
            data = self._mjpeg.next()
        except OSError:
            raise SourceError(fault) from None
        return self._decode(data)

    def close(self) -> None:
        super().close()
        if self._mjpeg is not None:
            self._mjpeg.close()
            self._mjpeg = None

    def _diagnose(self, seconds: float) -> str:
        """Why it cannot be opened: the network, the camera or the password. OpenCV has no reason.

        seconds: duration of the failed attempt.
        """
        import socket

        where = self._address.netloc
        try:
            connection = socket.create_connection((self._address.host, self._address.port), timeout=DIAGNOSIS_TIMEOUT_S)
        except OSError as e:
            return f"no answer from {where} ({e.strerror or e}). Check that the camera is on and the address is right."
        with connection:
            if seconds >= self._limits.open_timeout_s:
                return f"{where} accepts connections, but sent no image within {self._limits.open_timeout_s:.0f} s."
            status = self._status(connection)
        if status is None:
            return f"{where} does not use TLS. Try {self._address.scheme.rstrip('s')}://."
        if status.startswith("401"):
            return f"{where} requires a user and a password. Check both."
        if status.startswith("404"):
            return f"{where} has no {urlsplit(self.where).path or '/'}. The camera's manual has the path."
        if self._address.tls and "verify" in os.environ.get(FFMPEG_OPTIONS, ""):
            return f"{where} answers, but sends no stream. Check that {FFMPEG_OPTIONS} names its certificate."
        reply = f" ({status})" if status and not status.startswith("200") else ""
        return f"{where} answers, but sends no stream{reply}. Check the path, the user and the password."

    def _status(self, connection: socket.socket) -> str | None:
        """Status code and reason of a request without a password, such as `401 Unauthorized`.

        Empty for an unknown reply. None if the address has TLS and the camera has none.
        """
        address = self._address
        if address.tls:
            from edge.capture.sources.mjpeg import unverified_tls

            try:
                connection = unverified_tls().wrap_socket(connection, server_hostname=address.host)
            except OSError:
                return None
        if address.scheme.startswith("rtsp"):
            url = f"{address.scheme}://{address.netloc}{address.target}"
            request = f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
        else:
            request = f"GET {address.target} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n"
        with connection, contextlib.suppress(OSError):
            connection.sendall(request.encode())
            protocol, _, status = connection.recv(512).partition(b"\r\n")[0].decode("latin-1").partition(" ")
            return status if protocol[:5] in ("RTSP/", "HTTP/") and status.isprintable() else ""
        return ""
