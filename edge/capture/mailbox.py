"""Where captured frames wait for the one interpreter: room for one frame a camera, the newest, taken in turns."""

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

# one is filled, one waits, one is inferred, one is decoded and shown
SLOTS = 4
KEPT_BYTES = 32_000_000  # of a frame, in a slot that nobody uses; 4K is 25 million


@dataclass
class Slot:
    """One frame on its way, and the buffers that it lives in; they are used again, none is made for a frame.

    frame: BGR as captured; None with a `cause` when nobody can look at it. image: RGB, of the model's size. entry: the
    same as the model's input tensor takes it. model: number of the model that they were made for.
    captured_ns, ready_ns: monotonic, after reading and after preprocessing. moment_ns: of a replay, on its own clock.
    dropped: since the slot before, by cause.
    """

    camera: int = 0
    image: Frame = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    entry: NDArray[Any] = field(default_factory=lambda: np.empty((0, 0, 0, 3), np.uint8))
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
    """Room for one frame of one camera: the newest wins, and what it displaces is counted. A replay's writer waits
    instead."""

    def __init__(self, *, lossless: bool, camera: int = 0, changed: threading.Condition | None = None) -> None:
        """changed: shared by the mailboxes of an `Inbox`."""
        self._lossless = lossless
        self._free = [Slot(camera) for _ in range(SLOTS)]
        self._waiting: Slot | None = None
        self._dropped: Counter[str] = Counter()
        self._error: SightlineError | None = None
        self._closed = False
        self._changed = changed or threading.Condition()

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
                # what was said in vain is said again: the drops before it, and its own
                self._dropped["overwritten"] += 1
                self._give_back(self._waiting)
            self._waiting = slot
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Slot | None:
        """The newest frame; None when none came in time, or none will come (see `ended`). Raises the source's error."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting is not None, timeout_s)
            return self._take()

    def _take(self) -> Slot | None:
        """With the lock held."""
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
            self._give_back(slot)
            self._changed.notify_all()

    def _give_back(self, slot: Slot) -> None:
        if slot.frame is not None and slot.frame.nbytes > KEPT_BYTES:
            slot.frame = None
        self._free.append(slot)

    def lost(self, cause: str, frames: int = 1) -> None:
        with self._changed:
            self._dropped[cause] += frames

    def take_dropped(self) -> dict[str, int]:
        """What was lost and not yet said, for a result without a frame."""
        with self._changed:
            dropped = dict(self._dropped)
            self._dropped.clear()
            return dropped

    def close(self, error: SightlineError | None = None) -> None:
        """No more frames. What waits can still be taken; then `error` is raised, once."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        with self._changed:
            return self._closed and self._waiting is None and self._error is None


class Inbox:
    """The mailboxes of all cameras, which share one condition."""

    def __init__(self, lossless: Sequence[bool]) -> None:
        """lossless: of each camera."""
        self._changed = threading.Condition()
        self.mailboxes = [Mailbox(lossless=one, camera=i, changed=self._changed) for i, one in enumerate(lossless)]
        self._next = 0

    def take(self, timeout_s: float) -> Slot | None:
        """A frame that waits: of the camera that has been waiting for its turn longest. As `Mailbox.take`."""
        with self._changed:
            self._changed.wait_for(self._anything, timeout_s)
            for step in range(len(self.mailboxes)):
                index = (self._next + step) % len(self.mailboxes)
                slot = self.mailboxes[index]._take()
                if slot is not None:
                    self._next = index + 1
                    return slot
            return None

    def release(self, slot: Slot) -> None:
        self.mailboxes[slot.camera].release(slot)

    @property
    def ended(self) -> bool:
        return all(mailbox.ended for mailbox in self.mailboxes)

    def _anything(self) -> bool:
        """With the lock held: a frame, an error, or nothing will come from anybody."""
        return any(m._waiting is not None or m._error is not None for m in self.mailboxes) or all(
            m._closed for m in self.mailboxes
        )
