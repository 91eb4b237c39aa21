"""How good points are: a point is right in a box of its class that no surer point has taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.average_precision import Truth
from sightline.predictions import Detection

STEPS = np.arange(0.05, 1.0, 0.05)  # thresholds that are tried


@dataclass(frozen=True)
class PointScore:
    """All in 0..1. f1: harmonic mean of precision and recall over all classes, at `threshold`. per_class: F1 of each,
    NaN where it does not occur."""

    f1: float
    precision: float
    recall: float
    per_class: NDArray[np.float64]
    threshold: float


def point_score(
    found: Sequence[Sequence[Detection]], truth: Sequence[Truth], classes: int, threshold: float | None = None
) -> PointScore:
    """found: of each picture what a model said, at whatever score. threshold: none = the one at which F1 is largest."""
    rows = [
        (d.index, d.score, right)
        for said, real in zip(found, truth, strict=True)
        for d, right in zip(said, in_boxes(said, real), strict=True)
    ]
    table = np.asarray(rows, np.float64).reshape(-1, 3)
    label, score, right = table[:, 0].astype(np.int64), table[:, 1], table[:, 2] > 0
    there = np.bincount(np.concatenate([t.labels for t in truth]), minlength=classes)

    def counts(at: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shown = score >= at
        hits = np.bincount(label[shown & right], minlength=classes)
        return hits.astype(np.float64), np.bincount(label[shown], minlength=classes).astype(np.float64)

    def f1(at: float) -> float:
        hits, shown = counts(at)
        return float(2 * hits.sum() / max(shown.sum() + there.sum(), 1))

    best = threshold if threshold is not None else round(float(max(STEPS, key=f1)), 2)
    hits, shown = counts(best)
    each = np.where(there > 0, 2 * hits / np.maximum(shown + there, 1), np.nan)
    return PointScore(
        f1(best), float(hits.sum() / max(shown.sum(), 1)), float(hits.sum() / max(there.sum(), 1)), each, best
    )


def in_boxes(found: Sequence[Detection], truth: Truth, grow: float = 0.0) -> list[bool]:
    """Whether each point lies in a box of its class that none before it took, best first. grow: of a box on each side,
    in its own size."""
    free = np.ones(len(truth.labels), bool)
    right = []
    for d in found:
        x, y = d.box.x + d.box.width / 2, d.box.y + d.box.height / 2
        left, top = truth.boxes[:, 0] - grow * truth.boxes[:, 2], truth.boxes[:, 1] - grow * truth.boxes[:, 3]
        width, height = truth.boxes[:, 2] * (1 + 2 * grow), truth.boxes[:, 3] * (1 + 2 * grow)
        inside = (x >= left) & (x <= left + width) & (y >= top) & (y <= top + height)
        where = np.flatnonzero(inside & free & (truth.labels == d.index))
        right.append(bool(len(where)))
        if len(where):
            away = np.abs(truth.boxes[where, :2] + truth.boxes[where, 2:] / 2 - (x, y)).sum(axis=1)
            free[where[int(away.argmin())]] = False
    return right
