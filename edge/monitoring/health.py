"""Health checks: whether the agent is alive (`/healthz`), and whether all of it works (`/readyz`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.capture.capture import NO_MOTION, STREAMING, Capture
from edge.inference.hot_reload import HotReload
from edge.results.counters import Counters
from edge.results.publisher import Results
from edge.results.sink import Sink

UNREADY_AFTER_S = 5.0  # without a frame, or without inference beyond the time that one turn of all cameras takes
Problems = dict[str, dict[str, str]]  # by camera, output or `loop`: a code and a text


@dataclass(frozen=True)
class Monitor:
    """Reads the state of the agent's parts.

    Threads: called by the page's threads. It changes nothing, and reads single values that other threads write.
    """

    results: Results
    cameras: Sequence[Capture]
    sinks: Sequence[Sink]
    counters: Counters
    swap: HotReload
    device: str
    root: Path = Path("/")

    def liveness(self) -> Problems:
        """Why this process should be restarted; empty while its loop makes progress."""
        now = time.monotonic_ns()
        since, limit_ns = self.results.inferring_since_ns, self.results.stuck_after_s * 1e9
        if since and now - since > limit_ns:
            seconds = (now - since) / 1e9
            return {"loop": {"code": "inference_stuck", "text": f"one inference has taken {seconds:.0f} s so far"}}
        if now - self.results.alive_ns > limit_ns:
            return {"loop": {"code": "results_stuck", "text": "the publisher thread does not take results"}}
        return {}

    def readiness(self) -> Problems:
        """Why not all of it works now: cameras without frames or inference, outputs that fail."""
        problems = self.liveness()
        now = time.monotonic()
        turn_s = len(self.cameras) * self.results.inference_s
        for i, camera in enumerate(self.cameras):
            if camera.mailbox.ended or camera.state == NO_MOTION or not camera.source.live:
                continue
            period_s = 1 / camera.options.max_fps if camera.options.max_fps else 0.0
            cause = None
            if camera.state != STREAMING or now - camera.read_ns / 1e9 > UNREADY_AFTER_S:
                cause = camera.state
            elif now - self.results.last_inference_s[i] > UNREADY_AFTER_S + 2 * turn_s + period_s:
                cause = self.results.causes[i] or STREAMING
            if cause is not None:
                problems[camera.source.name] = {"code": cause.code, "text": cause.text}
        for sink in self.sinks:
            if problem := sink.problem:
                problems[sink.name] = {"code": "sink", "text": problem}
        return problems
