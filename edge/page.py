"""What the live page shows: of each camera the newest result, and its picture while somebody looks.

The picture is copied, scaled and encoded at most `fps` times a second, in a thread of its own, once for all viewers of
a camera; without viewers the loop pays for one reference a result. `edge.web` serves it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from edge.mailbox import Slot
from edge.monitor import Monitor
from sightline.predictions import Result
from sightline.preprocess import Frame, InputSpec, Preprocessor

JPEG_QUALITY, SNAPSHOT_QUALITY = 80, 92
BACKLOG = 256  # results that a listener may be behind


class Channel:
    """One camera. result: its newest. jpeg: number and bytes of its newest picture. viewers: of the picture."""

    def __init__(self) -> None:
        self.result: Result | None = None
        self.jpeg: tuple[int, bytes] = (0, b"")
        self.viewers = 0
        self.frame: Frame | None = None  # to be encoded
        self.offered_ns = 0
        self.whole: Frame | None = None  # for a snapshot
        self.whole_wanted = False


class Listener:
    """Somebody who wants every result: the oldest are dropped when they are not taken in time, and counted."""

    def __init__(self, camera: str) -> None:
        """camera: '' = all."""
        self.camera = camera
        self.missed = 0
        self._results: deque[Result] = deque()
        self._changed = threading.Condition()

    def put(self, result: Result) -> None:
        if self.camera and result.source != self.camera:
            return
        with self._changed:
            if len(self._results) == BACKLOG:
                self._results.popleft()
                self.missed += 1
            self._results.append(result)
            self._changed.notify()

    def take(self, timeout_s: float) -> tuple[list[Result], int]:
        """What came, and how many were dropped before it."""
        with self._changed:
            self._changed.wait_for(lambda: self._results, timeout_s)
            results, missed = list(self._results), self.missed
            self._results.clear()
            self.missed = 0
            return results, missed


class Page:
    """info: what does not change while the model is the same. status: of the agent, called for each event."""

    def __init__(
        self,
        cameras: Sequence[str],
        *,
        fps: int,
        width: int,
        info: dict[str, Any],
        status: Callable[[], dict[str, Any]],
        set_threshold: Callable[[float], None] = lambda value: None,
    ) -> None:
        self.info, self.status, self.set_threshold = info, status, set_threshold
        self.channels = {name: Channel() for name in cameras}
        self.listeners: list[Listener] = []
        self.changed = threading.Condition()
        self.closed = False
        self.monitor: Monitor | None = None  # once there is a loop to look at
        self._interval_ns, self._width = 1_000_000_000 // fps, width
        self._thread = threading.Thread(target=self._encode, name="page encoder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def observe(self, result: Result, slot: Slot | None) -> None:
        """Called with each result while its slot's frame is valid."""
        channel = self.channels[result.source]
        channel.result = result
        for listener in self.listeners:
            listener.put(result)
        if not (channel.viewers or channel.whole_wanted) or slot is None or slot.frame is None:
            return
        now = time.monotonic_ns()
        with self.changed:
            if channel.whole_wanted:
                channel.whole, channel.whole_wanted = slot.frame.copy(), False
                self.changed.notify_all()
            if channel.viewers and channel.frame is None and now - channel.offered_ns >= self._interval_ns:
                channel.frame, channel.offered_ns = slot.frame.copy(), now
                self.changed.notify_all()

    def snapshot(self, camera: str, timeout_s: float) -> bytes | None:
        """A JPEG of the next frame, as large as it is; None when none came in time."""
        channel = self.channels[camera]
        with self.changed:
            channel.whole, channel.whole_wanted = None, True
            self.changed.wait_for(lambda: self.closed or channel.whole is not None, timeout_s)
            frame, channel.whole_wanted = channel.whole, False
        return None if frame is None else _jpeg(frame, SNAPSHOT_QUALITY)

    def _encode(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or any(c.frame is not None for c in self.channels.values()))
                if self.closed:
                    return
                channel = next(c for c in self.channels.values() if c.frame is not None)
                frame = channel.frame
            assert frame is not None
            data = _jpeg(self._scaled(frame), JPEG_QUALITY)
            with self.changed:
                channel.frame = None
                channel.jpeg = (channel.jpeg[0] + 1, data)
                self.changed.notify_all()

    def _scaled(self, frame: Frame) -> Frame:
        height, width = frame.shape[:2]
        if width <= self._width:
            return frame
        spec = InputSpec(self._width, max(1, round(height * self._width / width)), resize="stretch")
        return np.ascontiguousarray(Preprocessor(spec)(frame)[:, :, ::-1])


def _jpeg(frame: Frame, quality: int) -> bytes:
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
