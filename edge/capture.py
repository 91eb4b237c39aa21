"""The capture thread of one camera: reads, looks whether it is worth an inference, and makes the model's input."""

from __future__ import annotations

import datetime
import threading
import time
from collections import Counter
from dataclasses import dataclass

from edge.mailbox import Mailbox, Slot
from edge.scene import Frozen, Motion
from edge.sources import Source, moment_ns
from sightline.errors import DataError, DeviceError, SightlineError, SourceError
from sightline.interpreter import Encoder
from sightline.predictions import Cause
from sightline.preprocess import Preprocessor

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
HANG_S = 10.0  # in one read: longer than any source's own time-out
HANGS = 3  # threads that are left behind in a driver, before the process is


@dataclass(frozen=True)
class Watch:
    """How a camera is watched; replays are not. max_fps: frames a second that are looked at, at most; 0 = all. motion:
    percent of the pixels that must change before the model looks; 0 = it always does. frozen_s: seconds of the very
    same picture after which the camera counts as frozen and is opened again; 0 = never."""

    max_fps: float = 0.0
    motion: float = 0.0
    frozen_s: float = 10.0


OPENING, LIVE = Cause("opening", "opening"), Cause("no_frame", "the camera gives no frame")
STILL = Cause("no_motion", "nothing moves")


