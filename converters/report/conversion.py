"""The report of a conversion: accuracy, size and speed of each variant, and every choice of the search.

It lies beside the bundle, not in it. It holds images, which a device does not need, and times, which differ from one
run to the next, while the same input gives the same bundle to the last byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from converters.evaluate.acceptance import HeldOutEvaluation, Limits, VariantResult
from converters.evaluate.metrics import DetectionMetrics
from converters.evaluate.op_snr import OpNoise
from converters.quantize.search import SearchResult
from converters.report.charts import bars, histogram
from converters.report.html import ImageCard, boxes_address, frame_address, label_names, render_template
from converters.report.text import Table, kib, percent, points
from converters.tflite.ops import Op
from sightline.device_config import Scheme

# an op with a lower ratio is highlighted: 8 bits give about 35 to 45 dB
NOISY_DB = 20.0
MAX_IMAGES = 24
MAX_HISTOGRAMS = 6
_FIGURES = ("bytes", "agreement", "drop", "worst_class", "worst_drop", "snr_db", "negative_control_drop")


@dataclass(frozen=True)
class Report:
    """What the report shows.

    evaluation: of the float model.
    parity: largest difference between the float TFLite and the original, over the outputs' range.
    results: {scheme: result}, the default scheme first.
    search: of the static schemes; None without one.
    noise: of each op in the first static scheme.
    latency_ms: {scheme: time of one inference}, one thread, on the machine that converted.
    seconds: of each phase.
    """

    name: str
    device: str
    evaluation: HeldOutEvaluation
    limits: Limits
    parity: float
    results: dict[Scheme, VariantResult]
    search: SearchResult | None
    noise: Sequence[OpNoise]
    latency_ms: dict[str, float]
    seconds: dict[str, float]

    @property
    def first(self) -> VariantResult:
        """The result of the scheme that runs by default."""
        return next(iter(self.results.values()))

    @property
    def differing(self) -> list[int]:
        """Indices of the held-out images for which a variant's answer differs from float32's."""
        expected, metrics = self.evaluation.float_answers, self.evaluation.metrics
        return [
            i
            for i in range(len(expected))
            if any(metrics.differs(expected[i], r.answers[i]) for r in self.results.values())
        ]


def to_json(r: Report) -> dict[str, Any]:
    """The report for programs. Fractions are in 0..1, drops in points, SNR in decibels."""
    source, metrics = r.evaluation.source, r.evaluation.metrics
    return {
        "name": r.name,
        "version": source.version,
        "device": r.device,
        "origin": source.origin,
        "input": asdict(source.input),
        "limits": asdict(r.limits),
        "images": len(r.evaluation.frames),
        "calibration_images": len(source.calibration),
        "parity": r.parity,
        "float32": {
            "bytes": len(source.float_model),
            metrics.metric: r.evaluation.quality,
            **(r.evaluation.float_scores.extra if r.evaluation.float_scores else {}),
            "latency_ms": round(r.latency_ms["float32"], 4),
        },
        "schemes": {
            scheme: {
                metrics.metric: result.quality,
                **result.extra,
                **{k: getattr(result, k) for k in _FIGURES},
                "latency_ms": round(r.latency_ms[scheme], 4),
            }
            for scheme, result in r.results.items()
        },
        **_search_json(r),
        "differing": [
            {
                "file": source.heldout[i][0].name,
                "float32": metrics.describe(r.evaluation.float_answers[i]),
                **{scheme: metrics.describe(result.answers[i]) for scheme, result in r.results.items()},
            }
            for i in r.differing
        ],
        "seconds": {phase: round(s, 2) for phase, s in r.seconds.items()},
    }


def _search_json(r: Report) -> dict[str, Any]:
    search = r.search
    return {
        "steps": [step.to_json() for step in search.steps] if search else [],
        "float_ops": list(search.float_ops) if search else [],
        "op_noise": [{"name": n.op.name, "output": n.op.output, "snr_db": round(n.snr_db, 2)} for n in r.noise],
        "op_sensitivities": [
            {"name": s.op.name, "output": s.op.output, "divergence": s.divergence, "macs": s.macs}
            for s in (search.sensitivities if search else ())
        ],
    }


def render(r: Report) -> str:
    """The report as an HTML page."""
    source, differing = r.evaluation.source, r.differing
    spec = source.input
    return render_template(
        "conversion.html",
        title=f"{r.name} for {r.device}",
        about=[
            f"version {source.version}",
            f"from {source.origin}",
            f"input {spec.width}×{spec.height}, {spec.resize}, {spec.filter} filter",
            f"{len(source.output.labels)} classes",
        ],
        cards=_cards(r),
        variants=_variants(r),
        origin=source.origin,
        parity=r.parity,
        steps=_steps(r),
        float_ops=len(r.search.float_ops) if r.search else 0,
        noise=_noise(r),
        ranges=_ranges(r),
        differing=len(differing),
        first_variant=r.first.scheme if isinstance(r.evaluation.metrics, DetectionMetrics) else "",
        images=[_image(r, i) for i in differing[:MAX_IMAGES]],
        seconds=r.seconds,
    )


def _cards(r: Report) -> list[dict[str, str]]:
    first, title = r.first, r.evaluation.metrics.title
    float_ms, ms = r.latency_ms["float32"], r.latency_ms[first.scheme]
    faster = f"{float_ms / ms:.1f} times as fast as float32 here" if ms <= float_ms else f"float32: {float_ms:.2f} ms"
    allowed = f"{points(first.drop)} points, {r.limits.max_drop:g} allowed" if first.drop is not None else "no labels"
    float_bytes = len(r.evaluation.source.float_model)
    cards = (
        (f"{title}, float32", percent(r.evaluation.quality), f"{len(r.evaluation.frames)} held-out images"),
        (f"{title}, {first.scheme}", percent(first.quality), allowed),
        ("same answer as float32", f"{first.agreement:.2%}", f"limit: at least {r.limits.min_agreement:g} %"),
        ("size", kib(first.bytes), f"float32: {kib(float_bytes)}"),
        ("one inference", f"{ms:.2f} ms", faster),
    )
    return [{"name": name, "value": value, "note": note} for name, value, note in cards]


def _variants(r: Report) -> Table:
    reference = ["float32 (reference)", kib(len(r.evaluation.source.float_model)), percent(r.evaluation.quality)]
    rows = [[*reference, "", "", "", "", "", f"{r.latency_ms['float32']:.2f}"]]
    for v in r.results.values():
        worst = f"{v.worst_class} {points(v.worst_drop)}" if v.worst_class else ""
        rows.append([
            v.scheme, kib(v.bytes), percent(v.quality), points(v.drop), f"{v.agreement:.2%}", worst,
            f"{v.snr_db:.1f}", points(v.negative_control_drop), f"{r.latency_ms[v.scheme]:.2f}",
        ])  # fmt: skip
    title = r.evaluation.metrics.title
    heads = ["variant", "size", title, "points", "same as float", "worst class", "SNR, dB", "control", "ms"]
    return Table(heads, rows)


def _steps(r: Report) -> list[dict[str, Any]]:
    return [
        {
            "name": s.name,
            "detail": s.detail,
            "divergence": f"{s.divergence:.5f}" if np.isfinite(s.divergence) else "no kernel can compute it",
            "agreement": "" if s.agreement is None else f"{s.agreement:.2%}",
            "accepted": s.accepted,
        }
        for s in (r.search.steps if r.search else ())
    ]


def _noise(r: Report) -> dict[str, Any] | None:
    if not r.noise:
        return None
    worst = min(r.noise, key=lambda n: n.snr_db)
    return {
        "chart": bars([n.snr_db for n in r.noise], [_op_title(n.op) for n in r.noise], "dB", NOISY_DB),
        "worst_db": worst.snr_db,
        "worst_op": _op_title(worst.op, 90),
    }


def _ranges(r: Report) -> list[dict[str, str]]:
    if r.search is None:
        return []
    cards = []
    for n in sorted(r.noise, key=lambda n: n.snr_db)[:MAX_HISTOGRAMS]:
        limits, activation = r.search.ranges[n.op.output], r.search.activations[n.op.output]
        low, high = float(limits["min"].item()), float(limits["max"].item())
        values = f"values {activation.low:.3g} to {activation.high:.3g}"
        cards.append({
            "chart": histogram(activation.samples, low, high),
            "name": _op_title(n.op),
            "text": f"{values}, range {low:.3g} to {high:.3g}, {n.snr_db:.1f} dB",
        })  # fmt: skip
    return cards


def _op_title(op: Op, characters: int = 60) -> str:
    return f"{op.name} {op.output.split(';')[0][-characters:]}"


def _image(r: Report, i: int) -> ImageCard:
    metrics, answer = r.evaluation.metrics, r.evaluation.float_answers[i]
    path, target = r.evaluation.source.heldout[i]
    if isinstance(metrics, DetectionMetrics):
        detections = [metrics.visible(a) for a in (answer, r.first.answers[i])]
        src, truth = boxes_address(path, target, detections), label_names(target, metrics.spec.labels)
    else:
        src = frame_address(r.evaluation.frames[i])
        truth = "not labelled" if target is None else metrics.describe(target)
    others = [
        f"{scheme}: {metrics.describe(result.answers[i])}"
        for scheme, result in r.results.items()
        if metrics.differs(answer, result.answers[i])
    ]
    return ImageCard(src, truth, [f"float32: {metrics.describe(answer)}", *others], path.name)
