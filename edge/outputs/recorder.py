"""Frames with the results that they gave, kept bit for bit: how a user sends us what went wrong, and how we see it too.

DIR/
  000000.png ..     the frames that the model looked at, as captured, in the order of their results
  results.jsonl     the results, one a line, in the same order
  record.json       which model said so, with which options, and the hash of every file; written last, and sealed

Without record.json, after a power cut, it is a folder of pictures as any other.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from edge.capture.mailbox import Slot
from edge.capture.sources.recording import DOCUMENT, RESULTS, SCHEMA, ReplayOptions
from sightline import __version__
from sightline.errors import ConfigError, SightlineError, fault_type
from sightline.files import FileTable, file_table, seal, write_file
from sightline.predictions import Result
from sightline.preprocess import Frame

_HANGS = "the disk takes nothing"
LIMIT = 1_000_000_000
PATIENCE_S = 10.0  # with a disk that takes nothing
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class Recorder:
    """An observer of results. Frames are copied here, and written by a thread of its own; where that does not keep up
    with a camera they are left out, and `dropped` counts them; a replay waits.

    failed: why it stopped before the end; None while all is well.
    """

    def __init__(self, folder: Path, *, lossless: bool, options: ReplayOptions, limit: int = LIMIT) -> None:
        """options: of the run, for the one that replays it. limit: bytes. Raises ConfigError for a folder in use."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--record {folder}: exists and is not empty; it is left alone")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise fault_type(e, ConfigError)(f"--record {folder}: cannot be made: {e.strerror}") from None
        self.folder = folder
        self.failed: str | None = None
        self.frames = self.dropped = self.bytes = 0
        self._lossless, self._options, self._limit = lossless, options, limit
        self._model: dict[str, str] = {}
        self._files: FileTable = {}
        self._moments: list[int] = []
        self._queue: queue.Queue[tuple[dict[str, Any], int, Frame] | None] = queue.Queue(8)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def observe(self, result: Result, slot: Slot | None) -> None:
        if slot is None or slot.frame is None or result.cause is not None or self.failed:
            return
        if not self._lossless and self._queue.full():
            self.dropped += 1
            return
        try:
            self._queue.put((result.to_json(), result.moment, slot.frame.copy()), timeout=PATIENCE_S)
        except queue.Full:
            self.failed = _HANGS

    def close(self) -> None:
        """Write what is left, and the document that makes a recording of it."""
        before, until = -1, 0.0
        while self._thread.is_alive():
            if self.frames != before:
                before, until = self.frames, time.monotonic() + PATIENCE_S
            if time.monotonic() >= until:
                self.failed = self.failed or _HANGS
                return
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)  # one is enough; more of them harm nobody
            self._thread.join(0.05)
        if not self.frames:
            return
        try:
            files = self._files | file_table({RESULTS: (self.folder / RESULTS).read_bytes()})
            document = {"schema": SCHEMA, "frames": self.frames, "moments_ns": self._moments, "model": self._model,
                        "options": asdict(self._options), "sightline": __version__, "opencv": cv2.__version__,
                        "files": files}  # fmt: skip
            write_file(self.folder / DOCUMENT, seal(document))
        except Exception as e:
            self.failed = self.failed or _why(e)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.failed:
                continue
            if self.bytes >= self._limit:
                self.failed = f"{self._limit / 1e6:,.0f} MB are full"
                continue
            try:
                self._write(*item)
            except Exception as e:  # a dead thread would say nothing, and nobody would take what is put
                self.failed = _why(e)

    def _write(self, result: dict[str, Any], moment: int, frame: Frame) -> None:
        name, data = f"{self.frames:06}.png", cv2.imencode(".png", frame, _PNG)[1].tobytes()
        (self.folder / name).write_bytes(data)
        with (self.folder / RESULTS).open("ab") as results:
            results.write(json.dumps(result).encode() + b"\n")
        self._files |= file_table({name: data})
        self._moments.append(moment)
        self.bytes += len(data)
        self.frames += 1
        self._model = result["model"]


def _why(error: Exception) -> str:
    if isinstance(error, SightlineError):
        return str(error)
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
