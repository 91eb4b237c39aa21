"""Boxes from a detector's raw outputs, in numpy. Scores below the threshold are never dequantized.

Sightline's detectors have two outputs per level, in the order of the strides: class logits [1, h, w, classes], and
distances [1, h, w, 4] from the centre of each cell to a box's left, top, right and bottom edge, in strides. Each has
its own scale. Nothing is concatenated, so boxes of hundreds of pixels and scores below one never share a scale.
The anchor-free head is that of FCOS (Tian et al. 2019), without its centre-ness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec
from sightline.predictions import Box, Detection
from sightline.preprocess import Placement

MAX_IOU = 0.6  # of two boxes of one class: above it they are the same object
MAX_CANDIDATES = 300  # boxes with the best scores that go into non-maximum suppression
MIN_SCORE = 0.01  # lower scores are never predictions


def check_outputs(tensors: Sequence[TensorInfo], spec: OutputSpec, width: int, height: int) -> None:
    """Raise ValueError if a model's outputs do not match its spec. width, height: of its input."""
    check_shapes([t.shape for t in tensors], spec, width, height)


def check_shapes(shapes: Sequence[tuple[int, ...]], spec: OutputSpec, width: int, height: int) -> None:
    """Raise ValueError if the shapes of a model's outputs do not match its spec. width, height: of its input."""
    expected = [(1, height // stride, width // stride, channels) for stride in spec.strides for channels in spec.heads]
    if list(shapes) != expected:
        raise ValueError(f"outputs {[list(s) for s in shapes]} where {[list(s) for s in expected]} are needed")


def detect(
    outputs: Sequence[NDArray[Any]],
    tensors: Sequence[TensorInfo],
    spec: OutputSpec,
    placement: Placement,
    threshold: float,
    top: int = 100,
) -> tuple[Detection, ...]:
    """The `top` boxes whose score reaches `threshold`, best first, in pixels of the frame and cut to it.

    outputs: as the model stores them (`Interpreter.raw`).
    tensors: their dtypes and scales.
    placement: where the frame lies in the model's input; see `sightline.preprocess.place`.
    """
    logit = _logit(max(threshold, MIN_SCORE))
    levels = [
        _level(outputs[2 * i], outputs[2 * i + 1], tensors[2 * i], tensors[2 * i + 1], stride, logit)
        for i, stride in enumerate(spec.strides)
    ]
    boxes, logits, classes = (np.concatenate([level[k] for level in levels]) for k in range(3))
    if len(logits) > MAX_CANDIDATES:
        best = np.argpartition(-logits, MAX_CANDIDATES)[:MAX_CANDIDATES]
        boxes, logits, classes = boxes[best], logits[best], classes[best]
    return to_detections(boxes, 1 / (1 + np.exp(-logits)), classes, spec.labels, placement, top)


def to_detections(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int64],
    labels: Sequence[str],
    placement: Placement,
    top: int,
    *,
    nms_done: bool = False,
) -> tuple[Detection, ...]:
    """Detections in pixels of the frame, best first, without boxes that lie outside the frame.

    boxes: [n, 4], left, top, right, bottom in pixels of the input.
    scores, classes: [n].
    nms_done: whether non-maximum suppression is done already.
    """
    order = np.argsort(-scores, kind="stable") if nms_done else suppress(boxes, scores, classes)
    edges = to_frame(boxes[order], placement)
    inside = [
        Detection(labels[k], k, float(s), Box(x, y, r - x, b - y))
        for k, s, (x, y, r, b) in zip(classes[order].tolist(), scores[order], edges.tolist(), strict=True)
        if r > x and b > y
    ]
    return tuple(inside[:top])


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the boxes that overlap no better one of their class, best first (non-maximum suppression)."""
    real = np.flatnonzero(
        (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    )  # a head may output boxes without area
    if not len(real):
        return real
    boxes = boxes[real]
    # moves each class to its own place, where no box of another class is
    apart = (classes[real] * (float(boxes.max()) - float(boxes.min()) + 1.0))[:, None]
    sizes = np.concatenate([boxes[:, :2] + apart, boxes[:, 2:] - boxes[:, :2]], axis=1)
    # OpenCV's own loop over a hundred boxes takes 0.05 ms
    order = cv2.dnn.NMSBoxes(sizes, scores[real], 0.0, MAX_IOU)  # type: ignore[arg-type]
    return real[np.asarray(order, np.int64).reshape(-1)]


def to_frame(boxes: NDArray[np.float32], placement: Placement) -> NDArray[np.float64]:
    """[n, 4] edges in pixels of the input -> pixels of the frame, cut to the part of it that the model gets."""
    sx, sy, sw, sh = placement.source
    edges = [*placement.to_source(boxes[:, 0], boxes[:, 1]), *placement.to_source(boxes[:, 2], boxes[:, 3])]
    limits = ((sx, sx + sw), (sy, sy + sh)) * 2
    return np.stack([np.clip(edge, low, high) for edge, (low, high) in zip(edges, limits, strict=True)], axis=1)


def _level(
    scores: NDArray[Any], distances: NDArray[Any], score: TensorInfo, distance: TensorInfo, stride: int, logit: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """(float32 [n, 4] edges in pixels of the input, float32 [n] logits, [n] classes) of the boxes of one level
    that reach the threshold. logit: of the threshold."""
    _, _, columns, classes = scores.shape
    flat = scores.reshape(-1)
    # compares integers for all cells: instead of the output, the threshold is converted
    lowest = logit / score.scale + score.zero_point if score.scale else logit
    if score.scale and lowest > np.iinfo(flat.dtype).max:
        survivors = np.empty(0, np.int64)
    else:
        whole = max(math.ceil(lowest), int(np.iinfo(flat.dtype).min)) if score.scale else lowest
        survivors = np.flatnonzero(flat >= whole)
    cells, labels = np.divmod(survivors, classes)
    edges = distance.real(distances.reshape(-1, 4)[cells]) * np.float32(stride)
    x = (cells % columns + 0.5).astype(np.float32) * stride
    y = (cells // columns + 0.5).astype(np.float32) * stride
    boxes = np.stack([x - edges[:, 0], y - edges[:, 1], x + edges[:, 2], y + edges[:, 3]], axis=1)
    return boxes, score.real(flat[survivors]), labels


def _logit(p: float) -> float:
    return math.log(p / (1 - p)) if p < 1 else math.inf
