"""USB cameras and other /dev/video devices of Linux: V4L2, through OpenCV."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from edge.capture.sources.base import JpegDecoder, Kind, check_frame
from edge.capture.sources.video import Video
from sightline.device_config import DeviceConfig
from sightline.errors import SourceError
from sightline.preprocess import Frame

READ_TIMEOUT_S = 3
# OpenCV's default is 10 s for a frame; it reads this variable when it waits for the first time
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(READ_TIMEOUT_S))
BUFFERS = 2  # one is filled while the other is read; more would only hold older frames
DEVICES = Path("/dev")

# <linux/videodev2.h>
_QUERYCAP = 0x80685600
_CAPABILITY = struct.Struct("16s32s32s6I")  # driver, card, bus, version, capabilities, device_caps, reserved
_CAPTURE = 0x00000001 | 0x00001000  # VIDEO_CAPTURE, VIDEO_CAPTURE_MPLANE
_DEVICE_CAPS = 0x80000000  # device_caps is about this node, capabilities about the whole device
RASPBERRY_PI_PORT = ("unicam", "rp1-cfe")  # drivers of the ribbon cable's port: raw sensor data, no images


class Node(NamedTuple):
    """The kernel's description of one /dev/video device.

    driver: name of the driver.
    card: name of the device.
    captures: whether it delivers images.
    """

    driver: str
    card: str
    captures: bool


def ask(path: Path) -> Node:
    """Query the kernel. Raises OSError for a missing or forbidden device, and for no V4L2 device (ENOTTY)."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        reply = fcntl.ioctl(fd, _QUERYCAP, bytes(_CAPABILITY.size))
    finally:
        os.close(fd)
    driver, card, _, _, capabilities, device_caps, *_ = _CAPABILITY.unpack(reply)
    caps = device_caps if capabilities & _DEVICE_CAPS else capabilities
    driver, card = (text.split(b"\0")[0].decode("utf-8", "replace") for text in (driver, card))
    return Node(driver, card, bool(caps & _CAPTURE))


def camera_list(devices: Path = DEVICES) -> str:
    """This machine's cameras, for an error message."""
    cameras = []
    for path in sorted(devices.glob("video*"), key=lambda p: (len(p.name), p.name)):
        try:
            node = ask(path)
        except OSError as e:
            cameras.append(f"{path} ({e.strerror})")
            continue
        if node.captures:
            cameras.append(f"{path} ({node.card})")
    return ", ".join(cameras) or "none"


class Camera(Video):
    """A V4L2 camera by number or path.

    It requests MJPG: raw YUYV at 720p is limited to 10 frames a second by USB 2.
    """

    live = True
    kind: Kind = "camera"

    def __init__(self, device: str, config: DeviceConfig, *, devices: Path = DEVICES) -> None:
        """devices: folder whose cameras an error message lists."""
        self.config, self._devices = config, devices
        self.path = Path(f"/dev/video{device}" if device.isdecimal() else device)
        self.where = self.name = str(self.path)

    def open(self) -> None:
        if not self.path.exists():
            raise SourceError(f"{self.where}: no such camera. Cameras of this machine: {camera_list(self._devices)}")
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise SourceError(f"{self.where}: {self._why_not()}")
        c = self.config
        # a camera that refuses one of these keeps its own setting, and `format` shows it. OpenCV restarts the stream
        # after each of them but the rate, and then forgets that a rate can be a fraction: the rate comes last
        for setting, value in (
            (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
            (cv2.CAP_PROP_FRAME_WIDTH, c.camera_width),
            (cv2.CAP_PROP_FRAME_HEIGHT, c.camera_height),
            (cv2.CAP_PROP_BUFFERSIZE, BUFFERS),
            (cv2.CAP_PROP_FPS, c.camera_fps),
        ):
            self._capture.set(setting, value)
        if not self._capture.isOpened():
            raise SourceError(f"{self.where}: {self._why_not()}")
        self.format = self._negotiated()
        # for a damaged image OpenCV returns the one before, or grey where it is cut off, without an error
        jpeg = self.format.startswith("MJPG") and self._capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        self._decode = JpegDecoder(self.where) if jpeg else None

    def read(self, buffer: Frame | None) -> Frame | None:
        if not self._opened.grab():
            raise SourceError(f"{self.where}: no frame. It may be unplugged, or its USB port lacks power or bandwidth.")
        if self._decode is not None:
            ok, data = self._opened.retrieve()
            return self._decode(data.tobytes() if ok else b"")
        ok, frame = self._opened.retrieve(buffer)
        return check_frame(np.asarray(frame), self.where)

    def _why_not(self) -> str:
        """The reason why it cannot be opened, from the kernel: OpenCV has none."""
        try:
            node = ask(self.path)
        except PermissionError:
            return "this user has no permission to open it. Run `sudo usermod -aG video $USER`, then log in again."
        except OSError as e:
            return f"cannot be opened as a camera ({e.strerror}). Cameras of this machine: {camera_list(self._devices)}"
        if not node.captures:
            return (
                f"belongs to {node.card}, but delivers no images. Cameras of this machine: {camera_list(self._devices)}"
            )
        if node.driver in RASPBERRY_PI_PORT:
            return "is the Raspberry Pi's camera port, which delivers raw sensor data. Use --source picamera."
        return f"{node.card} cannot be opened. Another program may use it: `fuser -v {self.path}` shows which."
