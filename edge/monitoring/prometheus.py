"""The agent's metrics in Prometheus' text format 0.0.4, for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from edge.capture.capture import NO_MOTION, STREAMING
from edge.monitoring.health import Monitor
from edge.outputs.durable_sink import DurableSink
from edge.system.machine_state import read_machine, this_process

EDGES_MS = (  # upper edges of the histogram's buckets, in milliseconds
    0.5,
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
    5000,
)
_Sample = tuple[Mapping[str, str], float]


class _Metric(NamedTuple):
    """One metric family.

    samples: (labels, value) of each; the label `_` is the suffix of the name.
    """

    name: str
    kind: str
    help: str
    samples: Iterable[_Sample]


def exposition(monitor: Monitor) -> str:
    """The text of all metrics. Families without a sample are left out."""
    metrics = (*_model(monitor), *_cameras(monitor), *_outputs(monitor), _stages(monitor), *_machine(monitor))
    return "\n".join(line for metric in metrics for line in _lines(metric)) + "\n"


def _model(monitor: Monitor) -> Iterator[_Metric]:
    model, swap = monitor.results.model, monitor.swap
    identity = model.identity
    labels = {
        "name": identity.name, "version": identity.version, "sha256": identity.sha256, "scheme": model.scheme,
        "device": monitor.device,
    }  # fmt: skip
    yield _Metric("sightline_model_info", "gauge", "The running model.", [(labels, 1)])
    yield _Metric(
        "sightline_model_swaps_total", "counter", "New models that replaced the running one.", [({}, swap.reloads)]
    )
    yield _Metric("sightline_model_refused_total", "counter", "New models that were refused.", [({}, swap.refusals)])


def _cameras(monitor: Monitor) -> Iterator[_Metric]:
    counters, cameras = monitor.counters, monitor.cameras
    yield _Metric("sightline_frames_total", "counter", "Frames that went through inference.",
                  [({"camera": c.source.name}, counters.cameras[c.source.name]) for c in cameras])  # fmt: skip
    yield _Metric("sightline_frames_dropped_total", "counter", "Frames dropped before inference.",
                  [({"cause": cause}, n) for cause, n in counters.dropped.copy().items()])  # fmt: skip
    yield _Metric("sightline_not_inferred_total", "counter", "Results without inference, by cause.",
                  [({"cause": cause}, n) for cause, n in counters.not_inferred.copy().items()])  # fmt: skip
    yield _Metric(
        "sightline_over_budget_total",
        "counter",
        "Frames over the device's latency budget.",
        [({}, counters.over_budget)],
    )
    yield _Metric("sightline_camera_up", "gauge", "1 while the camera delivers frames.",
                  [({"camera": c.source.name}, float(c.state in (STREAMING, NO_MOTION))) for c in cameras])  # fmt: skip
    reconnects = [
        ({"camera": c.source.name, "cause": cause}, n) for c in cameras for cause, n in c.reconnects.copy().items()
    ]
    yield _Metric("sightline_camera_reconnects_total", "counter", "Times that a camera was opened again.", reconnects)
    yield _Metric("sightline_camera_resized_total", "counter", "Times that a camera changed the size of its images.",
                  [({"camera": c.source.name}, c.resized) for c in cameras])  # fmt: skip


def _outputs(monitor: Monitor) -> Iterator[_Metric]:
    sinks = monitor.sinks
    durable = [sink for sink in sinks if isinstance(sink, DurableSink)]
    yield _Metric("sightline_output_dropped_total", "counter", "Results that an output lost.",
                  [({"output": s.name}, s.dropped) for s in sinks])  # fmt: skip
    yield _Metric("sightline_output_failed", "gauge", "1 if the last write to the output failed.",
                  [({"output": s.name}, float(s.problem is not None)) for s in sinks])  # fmt: skip
    yield _Metric("sightline_outbox_messages", "gauge", "Messages that wait to be sent.",
                  [({"output": s.name}, s.outbox.waiting(s.name)) for s in durable])  # fmt: skip
    yield _Metric("sightline_outbox_bytes", "gauge", "Size of the messages that wait to be sent.",
                  [({"output": s.name}, s.outbox.size(s.name)) for s in durable])  # fmt: skip
    yield _Metric("sightline_outbox_dropped_total", "counter",
                  "Messages lost because the outbox was full; a gap message reported each loss.",
                  [({"output": s.name}, s.outbox.dropped[s.name]) for s in durable])  # fmt: skip
    yield _Metric("sightline_output_sent_total", "counter", "Messages that the receiver acknowledged.",
                  [({"output": s.name}, s.sent) for s in durable])  # fmt: skip
    yield _Metric("sightline_output_refused_total", "counter", "Messages that the receiver refused.",
                  [({"output": s.name}, s.refused) for s in durable])  # fmt: skip


def _stages(monitor: Monitor) -> _Metric:
    samples: list[_Sample] = []
    for stage, h in monitor.counters.latency.items():
        samples += [({"_": "_bucket", "stage": stage, "le": f"{ms / 1000:g}"}, h.below(ms)) for ms in EDGES_MS]
        samples += [({"_": "_bucket", "stage": stage, "le": "+Inf"}, h.count)]
        samples += [({"_": "_sum", "stage": stage}, h.sum_ms / 1000), ({"_": "_count", "stage": stage}, h.count)]
    return _Metric("sightline_stage_seconds", "histogram", "Duration of each stage of a frame.", samples)


def _machine(monitor: Monitor) -> Iterator[_Metric]:
    machine, process = read_machine(monitor.root), this_process()
    if machine.celsius is not None:
        yield _Metric("sightline_temperature_celsius", "gauge", "Temperature of the hottest zone.",
                      [({}, machine.celsius)])  # fmt: skip
    if machine.power:
        power = machine.power.items()
        yield _Metric("sightline_power_problem", "gauge", "1 while a Raspberry Pi reports this power problem.",
                      [({"problem": name}, float(now)) for name, (now, _) in power])  # fmt: skip
        yield _Metric("sightline_power_problem_since_boot", "gauge", "1 if it was reported since boot.",
                      [({"problem": name}, float(once)) for name, (_, once) in power])  # fmt: skip
    for name, kind, help_, value in (
        ("process_start_time_seconds", "gauge", "Start of the process, in seconds since 1970.", process.started),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", process.rss),
        ("process_threads", "gauge", "Threads.", process.threads),
        ("process_open_fds", "gauge", "Open file descriptors.", process.files),
        ("process_cpu_seconds_total", "counter", "User and system CPU time.", process.cpu_s),
    ):
        yield _Metric(name, kind, help_, [({}, value)])


def _lines(metric: _Metric) -> Iterator[str]:
    samples = list(metric.samples)
    if not samples:
        return
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in samples:
        suffix = labels.get("_", "")
        text = ",".join(f'{key}="{_escaped(v)}"' for key, v in labels.items() if key != "_")
        yield f"{metric.name}{suffix}{{{text}}} {value:.10g}" if text else f"{metric.name}{suffix} {value:.10g}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
