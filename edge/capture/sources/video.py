"""What a clip, a USB camera and a stream share: OpenCV's VideoCapture."""

from __future__ import annotations

import os

import cv2
import numpy as np

from edge.capture.sources.base import checked
from sightline.preprocess import Frame

# FFmpeg prints to stderr what it thinks of each packet; the faults that matter are ours to tell
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# errors alone; bookworm's OpenCV 4.6 has it in another place
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(2)
# a decoder with n threads is n - 1 frames late, and takes the interpreter's cores
os.environ.setdefault("OPENCV_FFMPEG_THREADS", "1")


class Video:
    """where: of the source, for errors. format: set by `_negotiated`, once it is open."""

    where: str
    format = ""
    _capture: cv2.VideoCapture | None = None

    @property
    def _opened(self) -> cv2.VideoCapture:
        assert self._capture is not None, "read before open"
        return self._capture

    def _negotiated(self) -> str:
        """What the capture gives, as it says itself: FourCC, size, frames a second."""
        get = self._opened.get
        fourcc = (int(get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
        code = fourcc.strip() if fourcc.isprintable() else "video"
        fps = get(cv2.CAP_PROP_FPS)
        size = f"{get(cv2.CAP_PROP_FRAME_WIDTH):.0f}x{get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"
        return f"{code} {size}" + (f"@{fps:.4g}" if fps > 0 else "")

    def _next(self, buffer: Frame | None) -> Frame | None:
        ok, frame = self._opened.read(buffer)
        return checked(np.asarray(frame), self.where) if ok else None

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
