"""What the live page shows: of each camera the newest result, and its picture while somebody looks.

The picture is copied, scaled and encoded at most `fps` times a second, in a thread of its own, once for all viewers of
a camera; without viewers the loop pays for one reference a result. `edge.web.routes` serves it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from edge.capture.mailbox import Slot
from edge.monitoring.health import Monitor, Problems
from edge.results.sink import memory_bytes
from sightline.errors import DeviceError, reason
from sightline.predictions import Result
from sightline.preprocess import Frame, InputSpec, Preprocessor

JPEG_QUALITY, SNAPSHOT_QUALITY = 80, 92
BACKLOG, BACKLOG_BYTES = 256, 4 << 20  # results that a listener may be behind
LONGEST = 8192  # side of an image that can be scaled to


class Channel:
    """One camera. result: its newest. jpeg: number and bytes of its newest picture. viewers: of the picture. problem:
    why the newest one cannot be shown; None when it can."""

    def __init__(self) -> None:
        self.result: Result | None = None
        self.jpeg: tuple[int, bytes] = (0, b"")
        self.viewers = 0
        self.problem: str | None = None
        self.frame: Frame | None = None  # to be encoded
        self.offered_ns = 0
        self.whole: tuple[int, Frame | None] = (0, None)  # for snapshots, with its number
        self.whole_wanted = False
        self.waiting = 0  # for a snapshot


class Listener:
    """Somebody who wants every result: the oldest are dropped when they are not taken in time, and counted."""

    def __init__(self, camera: str) -> None:
        """camera: '' = all."""
        self.camera = camera
        self.missed = 0
        self._results: deque[Result] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, result: Result) -> None:
        if self.camera and result.source != self.camera:
            return
        with self._changed:
            self._results.append(result)
            self._bytes += memory_bytes(result)
            while len(self._results) > BACKLOG or (self._bytes > BACKLOG_BYTES and len(self._results) > 1):
                self._bytes -= memory_bytes(self._results.popleft())
                self.missed += 1
            self._changed.notify()

    def take(self, timeout_s: float) -> tuple[Result | None, int]:
        """The oldest, None when none came in time; and how many were dropped before it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._results, timeout_s):
                return None, 0
            result, missed = self._results.popleft(), self.missed
            self._bytes -= memory_bytes(result)
            self.missed = 0
            return result, missed


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
        self.listeners: tuple[Listener, ...] = ()
        self.views: tuple[str, ...] = ()  # that a browser's window gave to its picture, while that is sent
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
                channel.whole, channel.whole_wanted = (channel.whole[0] + 1, slot.frame.copy()), False
                self.changed.notify_all()
            if channel.viewers and channel.frame is None and now - channel.offered_ns >= self._interval_ns:
                channel.frame, channel.offered_ns = slot.frame.copy(), now
                self.changed.notify_all()

    @contextlib.contextmanager
    def listening(self, camera: str) -> Iterator[Listener]:
        """One that gets every result meanwhile. camera: '' = all."""
        listener = Listener(camera)
        with self.changed:  # a new tuple each time: `observe` may be in the middle of the old one
            self.listeners = (*self.listeners, listener)
        try:
            yield listener
        finally:
            with self.changed:
                self.listeners = tuple(one for one in self.listeners if one is not listener)

    @contextlib.contextmanager
    def looking_at(self, camera: str, view: str = "") -> Iterator[Channel]:
        """Its pictures are made meanwhile. view: what a browser's window calls this stream."""
        channel = self.channels[camera]
        with self.changed:
            if not channel.viewers:  # what the last viewer saw may be from yesterday
                channel.jpeg = (channel.jpeg[0], b"")
            channel.viewers += 1
            self.views = (*self.views, view)
        try:
            yield channel
        finally:
            with self.changed:
                channel.viewers -= 1
                at = self.views.index(view)
                self.views = self.views[:at] + self.views[at + 1 :]
                if not channel.viewers:
                    channel.problem = None

    def problems(self) -> Problems:
        """Cameras whose pictures cannot be shown, while somebody wants to see them."""
        return {
            name: {"code": "page", "text": channel.problem}
            for name, channel in self.channels.items()
            if channel.problem
        }

    def snapshot(self, camera: str, timeout_s: float) -> bytes | None:
        """A JPEG of the next frame, as large as it is; None when none came in time. Raises DeviceError."""
        channel = self.channels[camera]
        with self.changed:
            before = channel.whole[0]
            channel.whole_wanted = True
            channel.waiting += 1
            self.changed.wait_for(lambda: self.closed or channel.whole[0] != before, timeout_s)
            frame = channel.whole[1] if channel.whole[0] != before else None
            channel.waiting -= 1
            if not channel.waiting:  # others' wishes outlive this one
                channel.whole, channel.whole_wanted = (channel.whole[0], None), False
        return None if frame is None else _jpeg(frame, SNAPSHOT_QUALITY)

    def _encode(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or any(c.frame is not None for c in self.channels.values()))
                if self.closed:
                    return
                offered = [c for c in self.channels.values() if c.frame is not None]
                channel = min(offered, key=lambda c: c.offered_ns)
                frame = channel.frame
            assert frame is not None
            data, problem = b"", None
            try:
                data = _jpeg(self._scaled(frame), JPEG_QUALITY)
            except Exception as e:  # this image alone: the thread must live for the next one
                height, width = frame.shape[:2]
                problem = f"an image of {width}x{height} cannot be shown: {reason(e)}"
            with self.changed:
                channel.frame, channel.problem = None, problem
                if data:
                    channel.jpeg = (channel.jpeg[0] + 1, data)
                self.changed.notify_all()

    def _scaled(self, frame: Frame) -> Frame:
        """At most as wide as is wanted, and twice as high."""
        height, width = frame.shape[:2]
        scale = min(1, min(self._width, LONGEST) / width, min(2 * self._width, LONGEST) / height)
        if scale == 1:
            return frame
        spec = InputSpec(max(1, round(width * scale)), max(1, round(height * scale)), resize="stretch")
        return np.ascontiguousarray(Preprocessor(spec)(frame)[:, :, ::-1])


def _jpeg(frame: Frame, quality: int) -> bytes:
    """Raises DeviceError: a JPEG has at most 65500 pixels a side."""
    try:
        done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as e:
        raise DeviceError(f"no JPEG can be made of {frame.shape[1]}x{frame.shape[0]} pixels: {reason(e)}") from None
    if not done:
        raise DeviceError(f"no JPEG can be made of {frame.shape[1]}x{frame.shape[0]} pixels")
    return data.tobytes()
