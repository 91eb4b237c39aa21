"""The capture thread of one camera: reads, looks whether it is worth an inference, and makes the model's input."""

from __future__ import annotations

import copy
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from edge.capture.mailbox import Mailbox, Slot
from edge.capture.motion import FreezeDetector, MotionDetector
from edge.capture.sources.base import Source
from edge.capture.sources.factory import moment_ns
from sightline.backoff import Backoff
from sightline.errors import ConfigError, DataError, InputError, SightlineError, SourceError, reason
from sightline.interpreter import InputQuantizer
from sightline.predictions import Cause
from sightline.preprocess import Preprocessor
from sightline.timestamps import utc_now

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
HANG_S = 10.0  # in one call of a source: longer than its own time-outs
HANGS = 3  # in a row: from then on each one may take twice as long as the one before
HANG_MAX_S = 600.0
# as long may an H.264 picture stand still: noise below the encoder's steps is not sent until its next key frame, and
# cameras that save bits have one a minute
BETWEEN_KEY_FRAMES = 12
INTERVAL_MAX_S = 2.0  # between two frames of a slow camera; more is a pause
LEFT_BEHIND = 16  # threads of one camera that its driver never gave back


@dataclass(frozen=True)
class Watch:
    """How a camera is watched; replays are not. max_fps: frames a second that are looked at, at most; 0 = all. motion:
    percent of the pixels that must change before the model looks; 0 = it always does. frozen_s: seconds of the very
    same picture after which the camera counts as frozen and is opened again; 0 = never. Raises ConfigError for what is
    no finite number from 0 on."""

    max_fps: float = 0.0
    motion: float = 0.0
    frozen_s: float = 10.0

    def __post_init__(self) -> None:
        for key in ("max_fps", "motion", "frozen_s"):
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{key} must be a number from 0 on, not {value:g}")


OPENING, STREAMING = Cause("opening", "opening"), Cause("no_frame", "the camera gives no frame")
NO_MOTION = Cause("no_motion", "nothing moves")


@dataclass(eq=False)
class _Reader:
    """One thread of a capture, and what is its own. since_ns: monotonic, when the call of the source began that it is
    in; 0 = it is in none. slot: that the source may be writing to. replaced: the slot that was so when the thread was
    left behind; another one goes round in its place."""

    source: Source
    thread: threading.Thread = field(init=False)
    since_ns: int = 0
    slot: Slot | None = None
    replaced: Slot | None = None


