"""The capture thread of one camera: reads frames, decides which get an inference, and makes the model's input."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from edge.capture.frame_gate import NO_MOTION, FrameGate, FrozenError
from edge.capture.mailbox import Mailbox, Slot
from edge.capture.model_input import make_image, preprocess_into
from edge.capture.options import DEFAULT_OPTIONS, CaptureOptions
from edge.capture.sources.base import Source
from edge.capture.sources.factory import moment_ns
from edge.capture.times import DEFAULT_TIMES, CaptureTimes
from sightline.backoff import Backoff
from sightline.errors import DataError, InputError, SightlineError, reason
from sightline.interpreter import InputQuantizer
from sightline.predictions import Cause
from sightline.preprocess import Preprocessor
from sightline.timestamps import utc_now

# hangs in a row after which the limit doubles with each hang; the agent restarts when nothing else works either
MAX_CONSECUTIVE_HANGS = 3
MAX_INTERVAL_S = 2.0  # between two frames of a slow camera; a longer one is a pause
MAX_HUNG_THREADS = 16  # of one camera
STOP_TIMEOUT_S = 6.0  # longer than the time-out of one read

OPENING, STREAMING = Cause("opening", "opening"), Cause("no_frame", "the camera sends no frames")

__all__ = ["MAX_CONSECUTIVE_HANGS", "NO_MOTION", "OPENING", "STREAMING", "Capture"]


@dataclass(eq=False)
class _Reader:
    """One capture thread and its state. After a hang another reader replaces it.

    Threads: the reader's thread writes all fields but `replaced`. `Capture.check` reads `call_began_ns` and `slot` from
    another thread; both are single references, which Python assigns atomically. `Capture.check` writes `replaced` while
    the reader's thread is inside a call, and that thread reads it after the call.

    source: the source that this thread reads.
    call_began_ns: monotonic time when the current call into the source began; 0 = in no call.
    opened_ns: monotonic time when the source was opened.
    slot: slot that the source may be writing to.
    replaced: `slot` at the time of the hang. A new slot circulates in its place, so this one is not released.
    """

    source: Source
    thread: threading.Thread = field(init=False)
    call_began_ns: int = 0
    opened_ns: int = 0
    slot: Slot | None = None
    replaced: Slot | None = None


class Capture:
    """Reads a source in its own thread, until the end of a replay or until `stop`.

    A fault of a live source does not leave its capture: the source is closed, and reopened after a pause. If a call
    into a source hangs, its thread is abandoned, and a new thread opens a copy of the source.

    Threads: `start`, `stop` and `prepare` are the agent loop's, `check` is the results thread's. The public attributes
    below are written by the capture thread, and by `check` while that thread hangs. Other threads only read them. Each
    is one number or one frozen object, so a reader gets the old or the new value, never a mixture. An abandoned thread
    that returns compares itself with `_reader` before it writes anything.

    source: the source now read; `check` replaces it.
    state: why there is no frame, were one requested now.
    frames: number of frames read, which is the next frame's id.
    read_ns: monotonic time of the last frame, or of `start`.
    interval_s: smoothed time between two frames.
    reconnects: number of times that the source was reopened, by the cause's code.
    hangs: number of hung calls in a row; a frame resets it.
    resized: number of times that the frame size changed.
    """

    def __init__(
        self,
        source: Source,
        mailbox: Mailbox,
        options: CaptureOptions = DEFAULT_OPTIONS,
        times: CaptureTimes = DEFAULT_TIMES,
    ) -> None:
        """source: not yet open."""
        self.source, self.mailbox, self.options, self._times = source, mailbox, options, times
        self.state = OPENING
        self.frames = 0
        self.read_ns = 0
        self.interval_s = 0.0
        self.reconnects: Counter[str] = Counter()
        self.hangs = 0
        self.resized = 0
        self._unopened = copy.copy(source)
        self._model: tuple[int, InputQuantizer] | None = None
        self._has_model = threading.Event()
        self._stopping = threading.Event()
        self._size: tuple[int, int] | None = None
        self._gate = FrameGate(options, source)
        self._hung: list[_Reader] = []

    def start(self) -> None:
        """Opening does not wait for the model; the first frame does."""
        self.read_ns = time.monotonic_ns()
        self._start_reader()

    def prepare(self, number: int, quantizer: InputQuantizer) -> None:
        """Make the input of this model, from the next frame on. number: of the model, see `Slot.model`."""
        self._model = (number, quantizer)
        self._has_model.set()

    def stop(self) -> None:
        """End the thread. Waits at most `STOP_TIMEOUT_S` for a read that hangs."""
        self._stopping.set()
        self._has_model.set()
        self.mailbox.close()
        self._reader.thread.join(timeout=STOP_TIMEOUT_S)

    @property
    def running(self) -> bool:
        """Whether the capture thread runs."""
        return self._reader.thread.is_alive()

    @property
    def call_began_ns(self) -> int:
        """Monotonic time when the current call into the source began; 0 = in no call."""
        return self._reader.call_began_ns

    @property
    def hung_threads(self) -> list[threading.Thread]:
        """The threads that were abandoned inside a call."""
        return [reader.thread for reader in self._hung]

    def check(self, now_ns: int) -> None:
        """Replace a capture thread that hangs in a call. To be called regularly by another thread."""
        reader = self._reader
        began_ns = reader.call_began_ns
        doublings = max(0, self.hangs - MAX_CONSECUTIVE_HANGS + 1)
        limit_s = min(self._times.hang_s * 2**doublings, self._times.hang_max_s)
        if not self.source.live or not began_ns or now_ns - began_ns < limit_s * 1e9:
            return
        self._hung = [one for one in self._hung if one.thread.is_alive()]
        if len(self._hung) >= MAX_HUNG_THREADS:
            return
        self.hangs += 1
        place = "the network library" if self.source.kind == "stream" else "the camera driver"
        count = f", {self.hangs} times in a row" if self.hangs > 1 else ""
        self.state = Cause("camera", f"{self.source.name}: {place} blocked for {limit_s:g} s{count}")
        self.reconnects["hung"] += 1
        self._hung.append(reader)
        self.source = copy.copy(self._unopened)
        reader.replaced = reader.slot
        if reader.replaced is not None:  # the driver may still write to its memory
            self.mailbox.release(Slot(reader.replaced.camera))
        self._start_reader()

    def _start_reader(self) -> None:
        reader = _Reader(self.source)
        reader.thread = threading.Thread(
            target=self._run, args=(reader,), name=f"capture {self.source.name}", daemon=True
        )
        self._reader = reader
        reader.thread.start()

    def _run(self, reader: _Reader) -> None:
        backoff = Backoff(self._times.backoff_s, self._times.backoff_max_s, vary=self._times.vary)
        while not self._stopping.is_set():
            fault: SightlineError | None = None
            try:
                reader.call_began_ns = time.monotonic_ns()
                reader.source.open()
                reader.call_began_ns = 0
                reader.opened_ns = time.monotonic_ns()
                self._read_all(reader)
            except SightlineError as e:
                fault = e
            except Exception as e:  # any fault of one camera must not end the agent
                fault = SightlineError(f"{reader.source.name}: {type(e).__name__}: {reason(e)}")
            if reader is self._reader:
                if fault is None or not _may_come_back(reader.source, fault):
                    self.mailbox.close(fault)
                    self._close(reader)
                    return
                if self.state in (STREAMING, NO_MOTION):
                    backoff.reset()
                self.state = Cause("frozen" if isinstance(fault, FrozenError) else "camera", str(fault))
                self.reconnects[self.state.code] += 1
            self._close(reader)
            if reader is not self._reader:
                return
            self._stopping.wait(backoff.next_s())

    def _close(self, reader: _Reader) -> None:
        """A driver may hang or raise in `close` too. The device then stays busy, and the next `open` reports it."""
        reader.call_began_ns = time.monotonic_ns()
        try:
            reader.source.close()
        except Exception as e:
            if reader is self._reader:
                self.state = Cause("camera", f"{self.state.text}; closing failed: {type(e).__name__}: {reason(e)}")
        reader.call_began_ns = 0

    def _read_all(self, reader: _Reader) -> None:
        """Read until the end of a replay, a fault, or the reader's replacement."""
        preprocess: Preprocessor | None = None
        if reader is self._reader:
            self._gate.reopened()
        while reader is self._reader and (slot := self.mailbox.empty_slot()) is not None:
            is_passed_on = False
            try:
                if not self._read(reader, slot):
                    return
                self._has_model.wait()
                if self._model is None:  # stopped before there was a model
                    return
                number, quantizer = self._model
                if preprocess is None or preprocess.spec != quantizer.spec:
                    preprocess = Preprocessor(quantizer.spec)
                if not self._gate.is_due(slot.captured_ns):
                    self.mailbox.count_dropped("max_fps")
                    continue
                if slot.frame is not None:
                    make_image(slot, preprocess)
                    if self._is_rejected(reader, slot):
                        continue
                    preprocess_into(slot, quantizer)
                slot.model = number
                slot.ready_ns = time.monotonic_ns()
                slot.preprocess_ms = (slot.ready_ns - slot.captured_ns) / 1e6
                self.state = STREAMING
                is_passed_on = True
                self.mailbox.put(slot)
            finally:
                if not is_passed_on and slot is not reader.replaced:
                    self.mailbox.release(slot)

    def _read(self, reader: _Reader, slot: Slot) -> bool:
        """Put the next frame into the slot, or the cause why it cannot be read.

        False at the end of a replay, and for a thread that was replaced.
        """
        slot.cause = None
        reader.slot = slot
        began = reader.call_began_ns = time.monotonic_ns()
        try:
            slot.frame = reader.source.read(slot.frame)
            if slot.frame is None:
                return False
        except DataError as e:  # this image alone is damaged: the next may be good
            slot.frame, slot.cause = None, Cause("unreadable", str(e))
        finally:
            reader.call_began_ns, reader.slot = 0, None
        if reader is not self._reader:
            return False
        slot.captured_ns = time.monotonic_ns()
        self.interval_s += 0.2 * (min((slot.captured_ns - self.read_ns) / 1e9, MAX_INTERVAL_S) - self.interval_s)
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

    def _is_rejected(self, reader: _Reader, slot: Slot) -> bool:
        """Whether the gate rejects this frame; then it is counted. Raises FrozenError."""
        try:
            cause = self._gate.rejection(slot.image, slot.captured_ns, reader.source, reader.opened_ns)
        except FrozenError:
            self.mailbox.count_dropped("frozen")
            raise
        if cause is None:
            return False
        self.mailbox.count_dropped(cause.code)
        self.state = cause
        return True


def _may_come_back(source: Source, fault: SightlineError) -> bool:
    """A camera may, after any fault. A replay does not, nor does a live clip that is no video."""
    return source.live and not (source.kind == "file" and isinstance(fault, InputError))
