"""Where frames come from: clips, pictures, cameras, streams and a test pattern. OpenCV's video side is known here only.

A source that is `live` does not wait for anybody: frames that nobody took are lost, and it may come back after a fault.
Any other is a replay: it gives every frame, the same ones each time, and then ends.
"""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import cv2
import numpy as np

from sightline.device import DeviceConfig
from sightline.errors import InputError, SourceError
from sightline.images import SUFFIXES, read_image
from sightline.preprocess import Frame

# FFmpeg prints to stderr what it thinks of each packet; the faults that matter are ours to tell
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

OPEN_TIMEOUT_MS = 5000
READ_TIMEOUT_MS = 3000
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


class Source(Protocol):
    """name: for people, without credentials. live: see above."""

    name: str
    live: bool

    def open(self) -> None:
        """Raises SourceError (a camera, exit code 3) or InputError (a file, exit code 2)."""

    def read(self, buffer: Frame | None) -> Frame | None:
        """The next frame, uint8 [height, width, 3] in BGR, in `buffer` where that has its size; None at the end.

        Raises SourceError when a camera fails, DataError for one picture that cannot be read (the next may), InputError
        for a clip that ends before its end.
        """

    def close(self) -> None: ...


class _Video:
    """What a clip, a camera and a stream share: OpenCV's capture."""

    _capture: cv2.VideoCapture | None = None

    def _next(self, buffer: Frame | None) -> Frame | None:
        assert self._capture is not None, "read before open"
        ok, frame = self._capture.read(buffer)
        return np.asarray(frame, np.uint8) if ok else None

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()


class Clip(_Video):
    """A video file. realtime: as a camera would show it, at its own speed; otherwise as fast as it is taken."""

    def __init__(self, path: Path, *, realtime: bool, loop: bool) -> None:
        self.path, self.live, self.loop = path, realtime, loop
        self.name = path.name

    def open(self) -> None:
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError(f"{self.path}: not a video that can be decoded, or cut off; `ffprobe` says more")
        self._promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._given = 0
        self._started = time.monotonic()

    def read(self, buffer: Frame | None) -> Frame | None:
        frame = self._next(buffer)
        if frame is None:
            # the header's count is an estimate in some containers: 2 % and two frames short are still the whole clip
            if self._given < self._promised * 0.98 - 2:
                raise InputError(
                    f"{self.path}: ends after {self._given} of the {self._promised} frames that its header promises: "
                    "it is cut off or damaged; copy or record it again"
                )
            if not self.loop or not self._given:
                return None
            self.close()
            self.open()
            return self.read(buffer)
        self._given += 1
        if self.live:
            wait = self._started + self._given / self._fps - time.monotonic()
            if wait > 0:
                time.sleep(wait)
        return frame


