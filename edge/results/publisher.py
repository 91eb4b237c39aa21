"""The thread behind the interpreter: what came out becomes predictions and goes to the sinks, while the next frame is
inferred; and what was not seen is said, once a second."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from edge.capture.capture import MAX_CONSECUTIVE_HANGS, NO_MOTION, STREAMING, Capture
from edge.capture.mailbox import Slot
from edge.inference.model import Model
from edge.inference.time_limit import stuck_after_s
from edge.results.counters import Counters
from edge.results.sink import Sink
from edge.results.tracker import LOW, Tracker
from sightline.errors import DeviceError
from sightline.postprocess import answer as read
from sightline.predictions import Cause, Detection, Prediction, Result
from sightline.timestamps import utc_now

TICK_S = 0.1
SILENCE_S = 1.0  # without a frame for so long, or for two frames' time of a slower camera: say so instead of nothing
Observer = Callable[[Result, Slot | None], None]


@dataclass(frozen=True)
class Answer:
    """What the loop found out about a slot. outputs: as the model stores them; none = nobody looked, for the slot's
    cause. taken_ns, inferred_ns: monotonic, before and after the interpreter."""

    slot: Slot
    model: Model
    outputs: Sequence[NDArray[Any]] = ()
    taken_ns: int = 0
    inferred_ns: int = 0


class Results:
    """Takes answers from the loop, in order; gives the slots back.

    first_result_published: set with the first result. done: set when `frames` results are out, or stdout's
    reader is gone. observers: called with each result and its slot, whose frame is valid during the call only; more may
    be added at any time. threshold: may be changed at any time.
    last_inference_s: monotonic, of each camera's last inference; 0 = never yet. causes: why the newest frame of each
    got no inference; None = it did. inference_s: of one inference, the slowest of the last ones.
    inferring_since_ns: the loop writes it, 0 = it is not inferring: a stuck interpreter is told while it is stuck.
    stuck_after_s: seconds in one inference after which it is; the loop writes it with another model.
    """

    def __init__(
        self,
        model: Model,
        cameras: Sequence[Capture],
        sinks: Sequence[Sink],
        counters: Counters,
        *,
        device: str,
        latency_budget_ms: float,
        top: int = 0,
        threshold: float | None = None,
        frames: int = 0,
        observers: Sequence[Observer] = (),
        track: bool = False,
    ) -> None:
        """top: predictions of a result, at most; 0 = as many as the task has. threshold: None = the model's own.
        frames: results with a look, to end after; 0 = no end. track: whether a detector's boxes are followed."""
        self.model = model
        self.threshold = model.manifest.output.threshold if threshold is None else threshold
        self.inferring_since_ns = 0
        self.inference_s = model.inference_s
        self.stuck_after_s = stuck_after_s(model.inference_s)
        self.alive_ns = time.monotonic_ns()
        self.done, self.first_result_published = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._cameras, self._sinks, self._tally = cameras, sinks, counters
        self._device, self._budget_ms, self._top, self._frames = device, latency_budget_ms, top, frames
        self._observers = observers
        self._track, self._trackers = track, [(model.identity, Tracker()) for _ in cameras]
        self._queue: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._heard = [time.monotonic()] * len(cameras)
        self._next_id = [0] * len(cameras)
        self.last_inference_s = [0.0] * len(cameras)
        self.causes: list[Cause | None] = [None] * len(cameras)
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        self._tally.began = time.monotonic()
        self._thread.start()

    def put(self, answer: Answer) -> None:
        self._queue.put(answer)

    def finish(self) -> None:
        """Wait until everything that was put is with the sinks. Raises what went wrong in the thread."""
        self._queue.put(None)
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            while True:
                try:
                    answer = self._queue.get(timeout=TICK_S)
                except queue.Empty:
                    pass
                else:
                    if answer is None:
                        return
                    if not self.done.is_set():
                        self._answer(answer)
                    self._cameras[answer.slot.camera].mailbox.release(answer.slot)
                self.alive_ns = time.monotonic_ns()
                self._watch()
        except BaseException as e:
            self.error = e
            self.done.set()

    def _answer(self, answer: Answer) -> None:
        slot, model = answer.slot, answer.model
        camera = self._cameras[slot.camera]
        self.model = model
        self._heard[slot.camera] = time.monotonic()
        self._next_id[slot.camera] = slot.frame_id + 1
        self.causes[slot.camera] = slot.cause
        predictions: tuple[Prediction, ...] = ()
        latency: dict[str, float] = {}
        size = None
        if slot.cause is None:
            self.last_inference_s[slot.camera] = self._heard[slot.camera]
            self.inference_s = max((answer.inferred_ns - answer.taken_ns) / 1e9, 0.98 * self.inference_s)
            began = time.monotonic_ns()
            predictions = self._decoded(answer)
            decoded = time.monotonic_ns()
            latency = {
                "capture": slot.capture_ms,
                "preprocess": slot.preprocess_ms,
                "wait": (answer.taken_ns - slot.ready_ns) / 1e6,
                "inference": (answer.inferred_ns - answer.taken_ns) / 1e6,
                "decode": (decoded - began) / 1e6,
                "total": (decoded - slot.captured_ns) / 1e6,
            }
        if slot.frame is not None:
            size = slot.frame.shape[1], slot.frame.shape[0]
        width, height = size or (None, None)
        result = Result(
            self._device, camera.source.name, slot.frame_id, slot.captured_at, slot.captured_ns, model.identity,
            width, height, latency, predictions, slot.dropped, slot.cause, slot.moment_ns,
        )  # fmt: skip
        self._say(result, slot)

    def _decoded(self, answer: Answer) -> tuple[Prediction, ...]:
        m, frame = answer.model.manifest, answer.slot.frame
        assert frame is not None
        lowest = min(self.threshold, LOW) if self._track else self.threshold
        size = frame.shape[1], frame.shape[0]
        found = read(answer.outputs, answer.model.interpreter.outputs, m.input, m.output, size, lowest, self._top)
        if not self._track:
            return found
        identity, tracker = self._trackers[answer.slot.camera]
        if identity != answer.model.identity:  # another model's classes are others
            tracker = Tracker()
            self._trackers[answer.slot.camera] = answer.model.identity, tracker
        boxes = [p for p in found if isinstance(p, Detection)]
        return tracker(boxes, answer.slot.moment_ns or answer.slot.captured_ns, self.threshold)

    def _watch(self) -> None:
        """Say of each camera that gives nothing why it does not. One whose frames wait for their turn, behind a slow
        model and other cameras, gives something."""
        now_ns = time.monotonic_ns()
        stuck_s = (now_ns - self.inferring_since_ns) / 1e9 if self.inferring_since_ns else 0.0
        stuck = stuck_s > self.stuck_after_s
        for i, camera in enumerate(self._cameras):
            if not camera.source.live or camera.mailbox.ended or now_ns / 1e9 - self._heard[i] < SILENCE_S:
                continue
            camera.check(now_ns)
            cause = camera.state
            if stuck:
                cause = Cause("inference_stuck", f"the interpreter has been busy with one frame for {stuck_s:.0f} s")
            elif cause == STREAMING and (now_ns - camera.read_ns) / 1e9 < max(SILENCE_S, 2 * camera.interval_s):
                continue
            self._heard[i] = now_ns / 1e9
            dropped = camera.mailbox.take_dropped()
            result = Result(
                self._device, camera.source.name, self._next_id[i], utc_now(), now_ns, self.model.identity,
                None, None, {}, (), dropped, cause,
            )  # fmt: skip
            self._say(result, None)
        self._end_if_blocked()

    def _end_if_blocked(self) -> None:
        """A driver that blocks again and again is freed by a new process at best. As long as another camera works it
        has more to lose than this one to win."""
        cameras = [camera for camera in self._cameras if camera.source.live and not camera.mailbox.ended]
        blocked = next((camera for camera in cameras if camera.hangs >= MAX_CONSECUTIVE_HANGS), None)
        if blocked and not any(camera.state in (STREAMING, NO_MOTION) for camera in cameras):
            others = "; no other camera works" if len(self._cameras) > 1 else ""
            raise DeviceError(f"{blocked.state.text}{others}. Restart the agent; a supervisor does it by itself")

    def _say(self, result: Result, slot: Slot | None) -> None:
        if not self.first_result_published.is_set():
            self.first_result_published.set()
        self._tally.add(result, self._budget_ms)
        for sink in self._sinks:
            sink.put(result)
        for observer in self._observers:
            observer(result, slot)
        if (self._frames and self._tally.frames >= self._frames) or any(s.reader_gone for s in self._sinks):
            self.done.set()
