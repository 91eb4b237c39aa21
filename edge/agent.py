"""The agent's loop, from top to bottom: take the newest frame of the next camera, infer, pass on the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge.capture.capture import Capture
from edge.capture.mailbox import Inbox
from edge.capture.model_input import make_image, preprocess_into
from edge.inference.model import Model
from edge.inference.time_limit import stuck_after_s
from edge.results.publisher import TICK_S, Answer, Results
from sightline.predictions import Cause
from sightline.preprocess import Preprocessor


@dataclass(frozen=True)
class LoopOptions:
    """Options of the loop.

    max_age_ms: a camera's frame older than this when its turn comes gets no inference; 0 = no limit.
    on_turn: called at each turn of the loop, with or without a frame, while the results thread and the interpreter are
        alive. A supervisor hears of it.
    take_model: called at each turn; returns the model to continue with, or None.
    """

    max_age_ms: float = 0.0
    on_turn: Callable[[], None] = lambda: None
    take_model: Callable[[], Model | None] = lambda: None


DEFAULT_OPTIONS = LoopOptions()


def run(
    model: Model,
    cameras: Sequence[Capture],
    inbox: Inbox,
    results: Results,
    stopping: threading.Event,
    options: LoopOptions = DEFAULT_OPTIONS,
) -> None:
    """Run until every source has ended, `stopping` is set, or `results` is done.

    Raises the error of a source that cannot go on.
    """
    number = 0
    for camera in cameras:
        camera.prepare(number, model.interpreter.quantizer)
    results.start()
    try:
        while not stopping.is_set() and not results.done.is_set():
            if time.monotonic_ns() - results.alive_ns < 1e9 * results.stuck_after_s / 2:
                options.on_turn()
            if (new_model := options.take_model()) is not None:
                model, number = new_model, number + 1
                results.stuck_after_s = stuck_after_s(model.inference_s)
                for camera in cameras:
                    camera.prepare(number, model.interpreter.quantizer)
            slot = inbox.take(TICK_S)
            taken_ns = time.monotonic_ns()
            if slot is None:
                if inbox.ended:
                    break
                continue
            age_ms = (taken_ns - slot.captured_ns) / 1e6
            if slot.frame is not None and slot.model != number:
                make_image(slot, Preprocessor(model.interpreter.quantizer.spec))
                preprocess_into(slot, model.interpreter.quantizer)
            is_stale = options.max_age_ms and age_ms > options.max_age_ms and cameras[slot.camera].source.live
            if slot.cause is None and is_stale:
                slot.cause = Cause("stale", f"{age_ms:.0f} ms old when its turn came")
            if slot.cause is not None:
                results.put(Answer(slot, model))
                continue
            interpreter = model.interpreter
            results.inferring_since_ns = taken_ns
            interpreter.feed(slot.input_tensor)
            interpreter.invoke()
            outputs = interpreter.raw()
            results.inferring_since_ns = 0
            results.put(Answer(slot, model, outputs, taken_ns, time.monotonic_ns()))
    finally:
        results.finish()
