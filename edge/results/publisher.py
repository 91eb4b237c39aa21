"""The publisher thread: turns model outputs into results and gives them to the sinks, while the next frame is inferred.

Once a second it also publishes a result without inference for each camera that has no frames.
"""

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
from sightline.postprocess import postprocess
from sightline.predictions import Cause, Detection, Prediction, Result
from sightline.timestamps import utc_now

TICK_S = 0.1
SILENCE_S = 1.0  # without a frame, or twice a slower camera's interval: then a result states the cause
Observer = Callable[[Result, Slot | None], None]


@dataclass(frozen=True)
class Answer:
    """The loop's outcome for a slot.

    outputs: as the model stores them; empty = no inference, for the slot's cause.
    taken_ns, inferred_ns: monotonic, before and after the interpreter.
    """

    slot: Slot
    model: Model
    outputs: Sequence[NDArray[Any]] = ()
    taken_ns: int = 0
    inferred_ns: int = 0


@dataclass(frozen=True)
class ResultOptions:
    """How results are made.

    device: name of the device, for each result.
    latency_budget_ms: frames that take longer are counted.
    top: maximum number of predictions of a result; 0 = all.
    threshold: lowest score; None = the model's own.
    frames: number of results with inference after which the run ends; 0 = no end.
    track: whether a detector's objects are tracked.
    silence_s: time without a frame after which a result states the cause.
    """

    device: str
    latency_budget_ms: float
    top: int = 0
    threshold: float | None = None
    frames: int = 0
    track: bool = False
    silence_s: float = SILENCE_S


