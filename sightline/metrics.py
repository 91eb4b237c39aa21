"""Metrics of boxes and points: COCO's mean average precision by its own evaluator, pycocotools, and F1 of points.

A point is correct if it lies in a box of its class that no point with a higher score has matched.
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

RECALLS = np.linspace(0, 1, 101)  # at which COCO measures precision
MAX_BOXES = 100  # of an image that count
THRESHOLDS = np.arange(0.05, 1.0, 0.05)  # candidates for the threshold of points


@dataclass(frozen=True)
class GroundTruth:
    """The labelled objects of one image.

    labels: [n], class indices.
    boxes: float64 [n, 4], x, y, width, height in pixels.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's metrics, all in 0..1.

    map: mean over IoU 0.50 to 0.95 and the classes that occur.
    map50: the same at IoU 0.50.
    per_class, per_class50: map and map50 of each class, NaN for a class that does not occur.
    precision50: [classes, 101], precision at `RECALLS` and IoU 0.50; NaN for a class that does not occur.
    threshold: the score with the best F1 at IoU 0.50, mean over the classes.
    """

    map: float
    map50: float
    per_class: NDArray[np.float64]
    per_class50: NDArray[np.float64]
    precision50: NDArray[np.float64]
    threshold: float


def average_precision(
    predictions: Sequence[Sequence[Detection]], truth: Sequence[GroundTruth], classes: int
) -> AveragePrecision:
    """COCO's metrics of a detector.

    predictions: for each image, at any score.
    truth: of the same images.
    classes: number of classes.
    """
    annotations: list[dict[str, Any]] = [
        {
            "id": 0, "image_id": i, "category_id": int(label), "bbox": box.tolist(), "area": float(box[2] * box[3]),
            "iscrowd": 0,
        }
        for i, objects in enumerate(truth)
        for label, box in zip(objects.labels, objects.boxes, strict=True)
    ]  # fmt: skip
    for number, annotation in enumerate(annotations, 1):  # 0 means none in COCO
        annotation["id"] = number
    results = [
        {
            "image_id": i, "category_id": d.index, "score": d.score,
            "bbox": [d.box.x, d.box.y, d.box.width, d.box.height],
        }
        for i, detections in enumerate(predictions)
        for d in detections
    ]  # fmt: skip
    if not results or not annotations:
        zeros = np.full(classes, np.nan)
        zeros[sorted({a["category_id"] for a in annotations})] = 0
        return AveragePrecision(0.0, 0.0, zeros, zeros, np.repeat(zeros[:, None], len(RECALLS), axis=1), 0.5)
    evaluation = _evaluate_coco(annotations, results, len(truth), classes)

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


def _evaluate_coco(annotations: list[dict[str, Any]], results: list[dict[str, Any]], images: int, classes: int) -> Any:
    """COCO's evaluator after its evaluation. annotations, results: in COCO's form. images, classes: how many."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints every step
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(images)],
            "categories": [{"id": k, "name": str(k)} for k in range(classes)],
            "annotations": annotations,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MAX_BOXES]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


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
    """Metrics of points, all in 0..1.

    f1: harmonic mean of precision and recall, over all classes.
    precision, recall: over all classes.
    per_class: F1 of each class, NaN for a class that does not occur.
    threshold: lowest score of the points that count.
    """

    f1: float
    precision: float
    recall: float
    per_class: NDArray[np.float64]
    threshold: float


def point_score(
    predictions: Sequence[Sequence[Detection]],
    truth: Sequence[GroundTruth],
    classes: int,
    threshold: float | None = None,
) -> PointScore:
    """Judge points by the boxes in which they lie.

    predictions: for each image, at any score, best first.
    truth: of the same images.
    classes: number of classes.
    threshold: None = the one with the highest F1.
    """
    rows = [
        (d.index, d.score, correct)
        for points, boxes in zip(predictions, truth, strict=True)
        for d, correct in zip(points, in_boxes(points, boxes), strict=True)
    ]
    table = np.asarray(rows, np.float64).reshape(-1, 3)
    label, score, correct = table[:, 0].astype(np.int64), table[:, 1], table[:, 2] > 0
    objects = np.bincount(np.concatenate([t.labels for t in truth]), minlength=classes)

    def counts(at: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shown = score >= at
        hits = np.bincount(label[shown & correct], minlength=classes)
        return hits.astype(np.float64), np.bincount(label[shown], minlength=classes).astype(np.float64)

    def f1(at: float) -> float:
        hits, shown = counts(at)
        return float(2 * hits.sum() / max(shown.sum() + objects.sum(), 1))

    best = threshold if threshold is not None else round(float(max(THRESHOLDS, key=f1)), 2)
    hits, shown = counts(best)
    each = np.where(objects > 0, 2 * hits / np.maximum(shown + objects, 1), np.nan)
    return PointScore(
        f1(best), float(hits.sum() / max(shown.sum(), 1)), float(hits.sum() / max(objects.sum(), 1)), each, best
    )


def in_boxes(predictions: Sequence[Detection], truth: GroundTruth, grow: float = 0.0) -> list[bool]:
    """Whether each point lies in a box of its class that no earlier point has matched.

    predictions: best first; the point is the centre of the box.
    grow: how far each box is enlarged on each side, as a fraction of its size.
    """
    free = np.ones(len(truth.labels), bool)
    correct = []
    for d in predictions:
        x, y = d.box.x + d.box.width / 2, d.box.y + d.box.height / 2
        left, top = truth.boxes[:, 0] - grow * truth.boxes[:, 2], truth.boxes[:, 1] - grow * truth.boxes[:, 3]
        width, height = truth.boxes[:, 2] * (1 + 2 * grow), truth.boxes[:, 3] * (1 + 2 * grow)
        inside = (x >= left) & (x <= left + width) & (y >= top) & (y <= top + height)
        matches = np.flatnonzero(inside & free & (truth.labels == d.index))
        correct.append(bool(len(matches)))
        if len(matches):
            distance = np.abs(truth.boxes[matches, :2] + truth.boxes[matches, 2:] / 2 - (x, y)).sum(axis=1)
            free[matches[int(distance.argmin())]] = False
    return correct
