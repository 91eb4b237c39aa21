"""Passes captured frames from the capture threads to the one interpreter: one waiting frame a camera, in turns."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import SightlineError
from sightline.predictions import Cause
from sightline.preprocess import Frame

# slots of a camera: one is filled, one waits, one is inferred, one is decoded and shown
SLOTS = 4
MAX_KEPT_FRAME_BYTES = 32_000_000  # a free slot keeps its frame buffer up to this size; a 4K frame has 25 million


@dataclass
class Slot:
    """One frame on its way through the agent, and the buffers it lives in. The buffers are reused for later frames.

    A slot has one owner at each moment, and only the owner reads or writes it:
    1. free: the `Mailbox`, under its lock.
    2. filled: the capture thread, from `Mailbox.empty_slot` to `Mailbox.put` (or `release`, for a dropped frame).
    3. waiting: the `Mailbox`, until `take`, or until a newer frame displaces it.
    4. inferred: the agent loop, from `Inbox.take` until it hands the slot to the results thread.
    5. published: the results thread, its sinks and observers, until `Inbox.release`.
    The queues between the owners hold a lock, so each owner sees what the one before wrote.
    A slot in a read that never returns stays with that thread for ever. A new slot takes its place.

    camera: index of the camera.
    image: RGB, uint8 [height, width, 3] in the model's size.
    input_tensor: `image` in the dtype and shape of the model's input.
    model: number of the model that `image` and `input_tensor` were made for.
    frame: BGR as captured; None when this frame could not be read.
    cause: why this frame gets no inference; None for a frame that gets one.
    frame_id: number of the frame, from 0.
    captured_ns: monotonic time after reading.
    moment_ns: time on a replay's own clock; 0 for a camera.
    ready_ns: monotonic time after preprocessing.
    captured_at: UTC time after reading, ISO 8601.
    capture_ms: duration of the read.
    preprocess_ms: duration from `captured_ns` to `ready_ns`.
    dropped: number of frames dropped since the slot before, by cause.
    """

    camera: int = 0
    image: Frame = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    input_tensor: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))
    model: int = 0
    frame: Frame | None = None
    cause: Cause | None = None
    frame_id: int = 0
    captured_ns: int = 0
    moment_ns: int = 0
    ready_ns: int = 0
    captured_at: str = ""
    capture_ms: float = 0.0
    preprocess_ms: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)


class Mailbox:
    """Holds one waiting frame of one camera. A newer frame displaces it, and the loss is counted.

    A replay loses nothing: its writer waits instead.

    Threads: the camera's capture thread calls `empty_slot`, `put`, `release`, `count_dropped` and `close`. The agent
    loop calls `take`. The results thread calls `release`, `take_dropped` and `ended`. Every attribute is read and
    written under `_changed`, the condition that the mailboxes of an `Inbox` share.
    """

    def __init__(self, *, lossless: bool, camera: int = 0, changed: threading.Condition | None = None) -> None:
        """lossless: a replay, which waits and drops nothing.
        changed: condition that the mailboxes of an `Inbox` share; None makes a new one."""
        self._lossless = lossless
        self._free = [Slot(camera) for _ in range(SLOTS)]
        self._waiting: Slot | None = None
        self._dropped: Counter[str] = Counter()
        self._error: SightlineError | None = None
        self._closed = False
        self._changed = changed or threading.Condition()

    def empty_slot(self) -> Slot | None:
        """A slot to fill; waits until one is free. None once the mailbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._free))
            return None if self._closed else self._free.pop()

    def put(self, slot: Slot) -> None:
        """Make `slot` the waiting frame."""
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: self._closed or self._waiting is None)
            if self._waiting is not None:
                # its own `dropped` is not set before `take`, so the drops before it are still in `_dropped`
                self._dropped["overwritten"] += 1
                self._free_slot(self._waiting)
            self._waiting = slot
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Slot | None:
        """The newest frame. None after the timeout, or when no more frames will come (see `ended`).

        Raises the source's error, once, after its last frame.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None, timeout_s)
            return self.take_locked()

    def take_locked(self) -> Slot | None:
        """As `take` without a wait. The caller holds the condition."""
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
        """Give a slot back, to be filled again."""
        with self._changed:
            self._free_slot(slot)
            self._changed.notify_all()

    def _free_slot(self, slot: Slot) -> None:
        if slot.frame is not None and slot.frame.nbytes > MAX_KEPT_FRAME_BYTES:
            slot.frame = None
        self._free.append(slot)

    def count_dropped(self, cause: str) -> None:
        """Count one frame that was dropped before inference."""
        with self._changed:
            self._dropped[cause] += 1

    def take_dropped(self) -> dict[str, int]:
        """The drops that no result reported yet, for a result without a frame."""
        with self._changed:
            dropped = dict(self._dropped)
            self._dropped.clear()
            return dropped

    def close(self, error: SightlineError | None = None) -> None:
        """No more frames will come. A waiting frame can still be taken; after it `take` raises `error`, once."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the source has ended; a frame or an error may still wait."""
        with self._changed:
            return self._closed

    @property
    def ready(self) -> bool:
        """Whether a frame or an error waits."""
        with self._changed:
            return self._waiting is not None or self._error is not None

    @property
    def ended(self) -> bool:
        """Whether the source has ended, and neither a frame nor an error waits."""
        with self._changed:
            return self._closed and not self.ready


class Inbox:
    """The mailboxes of all cameras. They share one condition, so that one wait covers all of them.

    Threads: only the agent loop calls `take`, and only `take` touches `_next`. The results thread calls `release`.
    """

    def __init__(self, lossless: Sequence[bool]) -> None:
        """lossless: one value for each camera, see `Mailbox`."""
        self._changed = threading.Condition()  # its lock is reentrant: a mailbox's properties may take it again
        self.mailboxes = [Mailbox(lossless=one, camera=i, changed=self._changed) for i, one in enumerate(lossless)]
        self._next = 0

    def take(self, timeout_s: float) -> Slot | None:
        """A waiting frame, of the camera whose turn is the longest ago. Otherwise as `Mailbox.take`."""
        with self._changed:
            self._changed.wait_for(self._has_news, timeout_s)
            for step in range(len(self.mailboxes)):
                index = (self._next + step) % len(self.mailboxes)
                slot = self.mailboxes[index].take_locked()
                if slot is not None:
                    self._next = index + 1
                    return slot
            return None

    def release(self, slot: Slot) -> None:
        """Give a slot back to its camera's mailbox."""
        self.mailboxes[slot.camera].release(slot)

    @property
    def ended(self) -> bool:
        """Whether all sources have ended and nothing waits."""
        return all(mailbox.ended for mailbox in self.mailboxes)

    def _has_news(self) -> bool:
        """A frame or an error waits, or all sources have ended. The caller holds the condition."""
        return any(m.ready for m in self.mailboxes) or all(m.closed for m in self.mailboxes)
