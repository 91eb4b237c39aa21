"""report.html and report.json: what a conversion cost and bought, and every choice that was made.

They lie beside the bundle, not in it: they hold pictures, which a device does not need, and times, which differ from
one run to the next, while the same input gives the same bundle to the last byte.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from converters.evaluate.acceptance import HeldOutEvaluation, Limits, VariantResult
from converters.evaluate.metrics import DetectionMetrics
from converters.evaluate.op_snr import OpNoise
from converters.quantize.search import SearchResult
from converters.report.charts import bars, histogram
from converters.report.html import drawn, kib, page, percent, points, shown_frame, table
from sightline.device import Scheme

# an op whose output is noisier than this stands out: 8 bits give about 35 to 45 dB
NOISY_DB = 20.0
PICTURES = 24
HISTOGRAMS = 6
_FIGURES = ("bytes", "agreement", "drop", "worst_class", "worst_drop", "snr_db", "negative_control_drop")


@dataclass(frozen=True)
class Report:
    """parity: largest difference between the float TFLite and its origin, over the outputs' range. found: of the static
    schemes; None without one. noise: of each op in the first of them. latency_ms: of one inference, one thread, on the
    machine that converted. seconds: of each phase."""

    name: str
    device: str
    exam: HeldOutEvaluation
    limits: Limits
    parity: float
    measured: dict[Scheme, VariantResult]
    found: SearchResult | None
    noise: Sequence[OpNoise]
    latency_ms: dict[str, float]
    seconds: dict[str, float]

    @property
    def differing(self) -> list[int]:
        """Indices of the held-out pictures on which a scheme answers otherwise than float32."""
        wanted = self.exam.float_answers
        return [
            i
            for i in range(len(wanted))
            if any(self.exam.rules.differs(wanted[i], m.answers[i]) for m in self.measured.values())
        ]


def to_json(r: Report) -> dict[str, Any]:
    """The same for programs; fractions in 0..1, drops in points, SNR in decibels."""
    source, rules, metric = r.exam.source, r.exam.rules, r.exam.rules.metric
    return {
        "name": r.name,
        "version": source.version,
        "device": r.device,
        "origin": source.origin,
        "input": asdict(source.input),
        "limits": asdict(r.limits),
        "pictures": len(r.exam.frames),
        "calibration_pictures": len(source.calibration),
        "parity": r.parity,
        "float32": {
            "bytes": len(source.float_model),
            metric: r.exam.quality,
            **(r.exam.float_quality.more if r.exam.float_quality else {}),
            "latency_ms": round(r.latency_ms["float32"], 4),
        },
        "schemes": {
            scheme: {
                metric: m.quality,
                **m.more,
                **{k: getattr(m, k) for k in _FIGURES},
                "latency_ms": round(r.latency_ms[scheme], 4),
            }
            for scheme, m in r.measured.items()
        },
        "steps": steps(r.found),
        "float_ops": list(r.found.float_ops) if r.found else [],
        "ops": [{"name": n.op.name, "output": n.op.output, "snr_db": round(n.snr_db, 2)} for n in r.noise],
        "sensitivities": [
            {"name": s.op.name, "output": s.op.output, "divergence": s.divergence, "macs": s.macs}
            for s in (r.found.sensitivities if r.found else ())
        ],
        "differing": [
            {
                "file": source.heldout[i][0].name,
                "float32": rules.say(r.exam.float_answers[i]),
                **{scheme: rules.say(m.answers[i]) for scheme, m in r.measured.items()},
            }
            for i in r.differing
        ],
        "seconds": {phase: round(s, 2) for phase, s in r.seconds.items()},
    }


def steps(found: SearchResult | None) -> list[dict[str, Any]]:
    """What was tried to make a static scheme better; a divergence that no kernel computes is None."""
    return [
        {
            **asdict(s),
            **{k: v if np.isfinite(v) else None for k, v in asdict(s).items() if k in ("before", "divergence")},
        }
        for s in (found.steps if found else ())
    ]


def render(r: Report) -> str:
    """The page: self-contained, no script."""
    source = r.exam.source
    spec = source.input
    about = (
        f"version {html.escape(source.version)} &middot; from {source.origin} &middot; input {spec.width}&times;"
        f"{spec.height}, {spec.resize}, {spec.filter} filter &middot; {len(source.output.labels)} classes"
    )
    body = f"{_cards(r)}{_variants(r)}{_steps(r)}{_noise(r)}{_ranges(r)}{_pictures(r)}{_times(r)}"
    return page(f"{r.name} for {r.device}", about, body)


def _cards(r: Report) -> str:
    first = next(iter(r.measured.values()))
    float_ms, ms = r.latency_ms["float32"], r.latency_ms[first.scheme]
    float_bytes, title = len(r.exam.source.float_model), r.exam.rules.title
    faster = f"{float_ms / ms:.1f} times as fast as float32 here" if ms <= float_ms else f"float32: {float_ms:.2f} ms"
    cards = (
        (f"{title}, float32", percent(r.exam.quality), f"{len(r.exam.frames)} held-out pictures"),
        (f"{title}, {first.scheme}", percent(first.quality), f"{points(first.drop)} points, "
         f"{r.limits.max_drop:g} allowed" if first.drop is not None else "no labels"),
        ("same answer as float", f"{first.agreement:.2%}", f"at least {r.limits.min_agreement:g} % asked"),
        ("size", kib(first.bytes), f"float32: {kib(float_bytes)}"),
        ("one inference", f"{ms:.2f} ms", faster),
    )  # fmt: skip
    return '<div class="cards">' + "".join(
        f'<div class="card"><span class="dim">{name}</span><b>{value}</b><span class="dim">{note}</span></div>'
        for name, value, note in cards
    ) + "</div>"  # fmt: skip


def _variants(r: Report) -> str:
    rows = [
        ["float32 (reference)", kib(len(r.exam.source.float_model)), percent(r.exam.quality), "", "", "", "", "",
         f"{r.latency_ms['float32']:.2f}"]
    ]  # fmt: skip
    for m in r.measured.values():
        worst = f"{html.escape(m.worst_class)} {points(m.worst_drop)}" if m.worst_class else ""
        rows.append([
            m.scheme, kib(m.bytes), percent(m.quality), points(m.drop), f"{m.agreement:.2%}", worst,
            f"{m.snr_db:.1f}", points(m.negative_control_drop), f"{r.latency_ms[m.scheme]:.2f}",
        ])  # fmt: skip
    heads = [
        "variant",
        "size",
        r.exam.rules.title,
        "points",
        "same as float",
        "worst class",
        "SNR, dB",
        "control",
        "ms",
    ]
    return f"""<h2>Each variant on the held-out pictures</h2>{table(heads, rows)}
