"""USB cameras, and whatever else Linux shows as /dev/video: V4L2, through OpenCV."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge.capture.sources.base import JpegDecoder, Kind, checked
from edge.capture.sources.video import Video
from sightline.device import DeviceConfig
from sightline.errors import SourceError
from sightline.preprocess import Frame

READ_TIMEOUT_S = 3
# OpenCV waits 10 s for a frame by default; it asks for this when it waits for the first time
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(READ_TIMEOUT_S))
BUFFERS = 2  # one is filled while the other is read; more of them only hold older frames
DEVICES = Path("/dev")

# <linux/videodev2.h>
_QUERYCAP = 0x80685600
_CAPABILITY = struct.Struct("16s32s32s6I")  # driver, card, bus, version, capabilities, device_caps, reserved
_CAPTURE = 0x00000001 | 0x00001000  # VIDEO_CAPTURE, VIDEO_CAPTURE_MPLANE
_DEVICE_CAPS = 0x80000000  # device_caps speaks for this node, capabilities for the whole device
RASPBERRY_PI_PORT = ("unicam", "rp1-cfe")  # drivers of the ribbon cable's port: raw sensor data, no pictures


class Node(NamedTuple):
    """What the kernel says of one /dev/video. captures: it is one that pictures come from."""

    driver: str
    card: str
    captures: bool


def ask(path: Path) -> Node:
    """Raises OSError: not there, not allowed, or no V4L2 device at all (ENOTTY)."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        answer = fcntl.ioctl(fd, _QUERYCAP, bytes(_CAPABILITY.size))
    finally:
        os.close(fd)
    driver, card, _, _, capabilities, device_caps, *_ = _CAPABILITY.unpack(answer)
    caps = device_caps if capabilities & _DEVICE_CAPS else capabilities
    driver, card = (text.split(b"\0")[0].decode("utf-8", "replace") for text in (driver, card))
    return Node(driver, card, bool(caps & _CAPTURE))


def cameras() -> str:
    """Those that this machine has, for people."""
    found = []
    for path in sorted(DEVICES.glob("video*"), key=lambda p: (len(p.name), p.name)):
        try:
            node = ask(path)
        except OSError as e:
            found.append(f"{path} ({e.strerror})")
            continue
        if node.captures:
            found.append(f"{path} ({node.card})")
    return ", ".join(found) or "none"


class Camera(Video):
    """A V4L2 camera by number or path. MJPG is asked for: raw YUYV at 720p is 10 frames a second over USB 2."""

    live = True
    kind: Kind = "camera"

    def __init__(self, device: str, config: DeviceConfig) -> None:
        self.config = config
        self.path = Path(f"/dev/video{device}" if device.isdecimal() else device)
        self.where = self.name = str(self.path)

    def open(self) -> None:
        if not self.path.exists():
            raise SourceError(f"{self.where}: no such camera; those that this machine has: {cameras()}")
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(f"{self.where}: {self._why_not()}")
        c = self.config
        # a camera that refuses one of these gives what it has: `format` says what that is. OpenCV starts anew with
        # each but the rate, and forgets then that a rate can be a fraction: it comes last
        for wish, value in (
            (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
            (cv2.CAP_PROP_FRAME_WIDTH, c.camera_width),
            (cv2.CAP_PROP_FRAME_HEIGHT, c.camera_height),
            (cv2.CAP_PROP_BUFFERSIZE, BUFFERS),
            (cv2.CAP_PROP_FPS, c.camera_fps),
        ):
            self._capture.set(wish, value)
        if not self._capture.isOpened():
            raise SourceError(f"{self.where}: {self._why_not()}")
        self.format = self._negotiated()
        # of a picture that is damaged OpenCV gives the one before, or grey where it is cut off, and says nothing
        jpeg = self.format.startswith("MJPG") and self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        self._decode = JpegDecoder(self.where) if jpeg else None

    def read(self, buffer: Frame | None) -> Frame | None:
        if not self._opened.grab():
            raise SourceError(f"{self.where}: gives no frame; unplugged, or not enough power or room on its USB?")
        if self._decode is not None:
            ok, data = self._opened.retrieve()
            return self._decode(data.tobytes() if ok else b"")
        ok, frame = self._opened.retrieve(buffer)
        return checked(np.asarray(frame), self.where)

    def _why_not(self) -> str:
        """OpenCV says only that it could not: ask the kernel."""
        try:
            node = ask(self.path)
        except PermissionError:
            return "this user may not open it: `sudo usermod -aG video $USER`, then log in again"
        except OSError as e:
            return f"cannot be opened as a camera ({e.strerror}); those that this machine has: {cameras()}"
        if not node.captures:
            return f"belongs to {node.card}, but no pictures come from it; those that do: {cameras()}"
        if node.driver in RASPBERRY_PI_PORT:
            return "is the Raspberry Pi's camera port, which gives raw sensor data; take --source picamera"
        return f"{node.card} cannot be opened; in use by another program? `fuser -v {self.path}` says by which"
