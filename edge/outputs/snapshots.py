"""The images that events began with: JPEG files within a budget. The oldest are deleted first."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from pathlib import Path

from edge.results.jpeg import encode_jpeg
from sightline.errors import ConfigError
from sightline.files import write_file
from sightline.preprocess import Frame
from sightline.text import slug

JPEG_QUALITY = 90
QUEUE_FRAMES = 4
CLOSE_S = 5.0  # the writer may take at the end
_FILE_NAME = re.compile(r"\d{8}T\d{6}\.\d{3}Z-[\w-]*-[0-9a-f]{16}\.jpg")


class Snapshots:
    """Copies frames, and writes them as JPEG files in a thread of its own.

    Threads: the caller of `put` copies the frame and queues it; the writer thread alone touches the folder and its list
    of files. Only the caller writes `skipped`, only the writer `failed`, `size` and `unwritten`; each is one value that
    others may read at any time.

    failed: why the last snapshot was not written; None if it was.
    skipped: number of snapshots for which the queue had no room.
    unwritten: number of snapshots that could not be encoded or written.
    size: bytes of all snapshots in the folder.
    """

    def __init__(self, folder: Path, budget: int) -> None:
        """Raises ConfigError for a folder that cannot be used.

        budget: maximum size of all snapshots in the folder, in bytes.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # names begin with the time, so their order is that of their age
            self._files = sorted((p.name, p.stat().st_size) for p in folder.iterdir() if _FILE_NAME.fullmatch(p.name))
        except OSError as e:
            raise ConfigError(f"--snapshots {folder}: cannot be used as a folder: {e.strerror}") from None
        self.folder, self.budget = folder, budget
        self.failed: str | None = None
        self.skipped = self.unwritten = 0
        self.size = sum(size for _, size in self._files)
        self._queue: queue.Queue[tuple[str, Frame] | None] = queue.Queue(QUEUE_FRAMES)
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Number of snapshots that were not stored."""
        return self.skipped + self.unwritten

    def put(self, frame: Frame, at: str, source: str, event: str) -> str:
        """Queue a copy of the frame. Returns the name that its file will have; '' if the disk does not keep up.

        at: UTC, ISO 8601.
        source: the camera's name.
        event: the event's id.
        """
        name = f"{at.replace('-', '').replace(':', '')}-{slug(source)}-{event}.jpg"
        try:
            if self._queue.full():  # before the frame is copied
                raise queue.Full
            self._queue.put_nowait((name, frame.copy()))
        except queue.Full:
            self.skipped += 1
            return ""
        return name

    def close(self) -> None:
        with contextlib.suppress(queue.Full):  # a disk that hangs must not keep the agent from ending
            self._queue.put(None, timeout=2)
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            name, frame = item
            try:
                data = encode_jpeg(frame, JPEG_QUALITY)
                self._make_room(len(data))
                write_file(self.folder / name, data)
                self._files.append((name, len(data)))
                self.size += len(data)
                self.failed = None
            except Exception as e:  # a disk that is full now: the next snapshot may fit
                self.failed = str(e)
                self.unwritten += 1

    def _make_room(self, size: int) -> None:
        while self._files and self.size + size > self.budget:
            name, freed = self._files.pop(0)
            (self.folder / name).unlink(missing_ok=True)
            self.size -= freed
