"""Replays: video files, images, and folders of images."""

from __future__ import annotations

import time
from pathlib import Path

import cv2

from edge.capture.sources.base import Kind
from edge.capture.sources.video import Video
from sightline.errors import InputError
from sightline.images import SUFFIXES, read_image
from sightline.preprocess import Frame

DEFAULT_FPS = 25.0  # of a clip whose header has no rate


class Clip(Video):
    """A video file.

    live: play it in real time, as a camera would; otherwise as fast as its frames are taken.
    loop: start again at the end.
    """

    kind: Kind = "file"

    def __init__(self, path: Path, *, realtime: bool, loop: bool) -> None:
        self.path, self.live, self.loop = path, realtime, loop
        self.where = self.name = path.name

    def open(self) -> None:
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise InputError(
                f"{self.path}: not a video that can be decoded, or cut off. Run `ffprobe` on it for details."
            )
        self.format = self._negotiated()
        self._announced_frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._fps = self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS
        self._frames_read = 0
        self._started = time.monotonic()

    def moment_ns(self, frame_id: int) -> int:
        """The frame's time at the clip's own rate, in nanoseconds; never 0."""
        return int((frame_id + 1) / self._fps * 1e9)

    def read(self, buffer: Frame | None) -> Frame | None:
        frame = self._next(buffer)
        if frame is None:
            # some containers only estimate the count in the header: up to 2 % and two frames less is still whole
            if self._frames_read < self._announced_frames * 0.98 - 2:
                raise InputError(
                    f"{self.path}: ends after {self._frames_read} of the {self._announced_frames} frames in its "
                    "header: it is cut off or damaged. Copy or record it again."
                )
            if not self.loop or not self._frames_read:
                return None
            self.close()
            self.open()
            return self.read(buffer)
        self._frames_read += 1
        if self.live:
            wait = self._started + self._frames_read / self._fps - time.monotonic()
            if wait > 0:
                time.sleep(wait)
        return frame


class ImageFolder:
    """The images of a folder and its subfolders in the order of their paths, or one image file."""

    live = False
    kind: Kind = "images"
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
            raise InputError(f"{self.path}: no images in this folder. Supported file types: {', '.join(SUFFIXES)}")
        self.format = f"{len(self._paths)} images"
        self._paths.reverse()

    def read(self, buffer: Frame | None) -> Frame | None:
        return read_image(self._paths.pop()) if self._paths else None

    def close(self) -> None:
        pass
