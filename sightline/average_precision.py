"""Mean average precision as COCO defines it, by COCO's own evaluator, pycocotools."""

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


@dataclass(frozen=True)
class Truth:
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


def average_precision(found: Sequence[Sequence[Detection]], truth: Sequence[Truth], classes: int) -> AveragePrecision:
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
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    union = a[:, None, 2:].prod(axis=2) + b[None, :, 2:].prod(axis=2) - shared
    return np.asarray(shared / np.maximum(union, 1e-12))
