"""Boxes from a detector's raw outputs, in numpy: what is below the threshold is never dequantized.

A detector of Sightline's gives two outputs a level, in the order of its strides: class logits [1, h, w, classes] and
distances [1, h, w, 4] from the middle of each cell to a box's left, top, right and bottom edge, in strides, with a
scale of its own each. Nothing is concatenated, so boxes of hundreds of pixels and scores below one never share a scale.
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

IOU = 0.6  # two boxes of one class that share more are one thing
CANDIDATES = 300  # the best of them, before that is asked
LOWEST = 0.01  # of a score: below it a detector says nothing


def check_outputs(tensors: Sequence[TensorInfo], spec: OutputSpec, width: int, height: int) -> None:
    """Raises ValueError where a model's outputs are not what its spec says. width, height: of its input."""
    check_shapes([t.shape for t in tensors], spec, width, height)


def check_shapes(given: Sequence[tuple[int, ...]], spec: OutputSpec, width: int, height: int) -> None:
    """The same of the outputs' shapes."""
    wanted = [(1, height // stride, width // stride, channels) for stride in spec.strides for channels in spec.heads]
    if list(given) != wanted:
        raise ValueError(f"outputs of {[list(s) for s in given]} where {[list(s) for s in wanted]} are needed")


def detect(
    outputs: Sequence[NDArray[Any]],
    tensors: Sequence[TensorInfo],
    spec: OutputSpec,
    placement: Placement,
    threshold: float,
    top: int = 100,
) -> tuple[Detection, ...]:
    """The `top` boxes whose score reaches `threshold`, best first, in pixels of the frame and cut to it.

    outputs: as the model stores them (`Interpreter.raw`). tensors: what they are. placement: where the frame lies in
    the model's input; see `sightline.preprocess.place`.
    """
    logit = _logit(max(threshold, LOWEST))
    found = [
        _level(outputs[2 * i], outputs[2 * i + 1], tensors[2 * i], tensors[2 * i + 1], stride, logit)
        for i, stride in enumerate(spec.strides)
    ]
    boxes, logits, classes = (np.concatenate([level[k] for level in found]) for k in range(3))
    if len(logits) > CANDIDATES:
        best = np.argpartition(-logits, CANDIDATES)[:CANDIDATES]
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
    """boxes: [n, 4], left, top, right, bottom in pixels of the input. scores, classes: [n]. alone: what overlaps a
    better one of its class stays."""
    kept = np.argsort(-scores, kind="stable") if nms_done else suppress(boxes, scores, classes)
    edges = to_frame(boxes[kept], placement)
    inside = [
        Detection(labels[k], k, float(s), Box(x, y, r - x, b - y))
        for k, s, (x, y, r, b) in zip(classes[kept].tolist(), scores[kept], edges.tolist(), strict=True)
        if r > x and b > y
    ]
    return tuple(inside[:top])


def suppress(boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which boxes stay, best first: those that overlap no better one of their class."""
    real = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))  # a head may say anything
    if not len(real):
        return real
    boxes = boxes[real]
    # each class in a place of its own, where no other's boxes are
    apart = (classes[real] * (float(boxes.max()) - float(boxes.min()) + 1.0))[:, None]
    sizes = np.concatenate([boxes[:, :2] + apart, boxes[:, 2:] - boxes[:, :2]], axis=1)
    # OpenCV's own loop over a hundred boxes takes 0.05 ms
    order = cv2.dnn.NMSBoxes(sizes, scores[real], 0.0, IOU)  # type: ignore[arg-type]
    return real[np.asarray(order, np.int64).reshape(-1)]


def to_frame(boxes: NDArray[np.float32], placement: Placement) -> NDArray[np.float64]:
    """[n, 4] edges in pixels of the input -> the same in pixels of the frame, cut to what the model saw of it."""
    sx, sy, sw, sh = placement.source
    edges = [*placement.to_source(boxes[:, 0], boxes[:, 1]), *placement.to_source(boxes[:, 2], boxes[:, 3])]
    limits = ((sx, sx + sw), (sy, sy + sh)) * 2
    return np.stack([np.clip(edge, low, high) for edge, (low, high) in zip(edges, limits, strict=True)], axis=1)


def _level(
    scores: NDArray[Any], distances: NDArray[Any], score: TensorInfo, distance: TensorInfo, stride: int, logit: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """(float32 [n, 4] edges in pixels of the input, float32 [n] logits, [n] classes) of one level's survivors."""
    _, _, columns, classes = scores.shape
    flat = scores.reshape(-1)
    # one comparison of integers for all cells: the threshold is turned into the output's own numbers instead
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
