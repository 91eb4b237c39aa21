"""The agent's loop, from top to bottom: take the newest frame, look at it, say what was seen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.capture import Capture, Slot, utc_now
from edge.model import Model
from edge.sinks import Sink
from edge.stats import Histogram
from sightline.decode import decode
from sightline.predictions import Result

STAGES = ("capture", "preprocess", "wait", "inference", "decode", "total")
SILENCE_S = 1.0  # without a frame for so long, say so instead of nothing
Observer = Callable[[Result, Slot | None], None]


@dataclass
class Tally:
    """What happened since the start. latency: milliseconds a stage; `wait` is in the mailbox, `total` from the end of
    capture to the result. late: frames over the device's latency budget."""

    began: float = field(default_factory=time.monotonic)
    frames: int = 0
    seconds: float = 0.0
    late: int = 0
    not_inferred: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    latency: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "late": self.late,
            "dropped": dict(self.dropped),
            "not_inferred": dict(self.not_inferred),
            "latency_ms": {
                stage: {f"p{p}": round(h.percentile(p), 3) for p in (50, 95, 99)} for stage, h in self.latency.items()
            },
        }


def run(
    model: Model,
    capture: Capture,
    sinks: Sequence[Sink],
    stopping: threading.Event,
    tally: Tally,
    *,
    device: str,
    latency_budget_ms: float,
    top: int = 3,
    threshold: float = 0.0,
    frames: int = 0,
    observer: Observer | None = None,
) -> None:
    """Until the source ends, `stopping` is set, `frames` results are out (0 = no end), or stdout is closed.

    observer: called with each result and its slot, whose frame is valid during the call only. Raises what the source
    raised when it cannot go on.
    """
    mailbox, interpreter, output = capture.mailbox, model.interpreter, model.manifest.output
    last_id, heard = -1, time.monotonic()
    tally.began = heard
    while not stopping.is_set() and not (frames and tally.frames >= frames):
        slot = mailbox.take(timeout_s=0.2)
        taken = time.monotonic_ns()
        if slot is None:
            if mailbox.ended:
                break
            if not capture.source.live or time.monotonic() - heard < SILENCE_S:
                continue
            heard = time.monotonic()
            cause = "the camera gives no frame" if capture.state == "live" else capture.state
            result = Result(
                device, capture.source.name, last_id + 1, utc_now(), model.identity, None, None, {}, (),
                {}, "not_inferred", cause,
            )  # fmt: skip
        elif slot.frame is None:
            heard, last_id = time.monotonic(), slot.frame_id
            result = Result(
                device, capture.source.name, slot.frame_id, slot.captured_at, model.identity, None, None, {}, (),
                slot.dropped, "not_inferred", slot.cause,
            )  # fmt: skip
        else:
            interpreter.fill(slot.image)
            interpreter.invoke()
            outputs = interpreter.results()
            inferred = time.monotonic_ns()
            predictions = decode(outputs, output, top, threshold)
            decoded = time.monotonic_ns()
            heard, last_id = decoded / 1e9, slot.frame_id
            latency = {
                "capture": slot.capture_ms,
                "preprocess": slot.preprocess_ms,
                "wait": (taken - slot.ready_ns) / 1e6,
                "inference": (inferred - taken) / 1e6,
                "decode": (decoded - inferred) / 1e6,
                "total": (decoded - slot.captured_ns) / 1e6,
            }
            height, width = slot.frame.shape[:2]
            result = Result(
                device, capture.source.name, slot.frame_id, slot.captured_at, model.identity, width, height, latency,
                predictions, slot.dropped,
            )  # fmt: skip
            tally.frames += 1
            tally.late += latency["total"] > latency_budget_ms
            for stage, ms in latency.items():
                tally.latency[stage].add(ms)
        tally.dropped.update(result.dropped)
        if result.cause:
            tally.not_inferred[result.cause] += 1
        tally.seconds = time.monotonic() - tally.began
        for sink in sinks:
            sink.put(result)
        if observer:
            observer(result, slot)
        if slot is not None:
            mailbox.release(slot)
        if any(sink.failed == "Broken pipe" for sink in sinks):
            break
