"""What happened since the start, in memory that does not grow with time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edge.results.histogram import Histogram
from sightline.predictions import Result

WINDOW_S = 3.0  # of `recent_fps`
STAGES = ("capture", "preprocess", "wait", "inference", "decode", "total")


@dataclass
class Counters:
    """Frames, losses and latencies since the start.

    Threads: the publisher's thread calls `add`. The page, the metrics and the main thread read single numbers at any
    time, and copy a counter before they iterate it.

    began: when the first frame got inference; monotonic, in seconds.
    latency: milliseconds of each stage; `wait` is the time in the mailbox, `total` is from capture to result.
    over_budget: frames over the device's latency budget.
    not_inferred: results without inference, by the code of the cause.
    dropped: frames by cause.
    frames: frames that got inference; `cameras`: the same by camera.
    seconds: time since `began`.
    examples: the newest text of each code.
    recent_fps: frames per second over the last WINDOW_S.
    """

    began: float = field(default_factory=time.monotonic)
    frames: int = 0
    recent_fps: float = 0.0
    seconds: float = 0.0
    over_budget: int = 0
    not_inferred: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    cameras: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    latency: dict[str, Histogram] = field(default_factory=lambda: {stage: Histogram() for stage in STAGES})
    _window: tuple[float, int] = field(default_factory=lambda: (time.monotonic(), 0))

    def add(self, result: Result, latency_budget_ms: float) -> None:
        self.dropped.update(result.dropped)
        if result.cause:
            self.not_inferred[result.cause.code] += 1
            self.examples[result.cause.code] = result.cause.text
        else:
            if not self.frames:  # the time before it is for opening the camera
                self.began = time.monotonic() - result.latency_ms["total"] / 1000
            self.frames += 1
            self.cameras[result.source] += 1
            self.over_budget += result.latency_ms["total"] > latency_budget_ms
            for stage, ms in result.latency_ms.items():
                self.latency[stage].add(ms)
        now = time.monotonic()
        self.seconds = now - self.began
        since, frames = self._window
        if now - since >= WINDOW_S:
            self.recent_fps, self._window = (self.frames - frames) / (now - since), (now, self.frames)
        elif self.seconds < WINDOW_S:
            self.recent_fps = self.fps

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "over_budget": self.over_budget,
            "cameras": dict(self.cameras),
            "dropped": dict(self.dropped),
            "not_inferred": dict(self.not_inferred),
            "latency_ms": {
                stage: {f"p{p}": round(h.percentile(p), 3) for p in (50, 95, 99)} for stage, h in self.latency.items()
            },
        }
