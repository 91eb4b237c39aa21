"""The pictures that events began with: JPEG files under a budget, the oldest go first."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from pathlib import Path

import cv2

from sightline.errors import ConfigError
from sightline.files import write_file
from sightline.preprocess import Frame
from sightline.text import slug

QUALITY = 90
_OURS = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[\w-]*-[0-9a-f]{16}\.jpg")


class Snapshots:
    """`keep` copies the frame; a thread encodes and writes it. failed: why the last one was not written; None when it
    was. lost: how many were not."""

    def __init__(self, folder: Path, budget: int) -> None:
        """budget: bytes. Raises ConfigError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # the names begin with the time, so their order is that of their age
            self._files = sorted((p.name, p.stat().st_size) for p in folder.iterdir() if _OURS.fullmatch(p.name))
        except OSError as e:
            raise ConfigError(f"{folder}: cannot be a folder for snapshots: {e.strerror}") from None
        self.folder, self.budget = folder, budget
        self.failed: str | None = None
        self.lost = 0
        self.size = sum(size for _, size in self._files)
        self._queue: queue.Queue[tuple[str, Frame] | None] = queue.Queue(4)
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def keep(self, frame: Frame, at: str, source: str, event: str) -> str:
        """The file's name, which it will have in a moment; '' where the disk does not keep up. at: UTC, ISO 8601."""
        name = f"{at.replace('-', '').replace(':', '')}-{slug(source)}-{event}.jpg"
        if self._queue.full():
            self.lost += 1
            return ""
        self._queue.put((name, frame.copy()))
        return name

    def close(self) -> None:
        with contextlib.suppress(queue.Full):  # a disk that hangs must not keep the agent from ending
            self._queue.put(None, timeout=2)
        self._thread.join(5)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            name, frame = item
            try:
                data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
                self._make_room(len(data))
                write_file(self.folder / name, data)
                self._files.append((name, len(data)))
                self.size += len(data)
                self.failed = None
            except Exception as e:  # a disk that is full today: the next event may have more luck
                self.failed = str(e)
                self.lost += 1

    def _make_room(self, size: int) -> None:
        while self._files and self.size + size > self.budget:
            name, freed = self._files.pop(0)
            (self.folder / name).unlink(missing_ok=True)
            self.size -= freed
