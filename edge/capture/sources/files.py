"""Replays: video files, pictures, and folders of pictures."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from edge.capture.sources.base import Kind
from edge.capture.sources.video import Video
from sightline.errors import InputError
from sightline.images import SUFFIXES, read_image
from sightline.preprocess import Frame


class Clip(Video):
    """A video file. realtime: as a camera would show it, at its own speed; otherwise as fast as it is taken."""

    kind: Kind = "file"

    def __init__(self, path: Path, *, realtime: bool, loop: bool) -> None:
        self.path, self.live, self.loop = path, realtime, loop
        self.where = self.name = path.name

    def open(self) -> None:
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError(f"{self.path}: not a video that can be decoded, or cut off; `ffprobe` says more")
        self.format = self._negotiated()
        self._promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._fps = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._given = 0
        self._started = time.monotonic()

    def moment_ns(self, frame_id: int) -> int:
        """By the clip's own rate; never 0."""
        return int((frame_id + 1) / self._fps * 1e9)

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
    kind: Kind = "pictures"
    format = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = self.name = path.name or str(path)

    def open(self) -> None:
        if self.path.is_file():
            self._paths = [self.path]
            return
        self._paths = sorted(p for p in self.path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not self._paths:
            raise InputError(f"{self.path}: no pictures in this folder (known endings: {', '.join(SUFFIXES)})")
        self.format = f"{len(self._paths)} pictures"
        self._paths.reverse()

    def read(self, buffer: Frame | None) -> Frame | None:
        return read_image(self._paths.pop()) if self._paths else None

    def close(self) -> None:
        pass
