"""OpenCV's VideoCapture, which clips, USB cameras and streams share."""

from __future__ import annotations

import os

import cv2
import numpy as np

from edge.capture.sources.base import check_frame
from sightline.preprocess import Frame

# FFmpeg prints a line to stderr for each bad packet; the sources report the faults that matter
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# log errors only; Debian 12's OpenCV 4.6 has the function in another place
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(2)
# a decoder with n threads is n - 1 frames late, and takes the interpreter's cores
os.environ.setdefault("OPENCV_FFMPEG_THREADS", "1")


class Video:
    """Base class of the sources that read with OpenCV.

    where: see `Source`.
    format: see `Source`; a subclass sets it from `_negotiated` in `open`.
    """

    where: str
    format = ""
    _capture: cv2.VideoCapture | None = None

    @property
    def decoder_threads(self) -> int:
        """Number of threads that FFmpeg decodes with."""
        return int(self._opened.get(cv2.CAP_PROP_N_THREADS))

    @property
    def _opened(self) -> cv2.VideoCapture:
        assert self._capture is not None, "read before open"
        return self._capture

    def _negotiated(self) -> str:
        """FourCC, size and frames a second, as the open capture reports them."""
        get = self._opened.get
        fourcc = (int(get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
        code = fourcc.strip() if fourcc.isprintable() else "video"
        fps = get(cv2.CAP_PROP_FPS)
        size = f"{get(cv2.CAP_PROP_FRAME_WIDTH):.0f}x{get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"
        return f"{code} {size}" + (f"@{fps:.4g}" if fps > 0 else "")

    def _next(self, buffer: Frame | None) -> Frame | None:
        ok, frame = self._opened.read(buffer)
        return check_frame(np.asarray(frame), self.where) if ok else None

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