class Capture:
    """Reads a source in a thread of its own, to the end of a replay or until `stop`.

    state: why there is no frame, were one asked for now. frames: read so far, which is the next one's id.
    reconnects: times that it was opened again, by the cause's code. resized: times that the size changed.
    """

    def __init__(self, source: Source, mailbox: Mailbox, watch: Watch = Watch()) -> None:
        self.source, self.mailbox, self.watch = source, mailbox, watch
        self.state = OPENING
        self.frames = 0
        self.reconnects: Counter[str] = Counter()
        self.resized = 0
        self._model: tuple[int, Encoder] | None = None
        self._known = threading.Event()
        self._stopping = threading.Event()
        self._size: tuple[int, int] | None = None
        self._frozen = Frozen()
        self._motion = Motion(watch.motion)
        self._reading_since_ns = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Opening does not wait for the model; the first frame does."""
        thread = threading.Thread(target=self._run, name=f"capture {self.source.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def prepare(self, number: int, encoder: Encoder) -> None:
        """From the next frame on, make the input of this model."""
        self._model = (number, encoder)
        self._known.set()

    def stop(self) -> None:
        """Ends the thread; waits for a read that hangs no longer than that read's own time-out."""
        self._stopping.set()
        self._known.set()
        self.mailbox.close()
        self._threads[-1].join(timeout=6)

    def check(self, now_ns: int) -> None:
        """Leave behind a thread that hangs in its driver, and read with a new one. Called now and then by another."""
        since = self._reading_since_ns
        if not self.source.live or not since or now_ns - since < HANG_S * 1e9:
            return
        self._reading_since_ns = 0
        text = f"{self.source.name}: hangs in its driver for {HANG_S:g} s"
        if len(self._threads) >= HANGS:
            self.mailbox.close(DeviceError(f"{text}, again and again; this process starts anew"))
            return
        self.state = Cause("camera", text)
        self.reconnects["hung"] += 1
        self.start()

    @property
    def _left_behind(self) -> bool:
        return threading.current_thread() is not self._threads[-1]

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._reading_since_ns = time.monotonic_ns()
                self.source.open()
                self._reading_since_ns = 0
                self._read_all()
                if not self._left_behind:
                    self.mailbox.close()
                return
            except SightlineError as e:
                if self._left_behind:
                    return
                if not (isinstance(e, SourceError) and self.source.live):
                    self.mailbox.close(e)
                    return
                if self.state in (LIVE, STILL):
                    failures = 0
                frozen = isinstance(e, _FrozenError)
                self.state = Cause("frozen" if frozen else "camera", str(e))
                self.reconnects[self.state.code] += 1
            except Exception as e:
                # a thread's exception is nobody's: hand it to the loop as what it is, a fault of our own
                self.mailbox.close(SightlineError(f"capture of {self.source.name}: {type(e).__name__}: {e}"))
                return
            finally:
                if not self._left_behind:
                    self._reading_since_ns = 0
                    self.source.close()
            import random  # 1 ms, which a camera that works need not pay

            self._stopping.wait(min(BACKOFF_MAX_S, BACKOFF_S * 2**failures) * random.uniform(0.7, 1.3))
            failures = min(failures + 1, 16)

    def _read_all(self) -> None:
        preprocess: Preprocessor | None = None
        due_ns = 0
        while (slot := self.mailbox.empty_slot()) is not None:
            kept = False
            try:
                if not self._read(slot):
                    return
                self._known.wait()
                if self._model is None:  # stopped before there was one
                    return
                number, encoder = self._model
                if preprocess is None or preprocess.spec != encoder.spec:
                    preprocess = Preprocessor(encoder.spec)
                if self.watch.max_fps and self.source.live:
                    if slot.captured_ns < due_ns:
                        self.mailbox.lost("max_fps")
                        continue
                    # a schedule, not a distance: at 10 of 30 a second every third is taken, not every fourth
                    period_ns = int(1e9 / self.watch.max_fps)
                    due_ns = max(due_ns or slot.captured_ns, slot.captured_ns - period_ns) + period_ns
                if slot.frame is not None:
                    make_image(slot, preprocess)
                    if not self._worth_it(slot):
                        continue
                    make_entry(slot, encoder)
                slot.model = number
                slot.ready_ns = time.monotonic_ns()
                slot.preprocess_ms = (slot.ready_ns - slot.captured_ns) / 1e6
                self.state = LIVE
                kept = True
                self.mailbox.put(slot)
            finally:
                if not kept:
                    self.mailbox.release(slot)

    def _read(self, slot: Slot) -> bool:
        """The next frame, or the cause why this one cannot be had, into the slot; False at the end of a replay, or when
        nobody waits for this thread any more."""
        began = self._reading_since_ns = time.monotonic_ns()
        slot.cause = None
        try:
            slot.frame = self.source.read(slot.frame)
            if slot.frame is None:
                return False
        except DataError as e:  # about this picture alone: the next is worth reading
            slot.frame, slot.cause = None, Cause("unreadable", str(e))
        if self._left_behind:
            return False
        self._reading_since_ns = 0
        slot.captured_ns = time.monotonic_ns()
        slot.captured_at = utc_now()
        slot.capture_ms = (slot.captured_ns - began) / 1e6
        slot.frame_id = self.frames
        slot.moment_ns = moment_ns(self.source, self.frames)
        self.frames += 1
        if slot.frame is not None:
            size = slot.frame.shape[1], slot.frame.shape[0]
            self.resized += self._size not in (None, size)
            self._size = size
        return True

    def _worth_it(self, slot: Slot) -> bool:
        """Whether the model should look at a camera's picture. Raises SourceError for a camera that is frozen."""
        if not self.source.live:
            return True
        limit = self.watch.frozen_s
        if limit and self.source.kind in ("camera", "stream"):
            seconds = self._frozen.seconds(slot.image, slot.captured_ns)
            if seconds >= limit:
                self.mailbox.lost("frozen")
                raise _FrozenError(f"{self.source.name}: frozen, the very same picture for {seconds:.0f} s")
        if self.watch.motion and not self._motion.moved(slot.image, slot.captured_ns):
            self.mailbox.lost("no_motion")
            self.state = STILL
            return False
        return True


def make_image(slot: Slot, preprocess: Preprocessor) -> None:
    """The slot's frame in the model's size."""
    assert slot.frame is not None
    if slot.image.shape != (preprocess.spec.height, preprocess.spec.width, 3):
        slot.image = preprocess.empty()
    preprocess(slot.frame, slot.image)


def make_entry(slot: Slot, encoder: Encoder) -> None:
    """The slot's image as the model's input tensor takes it."""
    if slot.entry.shape != encoder.tensor.shape or slot.entry.dtype != encoder.tensor.dtype:
        slot.entry = encoder.empty()
    encoder(slot.image, slot.entry)


class _FrozenError(SourceError):
    pass


def utc_now() -> str:
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"
