"""What `sightline evaluate` found, for programs and as a page."""

from __future__ import annotations

import html
from collections import Counter
from typing import Any

import numpy as np

from converters.evaluate.evaluate import Evaluation
from converters.evaluate.metrics import ClassificationMetrics, DetectionMetrics
from converters.report.charts import curves
from converters.report.html import drawn, kib, page, percent, shown_frame, table
from sightline.metrics import RECALLS

PICTURES = 48
CURVES = 24
CONFUSIONS = 20


def to_json(e: Evaluation) -> dict[str, Any]:
    """Fractions in 0..1."""
    return {
        "data": str(e.root),
        "part": e.part,
        "seed": e.seed,
        "pictures": len(e.paths),
        "skipped": e.skipped,
        "models": {
            r.candidate.name: {
                "bytes": len(r.candidate.content),
                r.rules.metric: r.quality.value,
                **r.quality.more,
                "per_class": {
                    label: {r.rules.metric: value, "count": r.quality.sizes[label]}
                    for label, value in r.quality.per_class.items()
                },
                "threshold": r.candidate.output.threshold,
                "wrong": sum(r.mistakes),
            }
            for r in e.results
        },
        "worst": [
            {"file": str(e.paths[i]), **{r.candidate.name: r.rules.say(r.answers[i]) for r in e.results}}
            for i in worst(e)[:PICTURES]
        ],
    }


def worst(e: Evaluation) -> list[int]:
    """Indices of the pictures in which something is wrong, those first in which the most is, by any of the models."""
    total = np.sum([r.mistakes for r in e.results], axis=0)
    return [i for i in np.argsort(-total, kind="stable").tolist() if total[i]]


def variants(e: Evaluation) -> tuple[list[str], list[list[str]]]:
    """A table: heads, and a row for each model."""
    first = e.results[0]
    boxes = isinstance(first.rules, DetectionMetrics)
    wrong = "missed or false" if boxes else "wrong"
    more = ["mAP50" if key == "map50" else key for key in first.quality.more]
    heads = ["", "size", first.rules.title, *more, wrong]
    rows = [
        [
            r.candidate.name, kib(len(r.candidate.content)), percent(r.quality.value),
            *map(percent, r.quality.more.values()), f"{sum(r.mistakes):,}",
        ]
        for r in e.results
    ]  # fmt: skip
    return heads, rows


def classes(e: Evaluation) -> tuple[list[str], list[list[str]]]:
    """A table: heads, and a row for each class that occurs, worst first by the last model."""
    sizes, last = e.results[0].quality.sizes, e.results[-1].quality.per_class
    heads = ["class", "boxes" if isinstance(e.results[0].rules, DetectionMetrics) else "pictures"]
    rows = [
        [label, f"{sizes[label]:,}", *(percent(r.quality.per_class[label]) for r in e.results)]
        for label in sorted(last, key=lambda label: last[label])
    ]
    return [*heads, *(r.candidate.name for r in e.results)], rows


def render(e: Evaluation) -> str:
    """The page: self-contained, no script."""
    names = ", ".join(dict.fromkeys(r.candidate.name.rsplit(" ", 1)[0] for r in e.results))
    part = "every picture" if e.part == "all" else f"the held-out part (seed {e.seed})"
    about = html.escape(f"{len(e.paths):,} pictures: {part} of {e.root.resolve().name}; {e.skipped:,} skipped")
    heads, rows = classes(e)
    body = (
        f"<h2>Models</h2>{_table(*variants(e))}{_curves(e)}<h2>Classes, worst first</h2>{_table(heads, rows)}"
        f"{_confusions(e)}{_pictures(e)}"
    )
    return page(f"{names} on {e.root.resolve().name}", about, body)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return table([html.escape(h) for h in heads], [[html.escape(cell) for cell in row] for row in rows])


def _curves(e: Evaluation) -> str:
    labels = list(e.results[0].quality.curves)
    if not labels:
        return ""
    shown = [("all classes", [(r, np.mean([*r.quality.curves.values()], axis=0)) for r in e.results])]
    worst_first = sorted(labels, key=lambda label: float(e.results[-1].quality.curves[label].mean()))
    for label in worst_first[:CURVES] if len(labels) > 1 else []:
        shown.append((label, [(r, r.quality.curves[label]) for r in e.results]))
    cards = "".join(
        f'<div class="card">{curves(RECALLS, [(r.candidate.name, y) for r, y in lines])}'
        f'<div class="dim">{html.escape(title)}: {", ".join(f"{y.mean():.1%}" for _, y in lines)}</div></div>'
        for title, lines in shown
    )
    return f"""<h2>Precision over recall, at IoU 0.5</h2><div class="charts">{cards}</div>
<p class="dim">Upwards precision, to the right recall, both from 0 to 1; the figures are the areas below, in the order
of the models; the first one's line is dashed.</p>"""


def _confusions(e: Evaluation) -> str:
    r = e.results[-1]
    if not isinstance(r.rules, ClassificationMetrics):
        return ""
    labels = r.rules.labels
    pairs = Counter((int(t), int(a)) for t, a in zip(r.rules.truth, r.answers, strict=True) if t != a)
    rows = [[labels[t], labels[a], f"{n:,}"] for (t, a), n in pairs.most_common(CONFUSIONS)]
    if not rows:
        return ""
    return f"<h2>What {html.escape(r.candidate.name)} takes for what</h2>{_table(['is', 'taken for', 'times'], rows)}"


def _pictures(e: Evaluation) -> str:
    found = worst(e)
    shown = "".join(_picture(e, i) for i in found[:PICTURES])
    key = wide = ""
    if isinstance(e.results[0].rules, DetectionMetrics):
        others = f"; red: {html.escape(e.results[-1].candidate.name)}" if len(e.results) > 1 else ""
        first, wide = e.results[0], "wide"
        key = (
            f'<p class="dim">White: what is there; green: {html.escape(first.candidate.name)}{others}; boxes from a '
            f"score of {first.candidate.output.threshold:g}.</p>"
        )
    return f"""<h2>Pictures in which something is wrong ({len(found):,}), worst first</h2>{key}
<div class="pictures {wide}">{shown or '<span class="dim">None.</span>'}</div>"""


def _picture(e: Evaluation, i: int) -> str:
    first, last = e.results[0], e.results[-1]
    rules = first.rules
    if isinstance(rules, DetectionMetrics):
        models = [first] if last is first else [first, last]
        shown = [r.rules.shown(r.answers[i]) for r in models if isinstance(r.rules, DetectionMetrics)]
        image, right = drawn(e.paths[i], rules.truth[i], rules.spec.labels, shown)
    else:
        assert isinstance(rules, ClassificationMetrics)
        image, right = shown_frame(first.frames[i]), rules.labels[rules.truth[i]]
    said = "<br>".join(f"{html.escape(r.candidate.name)}: {html.escape(r.rules.say(r.answers[i]))}" for r in e.results)
    right = html.escape(right)
    return (
        f'<div class="card"><img src="{image}" alt="{right}"><b style="font-size:1rem">{right}</b>{said}<br>'
        f'<span class="dim">{html.escape(e.paths[i].name)}</span></div>'
    )
