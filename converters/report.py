"""report.html: one self-contained page that says what the conversion cost and bought."""

from __future__ import annotations

import base64
import html

import cv2
import numpy as np

from converters.verify import Examination, Limits, Measured
from sightline.device import Scheme

_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#667080;--line:#d9dee5;--card:#fff;--page:#f4f6f8;--good:#14804a;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf0;--dim:#98a3b3;--line:#2c343f;--card:#181d24;--page:#0f1318;--good:#4cc38a;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:auto;padding:2rem 1rem}h1{margin:0 0 .25rem;font-size:1.8rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.dim{color:var(--dim)}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.75rem;margin:1.5rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem}.card b{display:block;font-size:1.6rem}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);border-radius:10px}
th,td{padding:.5rem .75rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}tr:last-child td{border:0}.scroll{overflow-x:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(8rem,1fr));gap:.75rem}
.pictures img{width:100%;image-rendering:auto;border-radius:8px;display:block}.pictures div{font-size:.85rem}
code{overflow-wrap:anywhere}
"""


def render(
    *, name: str, device: str, exam: Examination, parity: float, measured: dict[Scheme, Measured], limits: Limits
) -> str:
    """The page as text. Of the pictures on which a scheme answers otherwise than float32, the first 24 are shown."""
    source = exam.source
    spec, labels, pictures = source.input, source.output.labels, len(exam.truth)
    first = next(iter(measured.values()))
    differing = [
        (i, {s: int(m.answers[i]) for s, m in measured.items()})
        for i, answer in enumerate(exam.float_answers)
        if any(m.answers[i] != answer for m in measured.values())
    ]
    cards = "".join(
        f'<div class="card"><span class="dim">{title}</span><b>{value}</b><span class="dim">{note}</span></div>'
        for title, value, note in (
            ("accuracy, float32", _percent(exam.accuracy), f"{pictures} held-out pictures"),
            (
                f"accuracy, {first.scheme}",
                _percent(first.accuracy),
                f"{_points(first.drop)} points, {limits.max_drop:g} allowed",
            ),
            ("same answer as float", f"{first.agreement:.2%}", "of the held-out pictures"),
            ("size", _kib(first.bytes), f"float32: {_kib(len(source.float_model))}"),
        )
    )
    rows = "".join(
        f"<tr><td>{m.scheme}</td><td>{_kib(m.bytes)}</td><td>{_percent(m.accuracy)}</td><td>{_points(m.drop)}</td>"
        f"<td>{m.agreement:.2%}</td><td>{html.escape(m.worst_class or '')} {_points(m.worst_drop)}</td><td>{_points(m.control_drop)}</td></tr>"
        for m in measured.values()
    )
    shown = "".join(_picture(exam, i, given) for i, given in differing[:24])
    title = html.escape(f"{name} for {device}")
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title><style>{_STYLE}</style></head>
<body><main><h1>{title}</h1><div class="dim">version {html.escape(source.version)} &middot; input {spec.width}&times;{spec.height},
{spec.resize}, {spec.filter} filter &middot; {len(labels)} classes</div><div class="cards">{cards}</div>
<h2>Each variant on the held-out pictures</h2><div class="scroll"><table><tr><th>variant</th><th>size</th><th>accuracy</th>
<th>points</th><th>same as float</th><th>worst class</th><th>control</th></tr>{rows}</table></div>
<p class="dim">Control: the same model with its weights shuffled, examined the same way; it has to lose much, or the
examination could not have failed. The float TFLite differs from {source.origin} by {parity:.1e} of its outputs' range.</p>
<h2>Where a variant answers otherwise than float ({len(differing)})</h2>
<div class="pictures">{shown or '<span class="dim">Nowhere.</span>'}</div></main></body></html>
"""


def _picture(exam: Examination, i: int, given: dict[Scheme, int]) -> str:
    labels = exam.source.output.labels
    path, label = exam.source.heldout[i]
    answer = int(exam.float_answers[i])
    _, data = cv2.imencode(".jpg", cv2.cvtColor(np.asarray(exam.frames[i]), cv2.COLOR_RGB2BGR))
    others = ", ".join(f"{s}: {html.escape(labels[k])}" for s, k in given.items() if k != answer)
    image = f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
    truth, float_says = html.escape("" if label is None else labels[label]), html.escape(labels[answer])
    return (
        f'<div class="card"><img src="{image}" alt="{truth}"><b style="font-size:1rem">{truth}</b>'
        f'float32: {float_says}<br>{others}<br><span class="dim">{html.escape(path.name)}</span></div>'
    )


def _percent(fraction: float | None) -> str:
    return "unknown" if fraction is None else f"{fraction:.2%}"


def _points(drop: float | None) -> str:
    return "" if drop is None else f"{0 - drop:+.2f}"


def _kib(size: int) -> str:
    return f"{size / 1024:,.0f} KiB"
