"""What happened since the start: counts that never grow, however many months they are kept."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from edge.results.histogram import Histogram
from sightline.predictions import Result

WINDOW_S = 3.0
STAGES = ("capture", "preprocess", "wait", "inference", "decode", "total")


@dataclass
class Counters:
    """Frames, losses and latencies since the start.

    began: when the first frame was inferred.
    latency: milliseconds of each stage; `wait` is the time in the mailbox, `total` is from capture to result.
    over_budget: frames over the device's latency budget.
    not_inferred: results without inference, by the cause's code.
    dropped: frames by cause.
    cameras: frames that were inferred, by camera.
    examples: the newest text of each cause's code.
    recent_fps: over the last seconds.
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
            if not self.frames:  # opening a camera is no frame's time
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
