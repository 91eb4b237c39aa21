"""The data of the live page: each camera's newest result, and its image while somebody views it.

Images are copied, scaled and encoded at most `fps` times a second, in a thread of their own, once for all viewers of a
camera. Without viewers the loop pays for one reference a result. `edge.web.routes` serves the data.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edge.capture.mailbox import Slot
from edge.monitoring.health import Monitor, Problems
from edge.results.jpeg import encode_jpeg
from edge.results.sink import memory_bytes
from sightline.errors import reason
from sightline.predictions import Result
from sightline.preprocess import Frame, InputSpec, Preprocessor

JPEG_QUALITY, SNAPSHOT_QUALITY = 80, 92
BACKLOG, BACKLOG_BYTES = 256, 4 << 20  # limits of the results that wait for a listener
MAX_SIDE = 8192  # pixels of an image that the preprocessor can make


class Channel:
    """One camera of the page.

    Threads: see `Page`. Its attributes change with the page's lock held; `result` is one reference.

    result: the newest one.
    jpeg: number and bytes of the newest image.
    viewers: number of open streams.
    problem: why the newest image cannot be shown; None if it can.
    frame, offered_ns: the frame to encode next, and when it was copied.
    full_frame: number and frame for snapshots, in full size.
    snapshot_due: whether the next frame is to be copied for a snapshot.
    waiting: number of requests that wait for a snapshot.
    """

    def __init__(self) -> None:
        self.result: Result | None = None
        self.jpeg: tuple[int, bytes] = (0, b"")
        self.viewers = 0
        self.problem: str | None = None
        self.frame: Frame | None = None
        self.offered_ns = 0
        self.full_frame: tuple[int, Frame | None] = (0, None)
        self.snapshot_due = False
        self.waiting = 0


class Listener:
    """A client that gets every result. The oldest are dropped if it does not take them in time.

    Threads: the publisher's thread calls `put`, the client's thread `take`; both hold the lock.

    missed: number of results dropped since the last `take`.
    """

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
        """The oldest result, or None if there is none in time; and the number of results dropped before it."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._results, timeout_s):
                return None, 0
            result, missed = self._results.popleft(), self.missed
            self._bytes -= memory_bytes(result)
            self.missed = 0
            return result, missed


class Page:
    """The live page.

    Threads: the publisher's thread calls `observe`; one encoder thread makes the images; each client has a thread of
    the server. They change channels, `views` and `listeners` with the lock of `changed` held. `listeners` and `views`
    are replaced as a whole, so that `observe` can read them without it. `info` and `monitor` are references that the
    main thread replaces.

    info: facts about the running model, its cameras and zones.
    status: returns the state of the agent; called for each event.
    changed: notified when there is a new frame, image or snapshot, and at the end.
    views: names that browser windows gave to the streams they receive.
    monitor: for health and metrics; None until there is a loop.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        *,
        fps: int,
        width: int,
        info: dict[str, Any],
        status: Callable[[], dict[str, Any]],
        set_threshold: Callable[[float], None] = lambda value: None,
        encode: Callable[[Frame, int], bytes] = encode_jpeg,
    ) -> None:
        """
        fps: most images a second of one camera.
        width: most pixels of a stream's width; its height is at most twice that.
        encode: makes a JPEG of a frame with a quality.
        """
        self.info, self.status, self.set_threshold = info, status, set_threshold
        self.channels = {name: Channel() for name in cameras}
        self.listeners: tuple[Listener, ...] = ()
        self.views: tuple[str, ...] = ()
        self.changed = threading.Condition()
        self.closed = False
        self.monitor: Monitor | None = None
        self._interval_ns, self._width, self._encode = 1_000_000_000 // fps, width, encode
        self._thread = threading.Thread(target=self._run, name="page encoder", daemon=True)
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
        if not (channel.viewers or channel.snapshot_due) or slot is None or slot.frame is None:
            return
        now = time.monotonic_ns()
        with self.changed:
            if channel.snapshot_due:
                channel.full_frame, channel.snapshot_due = (channel.full_frame[0] + 1, slot.frame.copy()), False
                self.changed.notify_all()
            if channel.viewers and channel.frame is None and now - channel.offered_ns >= self._interval_ns:
                channel.frame, channel.offered_ns = slot.frame.copy(), now
                self.changed.notify_all()

    @contextlib.contextmanager
    def listening(self, camera: str) -> Iterator[Listener]:
        """A listener for the duration of the block. camera: '' = all."""
        listener = Listener(camera)
        with self.changed:  # a new tuple each time: `observe` may be iterating the old one
            self.listeners = (*self.listeners, listener)
        try:
            yield listener
        finally:
            with self.changed:
                self.listeners = tuple(one for one in self.listeners if one is not listener)

    @contextlib.contextmanager
    def viewing(self, camera: str, view: str = "") -> Iterator[Channel]:
        """Make the camera's images for the duration of the block. view: the browser window's name for this stream."""
        channel = self.channels[camera]
        with self.changed:
            if not channel.viewers:  # the last viewer's image may be from yesterday
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
        """Cameras whose images cannot be shown, while somebody views them."""
        return {
            name: {"code": "page", "text": channel.problem}
            for name, channel in self.channels.items()
            if channel.problem
        }

    def snapshot(self, camera: str, timeout_s: float) -> bytes | None:
        """A JPEG of the next frame, in full size; None if there is none in time. Raises DeviceError."""
        channel = self.channels[camera]
        with self.changed:
            before = channel.full_frame[0]
            channel.snapshot_due = True
            channel.waiting += 1
            self.changed.wait_for(lambda: self.closed or channel.full_frame[0] != before, timeout_s)
            frame = channel.full_frame[1] if channel.full_frame[0] != before else None
            channel.waiting -= 1
            if not channel.waiting:  # other requests may still wait
                channel.full_frame, channel.snapshot_due = (channel.full_frame[0], None), False
        return None if frame is None else self._encode(frame, SNAPSHOT_QUALITY)

    def _run(self) -> None:
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
                data = self._encode(self._scale(frame), JPEG_QUALITY)
            except Exception as e:  # only this image: the thread must live for the next one
                height, width = frame.shape[:2]
                problem = f"an image of {width}x{height} cannot be shown: {reason(e)}"
            with self.changed:
                channel.frame, channel.problem = None, problem
                if data:
                    channel.jpeg = (channel.jpeg[0] + 1, data)
                self.changed.notify_all()

    def _scale(self, frame: Frame) -> Frame:
        """Reduce the frame to the page's width, and twice that in height."""
        height, width = frame.shape[:2]
        scale = min(1, min(self._width, MAX_SIDE) / width, min(2 * self._width, MAX_SIDE) / height)
        if scale == 1:
            return frame
        spec = InputSpec(max(1, round(width * scale)), max(1, round(height * scale)), resize="stretch")
        return np.ascontiguousarray(Preprocessor(spec)(frame)[:, :, ::-1])
