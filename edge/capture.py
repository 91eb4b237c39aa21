"""The capture thread of one camera, and the mailbox between it and the loop."""

from __future__ import annotations

import datetime
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from edge.sources import Source
from sightline.errors import DataError, SightlineError, SourceError
from sightline.preprocess import Frame, InputSpec, Preprocessor

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0


@dataclass
class Slot:
    """One frame on its way, and the buffers that it lives in. frame: BGR as captured; None with a `cause` when it could
    not be read. image: RGB, as the model takes it. captured_ns, ready_ns: monotonic, after reading and after
    preprocessing. dropped: since the slot before, by cause."""

    image: Frame
    frame: Frame | None = None
    cause: str | None = None
    frame_id: int = 0
    captured_ns: int = 0
    ready_ns: int = 0
    captured_at: str = ""
    capture_ms: float = 0.0
    preprocess_ms: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)


class Mailbox:
    """Room for one frame: the newest wins, and what it displaces is counted. A replay's writer waits instead.

    Three slots go round: one is filled, one waits here, one is looked at; nothing is allocated for a frame.
    """

    def __init__(self, spec: InputSpec, *, lossless: bool) -> None:
        self._lossless = lossless
        self._free = [Slot(np.empty((spec.height, spec.width, 3), np.uint8)) for _ in range(3)]
        self._waiting: Slot | None = None
        self._dropped: Counter[str] = Counter()
        self._error: SightlineError | None = None
        self._closed = False
        self._changed = threading.Condition()

    def empty_slot(self) -> Slot | None:
        """A slot to fill; None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._free))
            return None if self._closed else self._free.pop()

    def put(self, slot: Slot) -> None:
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: self._closed or self._waiting is None)
            if self._waiting is not None:
                self._dropped["overwritten"] += 1
                self._free.append(self._waiting)
            self._waiting = slot
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Slot | None:
        """The newest frame; None when none came in time, or none will come (see `ended`). Raises the source's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None, timeout_s)
            slot, self._waiting = self._waiting, None
            if slot is None:
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                return None
            slot.dropped = dict(self._dropped)
            self._dropped.clear()
            self._changed.notify_all()
            return slot

    def release(self, slot: Slot) -> None:
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def lost(self, cause: str) -> None:
        with self._changed:
            self._dropped[cause] += 1

    def close(self, error: SightlineError | None = None) -> None:
        """No more frames. What waits can still be taken; then `error` is raised, once."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._closed and self._waiting is None


class Capture:
    """Reads a source in a thread of its own, to the end of a replay or until `stop`.

    state: what the camera is doing, for people: `opening`, `live`, or why it is being opened again.
    reconnects: times it was opened again, by cause.
    """

    def __init__(self, source: Source, spec: InputSpec) -> None:
        self.source, self.spec = source, spec
        self.mailbox = Mailbox(spec, lossless=not source.live)
        self.state = "opening"
        self.reconnects = 0
        self._stopping = threading.Event()
        self._frame_id = 0
        self._thread = threading.Thread(target=self._run, name=f"capture {source.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; waits for a read that hangs no longer than that read's own time-out."""
        self._stopping.set()
        self.mailbox.close()
        self._thread.join(timeout=6)

    def _run(self) -> None:
        opened_once = False
        failures = 0
        while not self._stopping.is_set():
            try:
                self.source.open()
                opened_once = True
                self._read_all()
                self.mailbox.close()
                return
            except SightlineError as e:
                if not (isinstance(e, SourceError) and self.source.live and opened_once):
                    self.mailbox.close(e)
                    return
                if self.state == "live":
                    failures = 0
                self.state = str(e)
                self.reconnects += 1
            except Exception as e:
                # a thread's exception is nobody's: hand it to the loop as what it is, a fault of our own
                self.mailbox.close(SightlineError(f"capture of {self.source.name}: {type(e).__name__}: {e}"))
                return
            finally:
                self.source.close()
            self._stopping.wait(min(BACKOFF_MAX_S, BACKOFF_S * 2**failures) * random.uniform(0.7, 1.3))
            failures = min(failures + 1, 16)

    def _read_all(self) -> None:
        preprocess = Preprocessor(self.spec)
        while (slot := self.mailbox.empty_slot()) is not None:
            began = time.monotonic_ns()
            cause = None
            try:
                frame = self.source.read(slot.frame)
            except DataError as e:  # about this picture alone: the next is worth reading
                frame, cause = None, str(e)
            except BaseException:
                self.mailbox.release(slot)
                raise
            if frame is None and cause is None:
                self.mailbox.release(slot)
                return
            slot.captured_ns = time.monotonic_ns()
            slot.captured_at = utc_now()
            if frame is not None:
                preprocess(frame, slot.image)
            slot.frame, slot.cause = frame, cause
            slot.frame_id = self._frame_id
            slot.ready_ns = time.monotonic_ns()
            slot.capture_ms = (slot.captured_ns - began) / 1e6
            slot.preprocess_ms = (slot.ready_ns - slot.captured_ns) / 1e6
            self._frame_id += 1
            self.state = "live"
            self.mailbox.put(slot)


def utc_now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"
