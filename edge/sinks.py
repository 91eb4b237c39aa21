"""Where results go: each sink has its own bounded queue and thread, so that a slow or dead one costs nothing here."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import IO

from sightline.predictions import Result

QUEUE_LENGTH = 256


class Sink:
    """Takes results and writes them in a thread of its own; subclasses say how.

    lossless: a replay waits for the sink; live results that find the queue full are counted in `dropped` instead.
    failed: why it writes no more; None while it does.
    """

    def __init__(self, name: str, *, lossless: bool) -> None:
        self.name, self.lossless = name, lossless
        self.dropped = 0
        self.failed: str | None = None
        self._queue: queue.Queue[Result | None] = queue.Queue(QUEUE_LENGTH)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, result: Result) -> None:
        while True:
            try:
                self._queue.put(result, block=self.lossless, timeout=0.2)
                return
            except queue.Full:
                if not self.lossless or not self._thread.is_alive():
                    self.dropped += 1
                    return

    def close(self) -> None:
        """Write what is queued, for two seconds at most."""
        try:
            self._queue.put(None, timeout=2)
        except queue.Full:
            self.dropped += self._queue.qsize()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        while (result := self._queue.get()) is not None:
            try:
                self.write(result)
                self.failed = None
            except OSError as e:
                self.failed = e.strerror or type(e).__name__
                self.dropped += 1

    def write(self, result: Result) -> None:
        raise NotImplementedError


class JsonLines(Sink):
    """One JSON object a line: on stdout, or appended to a file (opened again after a fault, such as a full disk)."""

    def __init__(self, path: Path | None, *, lossless: bool) -> None:
        super().__init__(f"output {path or 'stdout'}", lossless=lossless)
        self._path = path
        self._file: IO[str] | None = None if path else sys.stdout

    def write(self, result: Result) -> None:
        if self._file is None:
            assert self._path is not None
            self._file = self._path.open("a", encoding="utf-8")
        try:
            self._file.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError:
            if self._path:
                self._file = None
            raise


class Text(Sink):
    """For people: a line when the best class, or the status, changes; of a camera, two a second at most."""

    def __init__(self, *, lossless: bool) -> None:
        super().__init__("output stdout", lossless=lossless)
        self._before: str | None = None
        self._printed_s = -1.0

    def write(self, result: Result) -> None:
        best = result.predictions[0].label if result.predictions else ""
        now = f"{result.status} {best}" if result.status == "ok" else f"{result.status} {result.cause}"
        moment = time.monotonic()
        if now == self._before or (not self.lossless and moment - self._printed_s < 0.5):
            return
        self._before, self._printed_s = now, moment
        clock = time.strftime("%H:%M:%S")
        if result.status != "ok":
            line = f"not inferred: {result.cause}"
        elif not result.predictions:
            line = "nothing above the threshold"
        else:
            line = "   ".join(f"{p.label} {p.score:.0%}" for p in result.predictions)
        print(f"{clock}  frame {result.frame_id:<6} {line}", flush=True)