class Results:
    """Takes answers from the loop, in order, and publishes their results. Returns the slots to their cameras.

    Threads: the loop calls `put` and `finish`, and writes `inferring_since_ns` and `stuck_after_s`. Any thread may set
    `threshold` and extend `observers`. The publisher thread writes all other attributes. Everybody may read each value
    at any time: it is one number or reference.

    model: of the newest result.
    threshold: lowest score of a prediction.
    observers: called with each result and its slot, whose frame is valid during the call only.
    first_result_published: set with the first result.
    done: set when `frames` results are published, or stdout's reader is gone.
    last_inference_s: monotonic, of each camera's last inference; 0 = none yet.
    causes: why each camera's newest frame got no inference; None if it did.
    inference_s: duration of one inference, the slowest of the last ones.
    inferring_since_ns: monotonic, of the inference in progress; 0 = none. It shows a stuck interpreter.
    stuck_after_s: duration of one inference after which the interpreter counts as stuck.
    alive_ns: monotonic, of the publisher thread's last turn.
    """

    def __init__(
        self,
        model: Model,
        cameras: Sequence[Capture],
        sinks: Sequence[Sink],
        counters: Counters,
        options: ResultOptions,
        *,
        observers: Sequence[Observer] = (),
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.model = model
        self.threshold = model.manifest.output.threshold if options.threshold is None else options.threshold
        self.inferring_since_ns = 0
        self.inference_s = model.inference_s
        self.stuck_after_s = stuck_after_s(model.inference_s)
        self.alive_ns = clock_ns()
        self.done, self.first_result_published = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._cameras, self._sinks, self._counters = cameras, sinks, counters
        self._options, self._observers, self._clock_ns = options, observers, clock_ns
        self._trackers = [(model.identity, Tracker()) for _ in cameras]
        self._queue: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._published_s = [clock_ns() / 1e9] * len(cameras)  # of each camera's last result
        self._next_id = [0] * len(cameras)
        self.last_inference_s = [0.0] * len(cameras)
        self.causes: list[Cause | None] = [None] * len(cameras)
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        self._counters.began = time.monotonic()
        self._thread.start()

    def put(self, answer: Answer) -> None:
        self._queue.put(answer)

    def finish(self) -> None:
        """Wait until all answers are with the sinks. Raises the publisher thread's exception."""
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
                        self._publish_answer(answer)
                    self._cameras[answer.slot.camera].mailbox.release(answer.slot)
                self.alive_ns = self._clock_ns()
                self.report_silence()
        except BaseException as e:
            self.error = e
            self.done.set()

    def _publish_answer(self, answer: Answer) -> None:
        slot, model = answer.slot, answer.model
        camera = self._cameras[slot.camera]
        self.model = model
        self._published_s[slot.camera] = self._clock_ns() / 1e9
        self._next_id[slot.camera] = slot.frame_id + 1
        self.causes[slot.camera] = slot.cause
        predictions: tuple[Prediction, ...] = ()
        latency: dict[str, float] = {}
        size = None
        if slot.cause is None:
            self.last_inference_s[slot.camera] = self._published_s[slot.camera]
            self.inference_s = max((answer.inferred_ns - answer.taken_ns) / 1e9, 0.98 * self.inference_s)
            began = time.monotonic_ns()
            predictions = self._decode(answer)
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
            self._options.device, camera.source.name, slot.frame_id, slot.captured_at, slot.captured_ns, model.identity,
            width, height, latency, predictions, slot.dropped, slot.cause, slot.moment_ns,
        )  # fmt: skip
        self._publish(result, slot)

    def _decode(self, answer: Answer) -> tuple[Prediction, ...]:
        m, frame = answer.model.manifest, answer.slot.frame
        assert frame is not None
        lowest = min(self.threshold, LOW) if self._options.track else self.threshold
        size = frame.shape[1], frame.shape[0]
        predictions = postprocess(
            answer.outputs, answer.model.interpreter.outputs, m.input, m.output, size, lowest, self._options.top
        )
        if not self._options.track:
            return predictions
        identity, tracker = self._trackers[answer.slot.camera]
        if identity != answer.model.identity:  # another model has other classes
            tracker = Tracker()
            self._trackers[answer.slot.camera] = answer.model.identity, tracker
        boxes = [p for p in predictions if isinstance(p, Detection)]
        return tracker(boxes, answer.slot.moment_ns or answer.slot.captured_ns, self.threshold)

    def report_silence(self) -> None:
        """Publish the cause for each camera without frames. The thread calls it at each turn. Raises DeviceError.

        A camera whose frames wait for their turn, behind a slow model and other cameras, is not silent.
        """
        now_ns = self._clock_ns()
        stuck_s = (now_ns - self.inferring_since_ns) / 1e9 if self.inferring_since_ns else 0.0
        stuck = stuck_s > self.stuck_after_s
        for i, camera in enumerate(self._cameras):
            if (
                not camera.source.live
                or camera.mailbox.ended
                or now_ns / 1e9 - self._published_s[i] < self._options.silence_s
            ):
                continue
            camera.check(now_ns)
            cause = camera.state
            if stuck:
                cause = Cause("inference_stuck", f"one inference has taken {stuck_s:.0f} s so far")
            elif cause == STREAMING and (now_ns - camera.read_ns) / 1e9 < max(
                self._options.silence_s, 2 * camera.interval_s
            ):
                continue
            self._published_s[i] = now_ns / 1e9
            dropped = camera.mailbox.take_dropped()
            result = Result(
                self._options.device, camera.source.name, self._next_id[i], utc_now(), now_ns, self.model.identity,
                None, None, {}, (), dropped, cause,
            )  # fmt: skip
            self._publish(result, None)
        self._end_if_blocked()

    def _end_if_blocked(self) -> None:
        """End the process if a camera's driver blocks repeatedly: only a new process may free it.

        While another camera works, a new process would lose more than it gains.
        """
        cameras = [camera for camera in self._cameras if camera.source.live and not camera.mailbox.ended]
        blocked = next((camera for camera in cameras if camera.hangs >= MAX_CONSECUTIVE_HANGS), None)
        if blocked and not any(camera.state in (STREAMING, NO_MOTION) for camera in cameras):
            others = "; no other camera works" if len(self._cameras) > 1 else ""
            raise DeviceError(f"{blocked.state.text}{others}. Restart the agent; a supervisor does so automatically")

    def _publish(self, result: Result, slot: Slot | None) -> None:
        if not self.first_result_published.is_set():
            self.first_result_published.set()
        self._counters.add(result, self._options.latency_budget_ms)
        for sink in self._sinks:
            sink.put(result)
        for observer in self._observers:
            observer(result, slot)
        limit = self._options.frames
        if (limit and self._counters.frames >= limit) or any(s.reader_gone for s in self._sinks):
            self.done.set()
