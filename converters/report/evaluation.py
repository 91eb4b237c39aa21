"""The report of `sightline evaluate`, for programs and as an HTML page."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from converters.evaluate.evaluate import Evaluation
from converters.evaluate.metrics import ClassificationMetrics, DetectionMetrics
from converters.report.charts import curves
from converters.report.html import ImageCard, boxes_address, frame_address, label_names, render_template
from converters.report.text import Table, kib, percent
from sightline.metrics import RECALLS

MAX_IMAGES = 48
MAX_CURVES = 24
MAX_CONFUSIONS = 20


def to_json(e: Evaluation) -> dict[str, Any]:
    """The report for programs. Fractions are in 0..1."""
    return {
        "data": str(e.root),
        "part": e.part,
        "seed": e.seed,
        "images": len(e.paths),
        "skipped": e.skipped,
        "models": {
            r.model.name: {
                "bytes": len(r.model.content),
                r.metrics.metric: r.scores.value,
                **r.scores.extra,
                "per_class": {
                    label: {r.metrics.metric: value, "count": r.scores.counts[label]}
                    for label, value in r.scores.per_class.items()
                },
                "threshold": r.model.output.threshold,
                "mistakes": sum(r.mistakes),
            }
            for r in e.results
        },
        "worst": [
            {"file": str(e.paths[i]), **{r.model.name: r.metrics.describe(r.answers[i]) for r in e.results}}
            for i in worst(e)[:MAX_IMAGES]
        ],
    }


def worst(e: Evaluation) -> list[int]:
    """Indices of the images with mistakes, those with the most mistakes of all models first."""
    total = np.sum([r.mistakes for r in e.results], axis=0)
    return [i for i in np.argsort(-total, kind="stable").tolist() if total[i]]


def variants(e: Evaluation) -> Table:
    """A row for each model."""
    first = e.results[0]
    mistakes = "missed or false" if isinstance(first.metrics, DetectionMetrics) else "wrong"
    extra = ["mAP50" if key == "map50" else key for key in first.scores.extra]
    rows = [
        [
            r.model.name, kib(len(r.model.content)), percent(r.scores.value),
            *map(percent, r.scores.extra.values()), f"{sum(r.mistakes):,}",
        ]
        for r in e.results
    ]  # fmt: skip
    return Table(["", "size", first.metrics.title, *extra, mistakes], rows)


def classes(e: Evaluation) -> Table:
    """A row for each class that occurs, the worst of the last model first."""
    counts, last = e.results[0].scores.counts, e.results[-1].scores.per_class
    heads = ["class", "boxes" if isinstance(e.results[0].metrics, DetectionMetrics) else "images"]
    rows = [
        [label, f"{counts[label]:,}", *(percent(r.scores.per_class[label]) for r in e.results)]
        for label in sorted(last, key=lambda label: last[label])
    ]
    return Table([*heads, *(r.model.name for r in e.results)], rows)


def render(e: Evaluation) -> str:
    """The report as an HTML page."""
    names = ", ".join(dict.fromkeys(r.model.name.rsplit(" ", 1)[0] for r in e.results))
    data, indices = e.root.resolve().name, worst(e)
    part = "all images" if e.part == "all" else f"held-out part (seed {e.seed})"
    return render_template(
        "evaluation.html",
        title=f"{names} on {data}",
        about=f"{len(e.paths):,} images: {part} of {data}; {e.skipped:,} skipped",
        models=variants(e),
        curves=_curves(e),
        classes=classes(e),
        last_model=e.results[-1].model.name,
        confusions=_confusions(e),
        mistaken=len(indices),
        boxes=_box_legend(e),
        images=[_image(e, i) for i in indices[:MAX_IMAGES]],
    )


def _curves(e: Evaluation) -> list[dict[str, str]]:
    labels = list(e.results[0].scores.curves)
    if not labels:
        return []
    charts = [("all classes", [(r, np.mean([*r.scores.curves.values()], axis=0)) for r in e.results])]
    worst_first = sorted(labels, key=lambda label: float(e.results[-1].scores.curves[label].mean()))
    for label in worst_first[:MAX_CURVES] if len(labels) > 1 else []:
        charts.append((label, [(r, r.scores.curves[label]) for r in e.results]))
    return [
        {
            "chart": curves(RECALLS, [(r.model.name, y) for r, y in lines]),
            "text": f"{title}: {', '.join(f'{y.mean():.1%}' for _, y in lines)}",
        }
        for title, lines in charts
    ]


def _confusions(e: Evaluation) -> Table | None:
    """The pairs of classes that the last model confuses; None without any."""
    r = e.results[-1]
    if not isinstance(r.metrics, ClassificationMetrics):
        return None
    labels = r.metrics.labels
    pairs = Counter((int(t), int(a)) for t, a in zip(r.metrics.truth, r.answers, strict=True) if t != a)
    rows = [[labels[t], labels[a], f"{n:,}"] for (t, a), n in pairs.most_common(MAX_CONFUSIONS)]
    return Table(["true class", "predicted class", "times"], rows) if rows else None


def _box_legend(e: Evaluation) -> dict[str, Any] | None:
    first, last = e.results[0], e.results[-1]
    if not isinstance(first.metrics, DetectionMetrics):
        return None
    return {
        "first_model": first.model.name,
        "last_model": last.model.name if last is not first else "",
        "threshold": first.model.output.threshold,
    }


def _image(e: Evaluation, i: int) -> ImageCard:
    first, last = e.results[0], e.results[-1]
    metrics = first.metrics
    if isinstance(metrics, DetectionMetrics):
        models = [first] if last is first else [first, last]
        visible = [r.metrics.visible(r.answers[i]) for r in models if isinstance(r.metrics, DetectionMetrics)]
        truth = metrics.truth[i]
        src, text = boxes_address(e.paths[i], truth, visible), label_names(truth, metrics.spec.labels)
    else:
        assert isinstance(metrics, ClassificationMetrics)
        src, text = frame_address(first.frames[i]), metrics.labels[metrics.truth[i]]
    answers = [f"{r.model.name}: {r.metrics.describe(r.answers[i])}" for r in e.results]
    return ImageCard(src, text, answers, e.paths[i].name)
