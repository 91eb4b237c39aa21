"""What an operator asks an agent at night: is it alive, does it see, and the figures (Prometheus' text format)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.capture import LIVE, STILL, Capture
from edge.delivery import Promised
from edge.machine import look_at, this_process
from edge.results import Results
from edge.sinks import Sink
from edge.swap import Swap
from edge.tally import Tally

SEEN_S = 5.0  # without a frame, or without a look beyond the time that a look at each camera takes
EDGES_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)
Problems = dict[str, dict[str, str]]
_Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True)
class Monitor:
    """Looks at the agent's parts from another thread; changes nothing."""

    results: Results
    cameras: Sequence[Capture]
    sinks: Sequence[Sink]
    tally: Tally
    swap: Swap
    device: str
    root: Path = Path("/")

    def dead(self) -> Problems:
        """Why this process should be started anew; empty while its loop makes progress."""
        now = time.monotonic_ns()
        since, limit_ns = self.results.inferring_since_ns, self.results.stuck_after_s * 1e9
        if since and now - since > limit_ns:
            seconds = (now - since) / 1e9
            return {"loop": {"code": "inference_stuck", "text": f"in one inference for {seconds:.0f} s"}}
        if now - self.results.alive_ns > limit_ns:
            return {"loop": {"code": "results_stuck", "text": "what was inferred is not taken by anybody"}}
        return {}

    def unready(self) -> Problems:
        """Why it does not do all of its work now: cameras that it does not see, outputs that fail."""
        problems = self.dead()
        now = time.monotonic()
        turn_s = len(self.cameras) * self.results.inference_s
        for i, camera in enumerate(self.cameras):
            if camera.mailbox.ended or camera.state == STILL or not camera.source.live:
                continue
            period_s = 1 / camera.watch.max_fps if camera.watch.max_fps else 0.0
            cause = None
            if camera.state != LIVE or now - camera.read_ns / 1e9 > SEEN_S:
                cause = camera.state
            elif now - self.results.looked_s[i] > SEEN_S + 2 * turn_s + period_s:
                cause = self.results.causes[i] or LIVE
            if cause is not None:
                problems[camera.source.name] = {"code": cause.code, "text": cause.text}
        for sink in self.sinks:
            if problem := sink.problem:
                problems[sink.name] = {"code": "sink", "text": problem}
        return problems

    def metrics(self) -> str:
        """Text format 0.0.4."""
        return (
            "\n".join(
                line for name, kind, help_, samples in self._families() for line in _family(name, kind, help_, samples)
            )
            + "\n"
        )

    def _families(self) -> Iterator[tuple[str, str, str, list[_Sample]]]:
        t, model = self.tally, self.results.model
        identity = model.identity
        yield "sightline_model_info", "gauge", "The model that runs.", [
            ({"name": identity.name, "version": identity.version, "sha256": identity.sha256, "scheme": model.scheme,
              "device": self.device}, 1)
        ]  # fmt: skip
        yield (
            "sightline_frames_total",
            "counter",
            "Frames that the model looked at.",
            [({"camera": c.source.name}, t.cameras[c.source.name]) for c in self.cameras],
        )
        yield (
            "sightline_frames_dropped_total",
            "counter",
            "Frames that nobody looked at.",
            [({"cause": cause}, n) for cause, n in t.dropped.copy().items()],
        )
        yield (
            "sightline_not_inferred_total",
            "counter",
            "Results that say that nobody looked.",
            [({"cause": cause}, n) for cause, n in t.not_inferred.copy().items()],
        )
        yield "sightline_late_total", "counter", "Frames over the device's latency budget.", [({}, t.late)]
        yield (
            "sightline_camera_up",
            "gauge",
            "1 = it gives frames.",
            [({"camera": c.source.name}, float(c.state in (LIVE, STILL))) for c in self.cameras],
        )
        yield "sightline_camera_reconnects_total", "counter", "Times that a camera was opened again.", [
            ({"camera": c.source.name, "cause": cause}, n)
            for c in self.cameras for cause, n in c.reconnects.copy().items()
        ]  # fmt: skip
        yield (
            "sightline_camera_resized_total",
            "counter",
            "Times that a camera's pictures changed their size.",
            [({"camera": c.source.name}, c.resized) for c in self.cameras],
        )
        yield (
            "sightline_output_dropped_total",
            "counter",
            "Results that an output lost.",
            [({"output": s.name}, s.dropped) for s in self.sinks],
        )
        yield (
            "sightline_output_failed",
            "gauge",
            "1 = the last write failed.",
            [({"output": s.name}, float(s.problem is not None)) for s in self.sinks],
        )
        promised = [s for s in self.sinks if isinstance(s, Promised)]
        yield (
            "sightline_outbox_messages",
            "gauge",
            "Messages that wait to be sent.",
            [({"output": s.name}, s.outbox.waiting(s.name)) for s in promised],
        )
        yield (
            "sightline_outbox_bytes",
            "gauge",
            "Of the messages that wait.",
            [({"output": s.name}, s.outbox.size(s.name)) for s in promised],
        )
        yield (
            "sightline_outbox_dropped_total",
            "counter",
            "Messages that were lost for want of room; a gap told of them.",
            [({"output": s.name}, s.outbox.dropped[s.name]) for s in promised],
        )
        yield (
            "sightline_output_sent_total",
            "counter",
            "Messages that arrived.",
            [({"output": s.name}, s.sent) for s in promised],
        )
        yield (
            "sightline_output_refused_total",
            "counter",
            "Messages that the receiver does not want.",
            [({"output": s.name}, s.refused) for s in promised],
        )
        yield "sightline_model_swaps_total", "counter", "Models that took over.", [({}, self.swap.swaps)]
        yield "sightline_model_refused_total", "counter", "New models that were refused.", [({}, self.swap.refusals)]
        stages: list[_Sample] = []
        for stage, h in t.latency.items():
            stages += [({"_": "_bucket", "stage": stage, "le": f"{ms / 1000:g}"}, h.below(ms)) for ms in EDGES_MS]
            stages += [({"_": "_bucket", "stage": stage, "le": "+Inf"}, h.count)]
            stages += [({"_": "_sum", "stage": stage}, h.sum_ms / 1000), ({"_": "_count", "stage": stage}, h.count)]
        yield "sightline_stage_seconds", "histogram", "Time of each stage of a frame.", stages
        yield from self._machine()

    def _machine(self) -> Iterator[tuple[str, str, str, list[_Sample]]]:
        machine, process = look_at(self.root), this_process()
        if machine.celsius is not None:
            yield "sightline_temperature_celsius", "gauge", "Of the hottest zone.", [({}, machine.celsius)]
        if machine.power:
            yield (
                "sightline_power_problem",
                "gauge",
                "Of a Raspberry Pi: 1 = now.",
                [({"problem": what}, float(now)) for what, (now, _) in machine.power.items()],
            )
            yield (
                "sightline_power_problem_since_boot",
                "gauge",
                "The same, once since it was started.",
                [({"problem": what}, float(once)) for what, (_, once) in machine.power.items()],
            )
        yield "process_start_time_seconds", "gauge", "Since 1970.", [({}, process.started)]
        yield "process_resident_memory_bytes", "gauge", "Resident memory.", [({}, process.rss)]
        yield "process_threads", "gauge", "Threads.", [({}, process.threads)]
        yield "process_open_fds", "gauge", "File descriptors.", [({}, process.files)]
        yield "process_cpu_seconds_total", "counter", "User and system time.", [({}, process.cpu_s)]


def _family(name: str, kind: str, help_: str, samples: list[_Sample]) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP {name} {help_}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        suffix = labels.get("_", "")
        text = ",".join(f'{key}="{_escaped(v)}"' for key, v in labels.items() if key != "_")
        yield f"{name}{suffix}{{{text}}} {value:.10g}" if text else f"{name}{suffix} {value:.10g}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