class Capture:
    """Reads a source in a thread of its own, to the end of a replay or until `stop`.

    Whatever a live source raises stays with it: it is closed, and opened again after a pause. One that does not come
    back from a call is left behind with its thread, and a new one is opened by a new thread.

    state: why there is no frame, were one asked for now. frames: read so far, which is the next one's id.
    read_ns: monotonic, when the last one was read, or the capture was started. interval_s: between two of them, lately.
    reconnects: times that it was opened
    again, by the cause's code. hangs: calls in a row that did not come back; a frame ends the row.
    resized: times that the size changed.
    """

    def __init__(self, source: Source, mailbox: Mailbox, watch: Watch = Watch()) -> None:
        """source: not open yet."""
        self.source, self.mailbox, self.watch = source, mailbox, watch
        self.state = OPENING
        self.frames = 0
        self.read_ns = 0
        self.interval_s = 0.0
        self.reconnects: Counter[str] = Counter()
        self.hangs = 0
        self.resized = 0
        self._unopened = copy.copy(source)
        self._period_ns = int(min(1e9 / watch.max_fps, 86_400e9)) if watch.max_fps and source.live else 0
        self._model: tuple[int, InputQuantizer] | None = None
        self._known = threading.Event()
        self._stopping = threading.Event()
        self._size: tuple[int, int] | None = None
        self._frozen, self._opened_ns = FreezeDetector(), 0
        self._motion = MotionDetector(watch.motion)
        self._left: list[_Reader] = []

    def start(self) -> None:
        """Opening does not wait for the model; the first frame does."""
        self.read_ns = time.monotonic_ns()
        self._begin()

    def prepare(self, number: int, quantizer: InputQuantizer) -> None:
        """From the next frame on, make the input of this model."""
        self._model = (number, quantizer)
        self._known.set()

    def stop(self) -> None:
        """Ends the thread; waits for a read that hangs no longer than that read's own time-out."""
        self._stopping.set()
        self._known.set()
        self.mailbox.close()
        self._reader.thread.join(timeout=6)

    def check(self, now_ns: int) -> None:
        """Leave behind a thread that hangs in its driver, and read with a new one. Called now and then by another."""
        reader = self._reader
        since = reader.since_ns
        limit_s = min(HANG_S * 2 ** max(0, self.hangs - HANGS + 1), HANG_MAX_S)
        if not self.source.live or not since or now_ns - since < limit_s * 1e9:
            return
        self._left = [one for one in self._left if one.thread.is_alive()]
        if len(self._left) >= LEFT_BEHIND:
            return
        self.hangs += 1
        what = "the network library" if self.source.kind == "stream" else "the camera driver"
        times = f", {self.hangs} times in a row" if self.hangs > 1 else ""
        self.state = Cause("camera", f"{self.source.name}: {what} blocked for {limit_s:g} s{times}")
        self.reconnects["hung"] += 1
        self._left.append(reader)
        self.source = copy.copy(self._unopened)
        reader.replaced = reader.slot
        if reader.replaced is not None:  # its memory is the driver's
            self.mailbox.release(Slot(reader.replaced.camera))
        self._begin()

    def _begin(self) -> None:
        reader = _Reader(self.source)
        reader.thread = threading.Thread(
            target=self._run, args=(reader,), name=f"capture {self.source.name}", daemon=True
        )
        self._reader = reader
        reader.thread.start()

    def _run(self, reader: _Reader) -> None:
        backoff = Backoff(BACKOFF_S, BACKOFF_MAX_S)
        while not self._stopping.is_set():
            fault: SightlineError | None = None
            try:
                reader.since_ns = time.monotonic_ns()
                reader.source.open()
                reader.since_ns = 0
                self._opened_ns = time.monotonic_ns()
                self._read_all(reader)
            except SightlineError as e:
                fault = e
            except Exception as e:  # whatever it is, it is this camera's alone
                fault = SightlineError(f"{reader.source.name}: {type(e).__name__}: {reason(e)}")
            if reader is self._reader:
                if fault is None or not _may_come_back(reader.source, fault):
                    self.mailbox.close(fault)
                    self._close(reader)
                    return
                if self.state in (STREAMING, NO_MOTION):
                    backoff.reset()
                self.state = Cause("frozen" if isinstance(fault, _FrozenError) else "camera", str(fault))
                self.reconnects[self.state.code] += 1
            self._close(reader)
            if reader is not self._reader:
                return
            self._stopping.wait(backoff.next_s())

    def _close(self, reader: _Reader) -> None:
        """A driver may hang in this as well, or raise: the device is then not free, and the next `open` says so."""
        reader.since_ns = time.monotonic_ns()
        try:
            reader.source.close()
        except Exception as e:
            if reader is self._reader:
                self.state = Cause("camera", f"{self.state.text}; closing it failed: {type(e).__name__}: {reason(e)}")
        reader.since_ns = 0

    def _read_all(self, reader: _Reader) -> None:
        preprocess: Preprocessor | None = None
        due_ns = 0
        while reader is self._reader and (slot := self.mailbox.empty_slot()) is not None:
            kept = False
            try:
                if not self._read(reader, slot):
                    return
                self._known.wait()
                if self._model is None:  # stopped before there was one
                    return
                number, quantizer = self._model
                if preprocess is None or preprocess.spec != quantizer.spec:
                    preprocess = Preprocessor(quantizer.spec)
                if self._period_ns:
                    if slot.captured_ns < due_ns:
                        self.mailbox.lost("max_fps")
                        continue
                    # a schedule, not a distance: at 10 of 30 a second every third is taken, not every fourth
                    due_ns = max(due_ns or slot.captured_ns, slot.captured_ns - self._period_ns) + self._period_ns
                if slot.frame is not None:
                    make_image(slot, preprocess)
                    if not self._worth_it(slot):
                        continue
                    preprocess_into(slot, quantizer)
                slot.model = number
                slot.ready_ns = time.monotonic_ns()
                slot.preprocess_ms = (slot.ready_ns - slot.captured_ns) / 1e6
                self.state = STREAMING
                kept = True
                self.mailbox.put(slot)
            finally:
                if not kept and slot is not reader.replaced:
                    self.mailbox.release(slot)

    def _read(self, reader: _Reader, slot: Slot) -> bool:
        """The next frame, or the cause why this one cannot be had, into the slot; False at the end of a replay, or when
        nobody waits for this thread any more."""
        slot.cause = None
        reader.slot = slot
        began = reader.since_ns = time.monotonic_ns()
        try:
            slot.frame = reader.source.read(slot.frame)
            if slot.frame is None:
                return False
        except DataError as e:  # about this picture alone: the next is worth reading
            slot.frame, slot.cause = None, Cause("unreadable", str(e))
        finally:
            reader.since_ns, reader.slot = 0, None
        if reader is not self._reader:
            return False
        slot.captured_ns = time.monotonic_ns()
        self.interval_s += 0.2 * (min((slot.captured_ns - self.read_ns) / 1e9, INTERVAL_MAX_S) - self.interval_s)
        self.read_ns = slot.captured_ns
        slot.captured_at = utc_now()
        slot.capture_ms = (slot.captured_ns - began) / 1e6
        slot.frame_id = self.frames
        slot.moment_ns = moment_ns(self.source, self.frames)
        self.frames += 1
        if slot.frame is not None:
            self.hangs = 0
            size = slot.frame.shape[1], slot.frame.shape[0]
            self.resized += self._size not in (None, size)
            self._size = size
        return True

    def _worth_it(self, slot: Slot) -> bool:
        """Whether the model should look at a camera's picture. Raises SourceError for a camera that is frozen."""
        if not self.source.live:
            return True
        limit = self.watch.frozen_s
        if self.source.kind == "stream" and not self.source.format.startswith("MJPG"):
            limit *= BETWEEN_KEY_FRAMES
        if limit and self.source.kind in ("camera", "stream"):
            seconds = self._frozen.seconds(slot.image, slot.captured_ns)
            if seconds >= limit:
                self.mailbox.lost("frozen")
                text = f"{self.source.name}: frozen, the very same picture for {seconds:.0f} s"
                if slot.captured_ns - self._opened_ns >= limit * 1e9:
                    raise _FrozenError(text)
                # just opened: what it begins with may be what it ended with, and the next one another
                self.state = Cause("frozen", text)
                return False
        if self.watch.motion and not self._motion.moved(slot.image, slot.captured_ns):
            self.mailbox.lost("no_motion")
            self.state = NO_MOTION
            return False
        return True


def make_image(slot: Slot, preprocess: Preprocessor) -> None:
    """The slot's frame in the model's size."""
    assert slot.frame is not None
    if slot.image.shape != (preprocess.spec.height, preprocess.spec.width, 3):
        slot.image = preprocess.empty()
    preprocess(slot.frame, slot.image)


def preprocess_into(slot: Slot, quantizer: InputQuantizer) -> None:
    """The slot's image as the model's input tensor takes it."""
    if slot.entry.shape != quantizer.tensor.shape or slot.entry.dtype != quantizer.tensor.dtype:
        slot.entry = quantizer.empty()
    quantizer(slot.image, slot.entry)


class _FrozenError(SourceError):
    pass


def _may_come_back(source: Source, fault: SightlineError) -> bool:
    """A camera may, whatever it raised; a replay, and a clip that is played as a camera and is no clip, do not."""
    return source.live and not (source.kind == "file" and isinstance(fault, InputError))
