"""What a run reports of itself while it runs: to MQTT, to the live page, and to systemd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.app.cameras import Cameras
from edge.inference.model import Model
from edge.results.counters import Counters
from edge.results.publisher import Results
from edge.results.sink import Sink


@dataclass(frozen=True)
class AgentFacts:
    """The state that MQTT publishes. fps: over the last seconds. temperature: of the processor in degrees Celsius;
    None where the machine does not measure it. dropped: frames without inference."""

    fps: float
    temperature: float | None
    threshold: float
    model: str
    dropped: int


@dataclass(frozen=True)
class PageStatus:
    """The figures of the live page. cameras, outputs: {name: its problem; None while it works}."""

    fps: float
    frames: int
    dropped: dict[str, int]
    threshold: float
    cameras: dict[str, str | None]
    outputs: dict[str, str | None]


class AgentState:
    """Reads the parts of a run. Threads of outputs and of the page call it; it writes nothing but the threshold, one
    reference, which the results' thread reads once a result."""

    def __init__(self, results: Results, cameras: Cameras, sinks: Sequence[Sink], counters: Counters) -> None:
        self.results = results
        self._cameras, self._sinks, self._counters = cameras, sinks, counters

    @property
    def camera_names(self) -> list[str]:
        return self._cameras.names

    def facts(self) -> AgentFacts:
        from edge.system.machine_state import read_machine  # not before the first message

        identity = self.results.model.identity
        return AgentFacts(
            fps=round(self._counters.recent_fps, 1),
            temperature=read_machine().celsius,
            threshold=self.results.threshold,
            model=f"{identity.name} {identity.version}",
            dropped=sum(self._counters.dropped.values()),
        )

    def page_status(self) -> PageStatus:
        return PageStatus(
            fps=round(self._counters.recent_fps, 1),
            frames=self._counters.frames,
            dropped=dict(self._counters.dropped),
            threshold=self.results.threshold,
            cameras=self._cameras.problems,
            outputs={sink.name: sink.problem for sink in self._sinks},
        )

    def systemd_status(self) -> str:
        """One line for `systemctl status`."""
        problems = [f"{name}: {problem}" for name, problem in self._cameras.problems.items() if problem]
        return "; ".join([*problems, f"{self._counters.recent_fps:.1f} frames a second"])

    def set_threshold(self, value: float) -> None:
        self.results.threshold = value


def model_info(device: str, model: Model, sources: Sequence[str]) -> dict[str, Any]:
    """What the live page shows about the model that runs."""
    metrics = model.manifest.metrics.get(model.scheme) or {}
    metric, title = model.manifest.output.metric
    return {
        "device": device,
        "source": ", ".join(sources),
        "scheme": model.scheme,
        "metric": title,
        "quality": metrics.get(metric),
        "model": {"name": model.identity.name, "version": model.identity.version, "sha256": model.identity.sha256},
    }
