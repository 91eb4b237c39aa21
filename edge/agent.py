"""The agent's loop, from top to bottom: take the newest frame of the next camera, infer, hand on what came out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from edge.capture.capture import Capture
from edge.capture.mailbox import Inbox
from edge.capture.model_input import make_image, preprocess_into
from edge.inference.model import Model
from edge.inference.time_limit import stuck_after_s
from edge.results.publisher import TICK_S, Answer, Results
from sightline.predictions import Cause
from sightline.preprocess import Preprocessor


def run(
    model: Model,
    cameras: Sequence[Capture],
    inbox: Inbox,
    results: Results,
    stopping: threading.Event,
    *,
    max_age_ms: float = 0.0,
    progress: Callable[[], None] = lambda: None,
    replacement: Callable[[], Model | None] = lambda: None,
) -> None:
    """Until every source has ended, `stopping` is set, or `results` is done.

    max_age_ms: a camera's frame that is older when its turn comes is not looked at; 0 = any age. progress: called at
    every turn, with or without a frame, as long as what came out is taken too; not while the interpreter is stuck.
    replacement: asked between two frames for a model to go on with. Raises what a source raised when it cannot go on.
    """
    number = 0
    for camera in cameras:
        camera.prepare(number, model.interpreter.quantizer)
    results.start()
    try:
        while not stopping.is_set() and not results.done.is_set():
            if time.monotonic_ns() - results.alive_ns < 1e9 * results.stuck_after_s / 2:
                progress()
            if (new := replacement()) is not None:
                model, number = new, number + 1
                results.stuck_after_s = stuck_after_s(model.inference_s)
                for camera in cameras:
                    camera.prepare(number, model.interpreter.quantizer)
            slot = inbox.take(TICK_S)
            taken = time.monotonic_ns()
            if slot is None:
                if inbox.ended:
                    break
                continue
            age_ms = (taken - slot.captured_ns) / 1e6
            if slot.frame is not None and slot.model != number:
                make_image(slot, Preprocessor(model.interpreter.quantizer.spec))
                preprocess_into(slot, model.interpreter.quantizer)
            if slot.cause is None and max_age_ms and age_ms > max_age_ms and cameras[slot.camera].source.live:
                slot.cause = Cause("stale", f"{age_ms:.0f} ms old when its turn came")
            if slot.cause is not None:
                results.put(Answer(slot, model))
                continue
            interpreter = model.interpreter
            results.inferring_since_ns = taken
            interpreter.feed(slot.input_tensor)
            interpreter.invoke()
            outputs = interpreter.raw()
            results.inferring_since_ns = 0
            results.put(Answer(slot, model, outputs, taken, time.monotonic_ns()))
    finally:
        results.finish()
