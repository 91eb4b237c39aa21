"""Where results go: each sink has its own bounded queue and thread, so that a slow or dead one costs nothing here."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path

from sightline.predictions import Result

QUEUE_LENGTH = 256
PATIENCE_S = 2.0  # with a sink that takes nothing, at the end


class Sink:
    """Takes results and writes them in a thread of its own; subclasses say how.

    lossless: a replay waits for the sink, unless `stopping` is set; live results that find it full are counted in
    `dropped` instead. failed: why the last result was not written; None when it was.
    """

    def __init__(self, name: str, *, lossless: bool, stopping: threading.Event | None = None) -> None:
        self.name, self.lossless = name, lossless
        self.dropped = 0
        self.failed: str | None = None
        self._stopping = stopping or threading.Event()
        self._queue: queue.Queue[Result | None] = queue.Queue(QUEUE_LENGTH)
        self._taken = self._done = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, result: Result) -> None:
        while True:
            try:
                self._queue.put(result, block=self.lossless, timeout=0.2)
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
            self.dropped += self._queue.qsize() - sentinel_sent + self._taken - self._done
        else:
            self.finish()

    @property
    def stuck(self) -> bool:
        """Whether the thread is still in a write, after `close`."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (result := self._queue.get()) is not None:
            self._taken += 1
            try:
                if self.write(result):
                    self.failed = None
            except Exception as e:  # a dead thread would say nothing: count it, and show why in the summary
                self.failed = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
                self.dropped += 1
            self._done += 1

    def write(self, result: Result) -> bool:
        """Write it; False where it was not worth writing, which says nothing about whether writing still works."""
        raise NotImplementedError

    def finish(self) -> None:
        """After the last write."""


class JsonLines(Sink):
    """One JSON object a line: on stdout, or appended to a file (opened again after a fault, such as a full disk)."""

    def __init__(self, path: Path | None, *, lossless: bool, stopping: threading.Event | None = None) -> None:
        super().__init__(f"output {path or 'stdout'}", lossless=lossless, stopping=stopping)
        self._path = path
        self._file: io.FileIO | None = None
        self._torn = False  # a part of a line still fitted on a disk that is full

    def write(self, result: Result) -> bool:
        # "replace": a file name that is not UTF-8 may be in a cause
        line = (json.dumps(result.to_json(), ensure_ascii=False) + "\n").encode("utf-8", "replace")
        if self._path is None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return True
        if self._file is None:
            self._torn = self._torn or _torn(self._path)
            self._file = io.FileIO(self._path, "a")
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

    def finish(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


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

    def write(self, result: Result) -> bool:
        best = result.predictions[0].label if result.predictions else ""
        now = f"ok {best}" if result.cause is None else f"not inferred: {result.cause.code}"
        moment = time.monotonic()
        if now == self._before or (not self.lossless and moment - self._printed_s < 0.5):
            return False
        self._before, self._printed_s = now, moment
        clock = time.strftime("%H:%M:%S")
        if result.cause is not None:
            line = f"not inferred: {result.cause.text}"
        elif not result.predictions:
            line = "nothing above the threshold"
        else:
            line = "   ".join(f"{p.label} {p.score:.0%}" for p in result.predictions)
        text = f"{clock}  frame {result.frame_id:<6} {line}"
        print(text.encode("utf-8", "replace").decode(), flush=True)
        return True
