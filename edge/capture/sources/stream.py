"""Network cameras: RTSP, and MJPEG or anything else that FFmpeg reads over HTTP."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import cv2

from edge.capture.sources.base import JpegDecoder, Kind
from edge.capture.sources.video import Video
from edge.credentials import without_credentials
from sightline.errors import DataError, InputError, SourceError
from sightline.preprocess import Frame

if TYPE_CHECKING:
    import socket

    from edge.capture.sources.mjpeg import Pictures

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 3000
_ASK_TIMEOUT_S = 1.0
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_TLS = ("rtsps", "https")
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class Stream(Video):
    """What comes over HTTP is asked first whether it is MJPEG, which is read here; all else is FFmpeg's.

    The time-outs work only with OpenCV's FFmpeg backend, and only when given at opening. RTSP comes over TCP (OpenCV
    asks FFmpeg for `prefer_tcp`). OpenCV scales every frame to the size of the first one, and no property says that a
    camera has changed its size; most end the session then.
    """

    live = True
    kind: Kind = "stream"
    _pictures: Pictures | None = None

    def __init__(self, url: str) -> None:
        """Raises InputError for an address that cannot be one."""
        self.url = url
        self.where = self.name = without_credentials(url)
        try:
            parts = urlsplit(url)
            self._host, port = parts.hostname or "", parts.port
            self._host.encode("idna")  # `camera..local` is an error of its own only when it is looked up
        except ValueError as e:
            reason = "" if "'" in str(e) else f": {e}"  # it may quote a part of the password
            raise InputError(
                f"{self.where}: not an address{reason}; escape /, ?, # and @ in a password as %2F .."
            ) from None
        if parts.scheme not in _PORTS or not self._host:
            raise InputError(f"{self.where}: rtsp://HOST/.., rtsps://, http:// or https:// is needed")
        self._scheme, self._port = parts.scheme, port or _PORTS[parts.scheme]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._target = quote(target, safe="/?&=%:;,@+$!*'()~[]")
        self._login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}" if parts.username else ""

    def open(self) -> None:
        self.close()
        began = time.monotonic()
        # whoever sets FFmpeg's options, such as the check of certificates, wants FFmpeg
        if self._scheme.startswith("http") and _OPTIONS not in os.environ and self._open_mjpeg(began):
            return
        self._capture = cv2.VideoCapture(
            self.url,
            cv2.CAP_FFMPEG,
            [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS],
        )
        if not self._capture.isOpened():
            raise SourceError(f"{self.where}: {self._why_not(time.monotonic() - began)}")
        self.format = self._negotiated()

    def _open_mjpeg(self, began: float) -> bool:
        """Whether it is MJPEG; then its first picture is there."""
        from edge.capture.sources import mjpeg  # http.client costs 15 ms, which other sources need not pay

        address = mjpeg.Address(self._scheme in _TLS, self._host, self._port, self._target, self._login)
        try:
            self._pictures = mjpeg.ask(address, self.where, OPEN_TIMEOUT_MS / 1000, READ_TIMEOUT_MS / 1000)
            if self._pictures is None:
                return False
            self._decode = JpegDecoder(self.where)
            self._first: Frame | None = None
            while self._first is None:
                with contextlib.suppress(DataError):
                    self._first = self._decode(self._pictures.next())
        except OSError:
            raise SourceError(f"{self.where}: {self._why_not(time.monotonic() - began)}") from None
        self.format = f"MJPG {self._first.shape[1]}x{self._first.shape[0]}"
        return True

    def read(self, buffer: Frame | None) -> Frame | None:
        broken = f"{self.where}: the stream broke off, or gave nothing for {READ_TIMEOUT_MS / 1000:.0f} s"
        if self._pictures is None:
            frame = self._next(buffer)
            if frame is None:
                raise SourceError(broken)
            return frame
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        try:
            data = self._pictures.next()
        except OSError:
            raise SourceError(broken) from None
        return self._decode(data)

    def close(self) -> None:
        super().close()
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None

    def _why_not(self, seconds: float) -> str:
        """OpenCV says only that it could not: find out whether it was the network, the camera or the password."""
        import socket

        where = f"{self._host}:{self._port}"
        try:
            connection = socket.create_connection((self._host, self._port), timeout=_ASK_TIMEOUT_S)
        except OSError as e:
            return f"nothing answers at {where} ({e.strerror or e}); is the camera on, the address right?"
        with connection:
            if seconds * 1000 >= OPEN_TIMEOUT_MS:
                return f"{where} takes connections, but sent no picture within {OPEN_TIMEOUT_MS / 1000:.0f} s"
            status = self._status(connection)
        if status is None:
            return f"{where} does not speak TLS; is it {self._scheme.rstrip('s')}://?"
        if status.startswith("401"):
            return f"{where} wants a user and a password; are they right?"
        if status.startswith("404"):
            return f"{where} has no {urlsplit(self.where).path or '/'}; the camera's manual has the path"
        if self._scheme in _TLS and "verify" in os.environ.get(_OPTIONS, ""):
            return f"{where} answers, but gives no stream; is its certificate the one that {_OPTIONS} names?"
        said = f" (it says {status})" if status and not status.startswith("200") else ""
        return f"{where} answers, but gives no stream{said}; are the path, the user and the password right?"

    def _status(self, connection: socket.socket) -> str | None:
        """What the camera says to somebody without a password: status code and reason, such as `401 Unauthorized`;
        empty for anything else. None when there is no TLS where there should be."""
        if self._scheme in _TLS:
            from edge.capture.sources import mjpeg

            try:
                connection = mjpeg.unverified().wrap_socket(connection, server_hostname=self._host)
            except OSError:
                return None
        host = f"[{self._host}]" if ":" in self._host else self._host
        if self._scheme.startswith("rtsp"):
            address = f"{self._scheme}://{host}:{self._port}{self._target}"
            request = f"DESCRIBE {address} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n\r\n"
        else:
            request = f"GET {self._target} HTTP/1.0\r\nHost: {host}:{self._port}\r\n\r\n"
        with connection, contextlib.suppress(OSError):
            connection.sendall(request.encode())
            protocol, _, status = connection.recv(512).partition(b"\r\n")[0].decode("latin-1").partition(" ")
            return status if protocol[:5] in ("RTSP/", "HTTP/") and status.isprintable() else ""
        return ""
