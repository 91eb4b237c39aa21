"""The base class of outputs: each has its own bounded queue and thread, so that a slow or dead one delays nobody."""

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

QUEUE_LENGTH, QUEUE_BYTES = 256, 16_000_000  # limits of a queue; masks are a megabyte each
CLOSE_S = 2.0  # longest time without progress while a sink is closed
PUT_S = 0.2  # between two looks at `stopping`, while a replay waits


class _Queue(queue.Queue["tuple[int, Item] | None"]):
    """Bounded by the bytes of its items. `Sink.put` states them, so that the number of items is bounded too."""

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


def memory_bytes(item: Item) -> int:
    """Estimated memory of an item."""
    if not isinstance(item, Result):
        return 1000
    masks = sum(p.mask.nbytes for p in item.predictions if isinstance(p, Region))
    points = sum(len(p.points) for p in item.predictions if isinstance(p, Pose))
    return 1000 + 400 * len(item.predictions) + 150 * points + masks


class Sink:
    """Takes items and writes them in a thread of its own, with the `write` of a subclass.

    Threads: the publisher's thread calls `put`, the main thread `start` and `close`. The sink's own thread calls
    `write`, and writes `failed` and `reader_gone`. Both `put` and the sink's thread count
    `dropped`: a lost update costs one count. The page and the metrics read single values at any time.

    lossless: a replay waits for the sink, unless `stopping` is set. Live items that find its queue full are dropped.
    dropped: number of items that were not written.
    failed: why the last item was not written; None if it was.
    reader_gone: whether the sink wrote to stdout, and nobody reads it any more.
    """

    def __init__(
        self,
        name: str,
        *,
        lossless: bool,
        stopping: threading.Event | None = None,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        """queue_length: maximum number of items in the queue; large items fill it sooner."""
        self.name, self.lossless = name, lossless
        self.dropped = 0
        self.failed: str | None = None
        self.reader_gone = False
        self._stopping = stopping or threading.Event()
        self._queue = _Queue()
        self._min_bytes = QUEUE_BYTES // queue_length  # that each item counts
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue an item. Does not block unless the sink is lossless."""
        sized = max(memory_bytes(item), self._min_bytes), item
        while True:
            try:
                self._queue.put(sized, block=self.lossless, timeout=PUT_S)
                return
            except queue.Full:
                if not self.lossless or self._stopping.is_set():
                    self.dropped += 1
                    return

    def close(self) -> None:
        """Write what is queued: within CLOSE_S, or without a limit for a replay that makes progress and is not stopped.

        What is still not written then counts as dropped."""
        sentinel_sent, pending, until = False, self.pending, time.monotonic() + CLOSE_S
        while self._thread.is_alive() and time.monotonic() < until:
            if not sentinel_sent:
                with contextlib.suppress(queue.Full):
                    self._queue.put_nowait(None)
                    sentinel_sent = True
            self._thread.join(timeout=0.05)
            if self.lossless and not self._stopping.is_set() and self.pending != pending:
                pending, until = self.pending, time.monotonic() + CLOSE_S
        if self.stuck:
            self.dropped += self.pending - sentinel_sent
        else:
            self.finish()

    @property
    def pending(self) -> int:
        """Number of items that are queued or being written."""
        return self._queue.unfinished_tasks

    @property
    def stuck(self) -> bool:
        """Whether the thread is still in a write, after `close`."""
        return self._thread.is_alive()

    @property
    def problem(self) -> str | None:
        """What is wrong now, for people; None = nothing."""
        return self.failed

    @property
    def lost(self) -> int:
        """Number of items that did not arrive."""
        return self.dropped

    @property
    def note(self) -> str:
        """A remark for the summary at the end; empty = none."""
        return ""

    def _run(self) -> None:
        while (sized := self._queue.get()) is not None:
            try:
                if self.write(sized[1]):
                    self.failed = None
            except Exception as e:  # the thread must live: count the item, and show the reason in the summary
                self.failed = getattr(e, "strerror", None) or f"{type(e).__name__}: {e}"
                self.dropped += 1
            self._queue.task_done()

    def write(self, item: Item) -> bool:
        """Write an item. Returns False for one that needs no write, which does not show whether writing works."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called after the last write, by the thread that closes the sink."""

    @contextlib.contextmanager
    def _stdout(self) -> Iterator[None]:
        """For a write to stdout: notices that its reader is gone."""
        try:
            yield
        except OSError as e:
            # EIO: the terminal is gone
            self.reader_gone = e.errno == errno.EPIPE or (e.errno == errno.EIO and not sys.stdout.isatty())
            raise