class Pictures:
    """A folder of pictures in the order of their names, or one picture."""

    live = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name or str(path)

    def open(self) -> None:
        if self.path.is_file():
            self._paths = [self.path]
            return
        self._paths = sorted(p for p in self.path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not self._paths:
            raise InputError(f"{self.path}: no pictures in this folder (known endings: {', '.join(SUFFIXES)})")
        self._paths.reverse()

    def read(self, buffer: Frame | None) -> Frame | None:
        return read_image(self._paths.pop()) if self._paths else None

    def close(self) -> None:
        pass


class Camera(_Video):
    """A V4L2 camera by number or path. MJPG is asked for: raw YUYV at 720p is 10 frames a second over USB 2."""

    live = True

    def __init__(self, device: str, config: DeviceConfig) -> None:
        self.device, self.config = device, config
        self.name = f"/dev/video{device}" if device.isdigit() else device

    def open(self) -> None:
        if not Path(self.name).exists():
            found = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
            raise SourceError(f"{self.name}: no such camera; those that this machine has: {found}")
        c = self.config
        self._capture = cv2.VideoCapture(
            self.name,
            cv2.CAP_V4L2,
            [
                cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"),
                cv2.CAP_PROP_FRAME_WIDTH, c.camera_width,
                cv2.CAP_PROP_FRAME_HEIGHT, c.camera_height,
                cv2.CAP_PROP_FPS, c.camera_fps,
            ],
        )  # fmt: skip
        if not self._capture.isOpened():
            raise SourceError(
                f"{self.name}: cannot be opened; in use by another program, or this user is not in the group video"
            )

    def read(self, buffer: Frame | None) -> Frame | None:
        frame = self._next(buffer)
        if frame is None:
            raise SourceError(f"{self.name}: gives no frame; unplugged?")
        return frame


class Stream(_Video):
    """RTSP, or MJPEG over HTTP. The time-outs work only with FFmpeg's backend, and only when given at opening."""

    live = True

    def __init__(self, url: str) -> None:
        """Raises InputError for an address that cannot be one."""
        self.url = url
        self.name = without_credentials(url)
        try:
            parts = urlsplit(url)
            self._host, port = parts.hostname, parts.port
        except ValueError as e:
            reason = "" if "'" in str(e) else f": {e}"  # it may quote a part of the password
            raise InputError(
                f"{self.name}: not an address{reason}; escape /, ?, # and @ in a password as %2F .."
            ) from None
        if parts.scheme not in _PORTS or not self._host:
            raise InputError(f"{self.name}: rtsp://HOST/.., rtsps://, http:// or https:// is needed")
        self._port = port or _PORTS[parts.scheme]

    def open(self) -> None:
        self._capture = cv2.VideoCapture(
            self.url,
            cv2.CAP_FFMPEG,
            [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS],
        )
        if not self._capture.isOpened():
            raise SourceError(f"{self.name}: {self._why_not()}")

    def read(self, buffer: Frame | None) -> Frame | None:
        frame = self._next(buffer)
        if frame is None:
            raise SourceError(f"{self.name}: the stream broke off, or gave nothing for {READ_TIMEOUT_MS / 1000:.0f} s")
        return frame

    def _why_not(self) -> str:
        """OpenCV says only that it could not: find out whether it was the network or the camera."""
        where = f"{self._host}:{self._port}"
        try:
            socket.create_connection((self._host, self._port), timeout=2).close()
        except OSError as e:
            return f"nothing answers at {where} ({e.strerror or e}); is the camera on, the address right?"
        return f"{where} answers, but gives no stream; are the path, the user and the password right?"


class TestPattern:
    """`test:` or `test:WIDTHxHEIGHT@FPS`: a moving gradient with a bright square, to try an agent with no camera."""

    live = True

    def __init__(self, what: str) -> None:
        match = re.fullmatch(r"(?:(\d+)x(\d+))?(?:@(\d+))?", what)
        if not match:
            raise InputError(f"test:{what}: write test: or test:WIDTHxHEIGHT@FPS, such as test:1280x720@30")
        width, height, self.fps = (int(g) if g else d for g, d in zip(match.groups(), (640, 480, 30), strict=True))
        if not (16 <= width <= 4096 and 16 <= height <= 4096 and 1 <= self.fps <= 240):
            raise InputError(f"test:{what}: 16 to 4096 pixels a side, at 1 to 240 frames a second")
        self.name = f"test:{width}x{height}@{self.fps}"
        x, y = np.meshgrid(np.arange(2 * width), np.arange(height))
        wave = 127.5 * (1 + np.sin(2 * np.pi * x / width))
        self._wide = np.stack([wave, wave[:, ::-1], y * (255 / height)], axis=2).astype(np.uint8)
        self._width, self._height = width, height

    def open(self) -> None:
        self._given = 0
        self._started = time.monotonic()

    def read(self, buffer: Frame | None) -> Frame | None:
        wait = self._started + self._given / self.fps - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        if buffer is None or buffer.shape != (self._height, self._width, 3):
            buffer = np.empty((self._height, self._width, 3), np.uint8)
        shift = 4 * self._given % self._width
        buffer[:] = self._wide[:, shift : shift + self._width]
        side = min(self._width, self._height) // 6
        left, top = 3 * self._given % (self._width - side), 2 * self._given % (self._height - side)
        buffer[top : top + side, left : left + side] = 240
        self._given += 1
        return buffer

    def close(self) -> None:
        pass


def find_source(what: str, config: DeviceConfig, *, realtime: bool = False, loop: bool = False) -> Source:
    """The source that `--source` names; nothing is opened yet. Raises InputError for what is none."""
    try:
        what.encode()
    except UnicodeEncodeError:  # OpenCV crashes on it
        raise InputError(f"{os.fsencode(what)!r}: this name is not UTF-8; rename it") from None
    if what.startswith("test:"):
        return TestPattern(what.removeprefix("test:"))
    if what.isdigit() or what.startswith("/dev/"):
        return Camera(what, config)
    if "://" in what:
        return Stream(what)
    path = Path(what)
    if (what and path.is_dir()) or (path.is_file() and path.suffix.lower() in SUFFIXES):
        return Pictures(path)
    if path.is_file():
        return Clip(path, realtime=realtime, loop=loop)
    raise InputError(
        f"{what or 'an empty text'}: no such source; it may be a video file, a picture or a folder of them, "
        "a camera (0 or /dev/video0), an address (rtsp://...) or test:"
    )


def without_credentials(url: str) -> str:
    """The address without user and password, and without its query, where cameras put them too.

    A password with an unescaped `/`, `?` or `#` ends the host for a parser: whatever stands before the last `@` goes.
    """
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[?#]', rest.rpartition('@')[2])[0]}"