<p class="dim">Control: the same model with its weights shuffled, examined the same way; it has to lose much, or the
examination could not have failed. SNR: of the outputs, against float32's. ms: one inference, one thread, on the machine
that converted. The float TFLite differs from {r.exam.source.origin} by {r.parity:.1e} of its outputs' range.</p>"""


def _steps(r: Report) -> str:
    if r.found is None:
        return ""
    rows = [
        [
            html.escape(s.name), html.escape(s.detail),
            f"{s.divergence:.5f}" if np.isfinite(s.divergence) else "no kernel computes it",
            "" if s.agreement is None else f"{s.agreement:.2%}", '<span class="yes">kept</span>' if s.kept else "",
        ]
        for s in r.found.steps
    ]  # fmt: skip
    left = len(r.found.float_ops)
    note = f"{left} ops compute in float, and the model takes longer for it. " if left else ""
    return f"""<h2>What was tried, and what it bought</h2>
<div class="left">{table(["method", "", "divergence", "same as float", ""], rows)}</div>
<p class="dim">Divergence: how far the outputs' distribution is from float32's on the calibration pictures, in nats; the
choice is made by it. The held-out pictures (same as float) only say whether that was enough. {note}</p>"""


def _noise(r: Report) -> str:
    if not r.noise:
        return ""
    titles = [f"{n.op.name} {n.op.output.split(';')[0][-60:]}" for n in r.noise]
    worst = min(r.noise, key=lambda n: n.snr_db)
    where = html.escape(f"{worst.op.name} {worst.op.output.split(';')[0][-90:]}")
    return f"""<h2>Signal over noise of each op, in dB</h2>
<div class="card">{bars([n.snr_db for n in r.noise], titles, "dB", NOISY_DB)}</div>
<p class="dim">In the order in which they run; int8 against float. The noisiest: {worst.snr_db:.1f} dB, {where}.</p>"""


def _ranges(r: Report) -> str:
    if r.found is None or not r.noise:
        return ""
    shown = []
    for n in sorted(r.noise, key=lambda n: n.snr_db)[:HISTOGRAMS]:
        limits, activation = r.found.ranges[n.op.output], r.found.activations[n.op.output]
        low, high = float(limits["min"].item()), float(limits["max"].item())
        name = html.escape(f"{n.op.name} {n.op.output.split(';')[0][-60:]}")
        shown.append(
            f'<div class="card">{histogram(activation.samples, low, high)}<div class="dim">{name}<br>'
            f"values {activation.low:.3g} to {activation.high:.3g}, range {low:.3g} to {high:.3g}, {n.snr_db:.1f} dB"
            "</div></div>"
        )
    return f"""<h2>Values of the noisiest ops, and the ranges that they got</h2>
<div class="charts">{"".join(shown)}</div>
<p class="dim">On the calibration pictures; counts on a logarithmic scale.</p>"""


def _pictures(r: Report) -> str:
    shown = "".join(_picture(r, i) for i in r.differing[:PICTURES])
    boxed = isinstance(r.exam.rules, DetectionMetrics)
    wide = "wide" if boxed else ""
    text = f"White: what is there; green: float32; red: {next(iter(r.measured))}." if boxed and shown else ""
    key = f'<p class="dim">{text}</p>' if text else ""
    return f"""<h2>Where a variant answers otherwise than float ({len(r.differing)})</h2>
{key}<div class="pictures {wide}">{shown or '<span class="dim">Nowhere.</span>'}</div>"""


def _picture(r: Report, i: int) -> str:
    rules = r.exam.rules
    path, right = r.exam.source.heldout[i]
    answer = r.exam.float_answers[i]
    if isinstance(rules, DetectionMetrics):
        said = (answer, next(iter(r.measured.values())).answers[i])
        image, truth = drawn(path, right, rules.spec.labels, [rules.shown(a) for a in said])
    else:
        image = shown_frame(r.exam.frames[i])
        truth = "not labelled" if right is None else rules.say(right)
    others = "<br>".join(
        f"{s}: {html.escape(rules.say(m.answers[i]))}"
        for s, m in r.measured.items()
        if rules.differs(answer, m.answers[i])
    )
    truth = html.escape(truth)
    return (
        f'<div class="card"><img src="{image}" alt="{truth}"><b style="font-size:1rem">{truth}</b>'
        f"float32: {html.escape(rules.say(answer))}<br>{others}<br>"
        f'<span class="dim">{html.escape(path.name)}</span></div>'
    )


def _times(r: Report) -> str:
    total = sum(r.seconds.values())
    each = ", ".join(f"{html.escape(phase)} {s:.1f} s" for phase, s in r.seconds.items())
    return f'<h2>Time</h2><p class="dim">{total:.1f} s: {each}.</p>'
