"""Records frames with their results, bit for bit, so that a user can send a failure and a developer can replay it.

DIR/
  000000.png ..     the frames that got inference, as captured, in the order of their results
  results.jsonl     the results, one a line, in the same order
  record.json       the model, the options, and the hash of every file; written last, and sealed

Without record.json, for example after a power cut, DIR is an ordinary folder of images.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable
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

LIMIT = 1_000_000_000  # bytes of a recording
STALL_S = 10.0  # without progress, after which the disk counts as hung
QUEUE_FRAMES = 8
_STALLED = "the disk does not accept data"
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


class Recorder:
    """An observer of results, which copies their frames and writes them in a thread of its own.

    Frames of a live camera are dropped where the disk does not keep up; a replay waits.

    Threads: the publisher's thread calls `observe`, and alone writes `dropped`. The writer thread alone writes files,
    `frames` and `bytes`. `close` reads what the writer has left, once that thread has ended. Either may set `failed`,
    which is one text.

    frames, bytes: written so far.
    dropped: number of frames that were not recorded.
    failed: why the recording stopped early; None if it did not.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lossless: bool,
        options: ReplayOptions,
        limit: int = LIMIT,
        stall_s: float = STALL_S,
        write_bytes: Callable[[Path, bytes], object] = Path.write_bytes,
    ) -> None:
        """Raises ConfigError for a folder that is in use.

        options: of this run, for its replay.
        limit: maximum size, in bytes.
        stall_s: seconds without progress after which the disk counts as hung.
        write_bytes: writes a frame's file.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--record {folder}: is not empty. Name a new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise fault_type(e, ConfigError)(f"--record {folder}: cannot be created: {e.strerror}") from None
        self.folder = folder
        self.failed: str | None = None
        self.frames = self.dropped = self.bytes = 0
        self._lossless, self._options, self._limit = lossless, options, limit
        self._stall_s, self._write_bytes = stall_s, write_bytes
        self._model: dict[str, str] = {}
        self._files: FileTable = {}
        self._moments: list[int] = []
        self._queue: queue.Queue[tuple[dict[str, Any], int, Frame] | None] = queue.Queue(QUEUE_FRAMES)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def observe(self, result: Result, slot: Slot | None) -> None:
        if slot is None or slot.frame is None or result.cause is not None or self.failed:
            return
        if not self._lossless and self._queue.full():
            self.dropped += 1
            return
        try:
            self._queue.put((result.to_json(), result.moment, slot.frame.copy()), timeout=self._stall_s)
        except queue.Full:
            self.failed = _STALLED

    def close(self) -> None:
        """Write what is queued, and the document that makes the folder a recording."""
        before, until = -1, 0.0
        while self._thread.is_alive():
            if self.frames != before:
                before, until = self.frames, time.monotonic() + self._stall_s
            if time.monotonic() >= until:
                self.failed = self.failed or _STALLED
                return
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)  # one is enough, more do no harm
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
            self.failed = self.failed or _failure_text(e)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.failed:
                continue
            if self.bytes >= self._limit:
                self.failed = f"{self._limit / 1e6:,.0f} MB are used up"
                continue
            try:
                self._write(*item)
            except Exception as e:  # the thread must live: it empties the queue
                self.failed = _failure_text(e)

    def _write(self, result: dict[str, Any], moment: int, frame: Frame) -> None:
        name, data = f"{self.frames:06}.png", cv2.imencode(".png", frame, _PNG)[1].tobytes()
        self._write_bytes(self.folder / name, data)
        with (self.folder / RESULTS).open("ab") as results:
            results.write(json.dumps(result).encode() + b"\n")
        self._files |= file_table({name: data})
        self._moments.append(moment)
        self.bytes += len(data)
        self.frames += 1
        self._model = result["model"]


def _failure_text(error: Exception) -> str:
    if isinstance(error, SightlineError):
        return str(error)
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
