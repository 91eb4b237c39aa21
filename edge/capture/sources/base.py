"""What a source is, for whoever reads one."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.errors import DataError, SourceError
from sightline.images import decode_image
from sightline.preprocess import Frame

Kind = Literal["camera", "stream", "file", "pictures", "test"]


ENOUGH_DAMAGED = 30  # pictures in a row: not a bad moment any more, but a bad camera
LARGEST_PIXELS = 36_000_000  # of a frame; 8K is 33 million


class Source(Protocol):
    """name: for people, without credentials; it may be replaced. where: what it is, for errors. live: it waits for
    nobody (see the package). kind: what it is, however fast it plays. format: what it gives, for people, such as
    `MJPG 1280x720@30`; empty until it is open."""

    name: str
    where: str
    live: bool
    kind: Kind
    format: str

    def open(self) -> None:
        """Raises SourceError (a camera, exit code 3) or InputError (a file, exit code 2)."""

    def read(self, buffer: Frame | None) -> Frame | None:
        """The next frame, uint8 [height, width, 3] in BGR; None at the end. It may lie in `buffer`, an earlier one that
        nobody needs any more.

        Raises SourceError when a camera fails, DataError for one picture that cannot be read (the next may), InputError
        for a clip that ends before its end.
        """

    def close(self) -> None:
        """May be called at any time, and twice."""


def checked(frame: NDArray[Any], name: str) -> Frame:
    """The frame, uint8 [height, width, 3] of at most `LARGEST_PIXELS`. Raises SourceError for anything else."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise SourceError(f"{name}: gives frames of {frame.dtype} {list(frame.shape)}; 8-bit colour is needed")
    if frame.shape[0] * frame.shape[1] > LARGEST_PIXELS:
        raise SourceError(f"{name}: gives {frame.shape[1]}x{frame.shape[0]} pixels; {LARGEST_PIXELS} are the limit")
    return frame


class JpegDecoder:
    """The pictures of one camera. Raises DataError for a damaged one, and SourceError when only such ones come.

    Half a picture is damaged, too: OpenCV's own captures give it with grey where it is cut off.
    """

    def __init__(self, name: str) -> None:
        self._name, self._damaged = name, 0

    def __call__(self, data: bytes | bytearray) -> Frame:
        try:
            if data and data[:2] != b"\xff\xd8":
                raise DataError(f"{self._name}: not a JPEG")
            frame = decode_image(data, self._name, LARGEST_PIXELS)
        except DataError:
            self._damaged += 1
            if self._damaged >= ENOUGH_DAMAGED:
                raise SourceError(
                    f"{self._name}: {self._damaged} damaged pictures in a row; is it the cable?"
                ) from None
            raise
        self._damaged = 0
        return frame
