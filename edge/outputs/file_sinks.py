"""Sinks without a receiver: text for a terminal, and JSON lines on stdout or in a file."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.options import SendMode
from edge.outputs.send_filter import SendFilter
from edge.results.sink import QUEUE_LENGTH, Sink
from sightline.predictions import Detection, Pose, Result
from sightline.text import one_line

if TYPE_CHECKING:
    from edge.results.sink import Item


@dataclass(frozen=True)
class Rotation:
    """When a file is renamed to FILE.1, FILE.1 to FILE.2, and so on. 0 = no limit.

    size: maximum size of the file, in bytes.
    days: maximum number of days (UTC) in the file.
    keep: number of renamed files to keep.
    """

    size: int = 0
    days: int = 0
    keep: int = 5


class JsonLines(Sink):
    """Writes one JSON object a line: to stdout, or appended to a file.

    The file is opened again after a fault, such as a full disk, and when somebody has moved it away.

    Threads: the sink's thread alone has the file. See `Sink`.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        lossless: bool,
        stopping: threading.Event | None = None,
        mode: SendMode = "results",
        rotation: Rotation = Rotation(),
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        """path: None = stdout."""
        super().__init__(f"output {path or 'stdout'}", lossless=lossless, stopping=stopping, queue_length=queue_length)
        self._path, self._filter, self._rotation = path, SendFilter(mode), rotation
        self._file: io.FileIO | None = None
        self._day = 0  # since 1970, of the file's last line before it was opened
        self._torn = False  # the file ends within a line, for example because the disk is full
        self._rotation_fault: str | None = None

    def write(self, item: Item) -> bool:
        if not self._filter(item):
            return False
        # "replace": the text of a cause may contain a file name that is not UTF-8
        line = (json.dumps(item.to_json(), ensure_ascii=False) + "\n").encode("utf-8", "replace")
        if self._path is None:
            with self._stdout():
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            return True
        if self._file is not None and not self._in_place(self._file, len(line)):
            self.finish()
        if self._file is None:
            self._file = self._open(self._path)
        if self._torn:
            line = b"\n" + line
        try:
            written = self._file.write(line)
            self._torn = written != len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.finish()
            raise
        return True

    def _open(self, path: Path) -> io.FileIO:
        self._torn = self._torn or _torn(path)
        file = io.FileIO(path, "a")
        self._day = int((path.stat().st_mtime if path.stat().st_size else time.time()) // 86400)
        return file

    def _in_place(self, file: io.FileIO, more: int) -> bool:
        """Whether the next line belongs into this file: it is still at its path, and has room."""
        assert self._path is not None
        at_path, opened = None, os.fstat(file.fileno())
        with contextlib.suppress(OSError):
            at_path = self._path.stat()
        if at_path is None or (at_path.st_ino, at_path.st_dev) != (opened.st_ino, opened.st_dev):
            return False
        limit, days = self._rotation.size, self._rotation.days
        old = days and int(time.time() // 86400) - self._day >= days
        large = limit and opened.st_size + more > limit
        if not stat.S_ISREG(opened.st_mode) or not opened.st_size or not (large or old):
            return True
        try:
            for i in range(self._rotation.keep, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _numbered(self._path, i - 1).replace(_numbered(self._path, i))
        except OSError as e:  # this user may not write into the folder: a growing file loses nothing
            self._rotation_fault = f"the file grows, because it cannot be rotated: {e.strerror}"
            return True
        self._rotation_fault = None
        return False

    @property
    def problem(self) -> str | None:
        return self.failed or self._rotation_fault

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _numbered(path: Path, i: int) -> Path:
    return path.with_name(f"{path.name}.{i}") if i else path


def _torn(path: Path) -> bool:
    """Whether a file ends within a line, for example after a power cut. The next line must not become part of it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class Text(Sink):
    """Prints a line of text when the labels or the cause change; for a live camera, at most two a second.

    Threads: see `Sink`.
    """

    def __init__(self, *, lossless: bool, stopping: threading.Event | None = None) -> None:
        super().__init__("output stdout", lossless=lossless, stopping=stopping)
        self._before: str | None = None
        self._printed_s = -1.0

    def write(self, result: Item) -> bool:
        if not isinstance(result, Result):
            return False
        boxes = Counter(p.label for p in result.predictions if isinstance(p, Detection | Pose))
        best = ", ".join(f"{n} {label}" for label, n in sorted(boxes.items()))
        best = best or (result.predictions[0].label if result.predictions else "")
        now = f"ok {best}" if result.cause is None else f"not inferred: {result.cause.code}"
        moment = time.monotonic()
        if now == self._before or (not self.lossless and moment - self._printed_s < 0.5):
            return False
        self._before, self._printed_s = now, moment
        clock = time.strftime("%H:%M:%S")
        if result.cause is not None:
            line = f"not inferred: {result.cause.text}"
        elif boxes:
            line = best
        elif not result.predictions:
            line = "nothing above the threshold"
        else:
            line = "   ".join(f"{p.label} {p.score:.0%}" for p in result.predictions)
        with self._stdout():
            print(one_line(f"{clock}  frame {result.frame_id:<6} {line}"), flush=True)
        return True
