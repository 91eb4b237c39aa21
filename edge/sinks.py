"""Where results go: each sink has its own bounded queue and thread, so that a slow or dead one costs nothing here."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import queue
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.wanted import Wanted, What
from sightline.predictions import Detection, Pose, Region, Result
from sightline.text import one_line

if TYPE_CHECKING:
    from edge.wanted import Item

QUEUE_LENGTH, QUEUE_BYTES = 256, 16_000_000  # whichever is reached first; masks are a megabyte each
PATIENCE_S = 2.0  # with a sink that takes nothing, at the end


class _Queue(queue.Queue["tuple[int, Item] | None"]):
    """Bounded by what the items take, in bytes; each counts as the QUEUE_LENGTH-th part of it at least."""

    def __init__(self) -> None:
        super().__init__(QUEUE_BYTES)

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._bytes = 0

    def _qsize(self) -> int:
        return self._bytes

    def _put(self, item: tuple[int, Item] | None) -> None:
        self._bytes += item[0] if item else 1
        super()._put(item)

    def _get(self) -> tuple[int, Item] | None:
        item: tuple[int, Item] | None = super()._get()
        self._bytes -= item[0] if item else 1
        return item

    def __len__(self) -> int:
        with self.mutex:
            return len(self.queue)


def memory_bytes(item: Item) -> int:
    """About how many bytes of memory it holds."""
    if not isinstance(item, Result):
        return 1000
    masks = sum(p.mask.nbytes for p in item.predictions if isinstance(p, Region))
    points = sum(len(p.points) for p in item.predictions if isinstance(p, Pose))
    return 1000 + 400 * len(item.predictions) + 150 * points + masks


def _weight(item: Item) -> int:
    return max(memory_bytes(item), QUEUE_BYTES // QUEUE_LENGTH)


class Sink:
    """Takes results and writes them in a thread of its own; subclasses say how.

    lossless: a replay waits for the sink, unless `stopping` is set; live results that find it full are counted in
    `dropped` instead. failed: why the last result was not written; None when it was. reader_gone: whether it wrote to
    stdout, and nobody reads that any more.
    """

    def __init__(self, name: str, *, lossless: bool, stopping: threading.Event | None = None) -> None:
        self.name, self.lossless = name, lossless
        self.dropped = 0
        self.failed: str | None = None
        self.reader_gone = False
        self._stopping = stopping or threading.Event()
        self._queue = _Queue()
        self._taken = self._done = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        weighed = _weight(item), item
        while True:
            try:
                self._queue.put(weighed, block=self.lossless, timeout=0.2)
                return
            except queue.Full:
                if not self.lossless or self._stopping.is_set():
                    self.dropped += 1
                    return

    def close(self) -> None:
        """Write what is queued: within two seconds, or as long as it takes for a replay that nobody stopped. What is
        still not written counts as dropped."""
        sentinel_sent, seen, until = False, self._done, time.monotonic() + PATIENCE_S
        while self._thread.is_alive() and time.monotonic() < until:
            if not sentinel_sent:
                with contextlib.suppress(queue.Full):
                    self._queue.put_nowait(None)
                    sentinel_sent = True
            self._thread.join(timeout=0.05)
            if self.lossless and not self._stopping.is_set() and self._done != seen:
                seen, until = self._done, time.monotonic() + PATIENCE_S
        if self.stuck:
            self.dropped += len(self._queue) - sentinel_sent + self._taken - self._done
        else:
            self.finish()

    @property
    def stuck(self) -> bool:
        """Whether the thread is still in a write, after `close`."""
        return self._thread.is_alive()

    @property
    def problem(self) -> str | None:
        """What is wrong with it now, for people; None when all is well."""
        return self.failed

    @property
    def lost(self) -> int:
        """Results that did not get where they should."""
        return self.dropped

    @property
    def note(self) -> str:
        """What the closing figures say beside the losses; empty = nothing."""
        return ""

    def _run(self) -> None:
        while (weighed := self._queue.get()) is not None:
            self._taken += 1
            try:
                if self.write(weighed[1]):
                    self.failed = None
            except Exception as e:  # a dead thread would say nothing: count it, and show why in the summary
                self.failed = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
                self.dropped += 1
            self._done += 1

    def write(self, item: Item) -> bool:
        """Write it; False where it was not worth writing, which says nothing about whether writing still works."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the last write."""

    @contextlib.contextmanager
    def _stdout(self) -> Iterator[None]:
        """Around a write to it."""
        try:
            yield
        except OSError as e:
            # EIO: a terminal that is gone
            self.reader_gone = e.errno == errno.EPIPE or (e.errno == errno.EIO and not sys.stdout.isatty())
            raise


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
        what: What = "results",
        rotation: Rotation = Rotation(),
    ) -> None:
        super().__init__(f"output {path or 'stdout'}", lossless=lossless, stopping=stopping)
        self._path, self._wanted, self._rotation = path, Wanted(what), rotation
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
