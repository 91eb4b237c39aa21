"""What every source offers to the capture thread, and what several sources share."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DataError, SourceError
from sightline.images import decode_image
from sightline.preprocess import Frame

Kind = Literal["camera", "stream", "file", "images", "test"]

MAX_DAMAGED_IMAGES = 30  # in a row; more of them are a bad camera or cable, not a bad moment
MAX_FRAME_PIXELS = 36_000_000  # an 8K frame has 33 million


class Source(Protocol):
    """A camera, stream, clip or folder.

    Threads: the capture thread alone calls `open`, `read` and `close`. Other threads read the fields. Only `format`
    changes after construction; it is one string, so a reader gets the old or the new one.

    name: name for people, without credentials; callers may replace it.
    where: device, path or address for error messages, without credentials.
    live: whether it does not wait: frames not taken in time are lost, and it may come back after a fault.
    kind: what it is, at whatever speed it plays.
    format: pixel format, size and rate for people, such as `MJPG 1280x720@30`; empty until it is open.
    """

    name: str
    where: str
    live: bool
    kind: Kind
    format: str

    def open(self) -> None:
        """Raises SourceError (a camera, exit code 3) or InputError (a file, exit code 2)."""

    def read(self, buffer: Frame | None) -> Frame | None:
        """The next frame, uint8 [height, width, 3] in BGR; None at the end.

        buffer: an earlier frame whose memory may be reused.
        Raises SourceError when a camera fails, DataError for one damaged image (the next may be good), and InputError
        for a clip that is cut off.
        """

    def close(self) -> None:
        """May be called at any time, and twice."""


def check_frame(frame: NDArray[Any], name: str) -> Frame:
    """The frame, if it is uint8 [height, width, 3] with at most `MAX_FRAME_PIXELS`. Otherwise raises SourceError."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise SourceError(
            f"{name}: the frames are {frame.dtype} {list(frame.shape)}, not 8-bit colour. Choose another camera mode."
        )
    if frame.shape[0] * frame.shape[1] > MAX_FRAME_PIXELS:
        size = f"{frame.shape[1]}x{frame.shape[0]}"
        raise SourceError(f"{name}: the frames are too large: {size}. The maximum is {MAX_FRAME_PIXELS} pixels.")
    return frame


class JpegDecoder:
    """Decodes the JPEG images of one camera. Only the capture thread calls it.

    Raises DataError for a damaged image, and SourceError after `MAX_DAMAGED_IMAGES` of them in a row. A truncated image
    counts as damaged too; OpenCV's own captures fill the missing part with grey.
    """

    def __init__(self, name: str) -> None:
        """name: of the source, for error messages."""
        self._name, self._damaged = name, 0

    def __call__(self, data: bytes | bytearray) -> Frame:
        try:
            if data and data[:2] != b"\xff\xd8":
                raise DataError(f"{self._name}: not a JPEG image")
            frame = decode_image(data, self._name, MAX_FRAME_PIXELS)
        except DataError:
            self._damaged += 1
            if self._damaged >= MAX_DAMAGED_IMAGES:
                raise SourceError(f"{self._name}: {self._damaged} damaged images in a row. Check the cable.") from None
            raise
        self._damaged = 0
        return frame
