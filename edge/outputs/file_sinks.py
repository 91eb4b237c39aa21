"""The sinks that every agent may have: text for a terminal, JSON lines on stdout or in a file."""

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

from edge.outputs.send_filter import SendFilter, SendMode
from edge.results.sink import Sink
from sightline.predictions import Detection, Pose, Result
from sightline.text import one_line

if TYPE_CHECKING:
    from edge.results.sink import Item


@dataclass(frozen=True)
class Rotation:
    """A file that would be larger than `size` bytes, or holds more than `days` days (UTC), becomes FILE.1, that one
    FILE.2, and so on; `keep` of them stay. 0 = no limit."""

    size: int = 0
    days: int = 0
    keep: int = 5


class JsonLines(Sink):
    """One JSON object a line: on stdout, or appended to a file (opened again after a fault, such as a full disk, and
    when somebody has moved it away)."""

    def __init__(
        self,
        path: Path | None,
        *,
        lossless: bool,
        stopping: threading.Event | None = None,
        what: SendMode = "results",
        rotation: Rotation = Rotation(),
    ) -> None:
        super().__init__(f"output {path or 'stdout'}", lossless=lossless, stopping=stopping)
        self._path, self._wanted, self._rotation = path, SendFilter(what), rotation
        self._file: io.FileIO | None = None
        self._day = 0
        self._torn = False  # a part of a line still fitted on a disk that is full
        self._unrotated: str | None = None

    def write(self, item: Item) -> bool:
        if not self._wanted(item):
            return False
        # "replace": a file name that is not UTF-8 may be in a cause
        line = (json.dumps(item.to_json(), ensure_ascii=False) + "\n").encode("utf-8", "replace")
        if self._path is None:
            with self._stdout():
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            return True
        if self._file is not None and not self._in_place(self._file, len(line)):
            self.finish()
        if self._file is None:
            self._file = self._opened(self._path)
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

    def _opened(self, path: Path) -> io.FileIO:
        self._torn = self._torn or _torn(path)
        file = io.FileIO(path, "a")
        # of a file that was there before: the day of its last line
        self._day = int((path.stat().st_mtime if path.stat().st_size else time.time()) // 86400)
        return file

    def _in_place(self, file: io.FileIO, more: int) -> bool:
        """Whether the next line belongs into this file: it is still at its path, and there is room in it."""
        assert self._path is not None
        there, here = None, os.fstat(file.fileno())
        with contextlib.suppress(OSError):
            there = self._path.stat()
        if there is None or (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev):
            return False
        limit, days = self._rotation.size, self._rotation.days
        old = days and int(time.time() // 86400) - self._day >= days
        if not stat.S_ISREG(here.st_mode) or not here.st_size or not ((limit and here.st_size + more > limit) or old):
            return True
        try:
            for i in range(self._rotation.keep, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _numbered(self._path, i - 1).replace(_numbered(self._path, i))
        except OSError as e:  # a folder in which this user may not write: a file that grows loses nothing
            self._unrotated = f"not rotated, it grows: {e.strerror}"
            return True
        self._unrotated = None
        return False

    @property
    def problem(self) -> str | None:
        return self.failed or self._unrotated

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _numbered(path: Path, i: int) -> Path:
    return path.with_name(f"{path.name}.{i}") if i else path


def _torn(path: Path) -> bool:
    """Whether a file ends within a line: after a power cut, say. What comes next must not become a part of it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class Text(Sink):
    """For people: a line when the best class, or the status, changes; of a camera, two a second at most."""

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
