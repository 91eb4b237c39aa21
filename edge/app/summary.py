"""The closing figures of a run, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edge.app.cameras import Cameras
from edge.inference.model import Model
from edge.outputs.recorder import Recorder
from edge.results.counters import Counters
from edge.results.sink import Sink
from sightline.files import write_file
from sightline.text import one_line


def summary_text(counters: Counters, cameras: Cameras, sinks: Sequence[Sink], budget_ms: float) -> str:
    lines = [
        f"{counters.frames} frames in {counters.seconds:.1f} s: {counters.fps:.1f} a second; "
        f"{counters.over_budget} over the latency budget of {budget_ms:g} ms",
        f"{'ms':12}{'p50':>9}{'p95':>9}{'p99':>9}",
    ]
    for stage, h in counters.latency.items():
        lines.append(f"{stage:12}" + "".join(f"{h.percentile(p):>9.2f}" for p in (50, 95, 99)))
    dropped = ", ".join(f"{n} {cause}" for cause, n in counters.dropped.items()) or "none"
    lines.append(f"dropped: {dropped}")
    if len(cameras.captures) > 1:
        lines.append("by camera: " + ", ".join(f"{name} {counters.cameras[name]}" for name in cameras.names))
    for code, n in counters.not_inferred.items():
        lines.append(f"not inferred ({n}): {code}, for example: {counters.examples[code]}")
    for capture in cameras.captures:
        if capture.reconnects:
            causes = ", ".join(f"{n} {code}" for code, n in capture.reconnects.items())
            lines.append(f"{capture.source.name}: reopened {sum(capture.reconnects.values())} times ({causes})")
        if capture.resized:
            lines.append(f"{capture.source.name}: image size changed {capture.resized} times")
    for sink in sinks:
        if sink.lost or sink.problem:
            lines.append(f"{sink.name}: {sink.lost} results lost{f' ({sink.problem})' if sink.problem else ''}")
        if sink.note:
            lines.append(f"{sink.name}: {sink.note}")
    return "\n".join(map(one_line, lines))


def recording_text(recorder: Recorder) -> str:
    dropped = f"; {recorder.dropped} frames dropped because the disk was too slow" if recorder.dropped else ""
    failure = f"; stopped: {recorder.failed}" if recorder.failed else ""
    return f"recorded {recorder.frames} frames in {recorder.folder}, {recorder.bytes / 1e6:.1f} MB{dropped}{failure}"


def write_summary(path: Path, counters: Counters, cameras: Cameras, model: Model, device: str) -> None:
    figures = {
        **counters.to_json(), "reconnects": cameras.reconnects, "scheme": model.scheme, "device": device,
    }  # fmt: skip
    write_file(path, (json.dumps(figures, indent=2) + "\n").encode())
