"""Where results go: each sink has its own bounded queue and thread, so that a slow or dead one costs nothing here."""

from __future__ import annotations

import contextlib
import errno
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sightline.predictions import Pose, Region, Result

if TYPE_CHECKING:
    from edge.results.event_rules import Event
    from edge.results.zones import ZoneEvent

    Item = Result | Event | ZoneEvent

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
