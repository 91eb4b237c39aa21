"""The metrics of boxes and points: COCO's mean average precision by its own evaluator, pycocotools, and F1 of points.

A point is right in a box of its class that no point of a higher score has taken.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.predictions import Detection

RECALLS = np.linspace(0, 1, 101)  # at which COCO reads precision
MOST = 100  # boxes of a picture that count
STEPS = np.arange(0.05, 1.0, 0.05)  # thresholds that are tried


@dataclass(frozen=True)
class GroundTruth:
    """What is in one picture. labels: [n]. boxes: float64 [n, 4], x, y, width, height in its pixels."""

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]


@dataclass(frozen=True)
class AveragePrecision:
    """All in 0..1. map: over IoU 0.50 to 0.95 and the classes that occur; map50: at 0.50 alone. per_class, per_class50:
    the same of each class, NaN where it does not occur. precision50: [classes, 101] at `RECALLS`, NaN likewise.
    threshold: the score that is worth showing, at which precision and recall are best together (F1 at IoU 0.5), mean
    over the classes."""

    map: float
    map50: float
    per_class: NDArray[np.float64]
    per_class50: NDArray[np.float64]
    precision50: NDArray[np.float64]
    threshold: float


def average_precision(
    found: Sequence[Sequence[Detection]], truth: Sequence[GroundTruth], classes: int
) -> AveragePrecision:
    """found: of each picture, what a detector said, at whatever score. truth: of the same pictures, in their order."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations: list[dict[str, Any]] = [
        {
            "id": 0, "image_id": i, "category_id": int(label), "bbox": box.tolist(), "area": float(box[2] * box[3]),
            "iscrowd": 0,
        }
        for i, picture in enumerate(truth)
        for label, box in zip(picture.labels, picture.boxes, strict=True)
    ]  # fmt: skip
    for number, annotation in enumerate(annotations, 1):  # 0 is COCO's word for none
        annotation["id"] = number
    results = [
        {
            "image_id": i, "category_id": d.index, "score": d.score,
            "bbox": [d.box.x, d.box.y, d.box.width, d.box.height],
        }
        for i, picture in enumerate(found)
        for d in picture
    ]  # fmt: skip
    if not results or not annotations:
        nothing = np.full(classes, np.nan)
        nothing[sorted({a["category_id"] for a in annotations})] = 0
        return AveragePrecision(0.0, 0.0, nothing, nothing, np.repeat(nothing[:, None], len(RECALLS), axis=1), 0.5)
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": k, "name": str(k)} for k in range(classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    # [IoU thresholds, recalls, classes, 1, 1], -1 where a class does not occur
    precision = evaluation.eval["precision"][:, :, :, 0, 0]
    precision = np.where(precision < 0, np.nan, precision)
    occurs = ~np.isnan(precision[0, 0])
    per_class = precision.mean(axis=(0, 1))
    per_class50 = precision[0].mean(axis=0)
    f1 = 2 * precision[0] * RECALLS[:, None] / np.maximum(precision[0] + RECALLS[:, None], 1e-9)
    best = f1[:, occurs].argmax(axis=0)
    scores = evaluation.eval["scores"][0, :, :, 0, 0][:, occurs]
    return AveragePrecision(
        map=float(per_class[occurs].mean()),
        map50=float(per_class50[occurs].mean()),
        per_class=per_class,
        per_class50=per_class50,
        precision50=precision[0].T,
        threshold=float(scores[best, np.arange(len(best))].mean()),
    )


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each of [n, 4] with each of [m, 4], x, y, width, height: [n, m]."""
    return paired_iou(a[:, None], b[None])


def paired_iou(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Intersection over union of boxes [..., 4], x, y, width, height, pair by pair; leading axes broadcast: [...]."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    union = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - shared
    return np.asarray(shared / np.maximum(union, 1e-12))


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
    found: Sequence[Sequence[Detection]], truth: Sequence[GroundTruth], classes: int, threshold: float | None = None
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


def in_boxes(found: Sequence[Detection], truth: GroundTruth, grow: float = 0.0) -> list[bool]:
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
