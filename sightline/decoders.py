"""Decodes outputs other than class scores and Sightline's own boxes: points, other people's boxes, masks, poses.

In numpy. The decoders, and the outputs that each one reads:

points         Sightline's own: a heat map [1, h, w, classes] of logits, in which each object is a peak
ssd            TFLite_Detection_PostProcess: boxes [1, n, 4] as top, left, bottom, right of 0..1, classes [1, n],
               scores [1, n], count [1]
yolo           Ultralytics since v8: [1, 4 + classes, n], or transposed: centre x, y, width, height, scores
yolo5          older Ultralytics: [1, n, 5 + classes], with an objectness score after the box
yolo_pose      [1, 5 + 3 * points, n]
boxes          after NMS: [1, n, 6], left, top, right, bottom, score, class (YOLO 26, exports with NMS)
mask           [1, height, width] class of each pixel, or [1, height, width, classes] scores (DeepLab)
movenet        [1, 1, 17, 3]: y, x, score of each point, 0..1 (MoveNet single pose)
movenet_multi  [1, people, 56]: the same 17, then top, left, bottom, right, score
posenet        heatmaps [1, h, w, points], offsets [1, h, w, 2 * points], y before x (PoseNet, one person)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.detection_postprocess import MAX_CANDIDATES, MIN_SCORE, suppress, to_detections, to_frame
from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec
from sightline.predictions import Box, Detection, Point, Pose, Prediction, Region
from sightline.preprocess import Placement

Floats = NDArray[np.float32]

BODY_POINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
MIN_KEYPOINT_SCORE = 0.2  # score that a point needs to count for the box around a pose
BACKGROUND_LABELS = ("background", "???")  # lower-case labels that are not a class
MIN_REGION_SHARE = 0.001  # of the image: a smaller region is noise


@dataclass(frozen=True)
class _Request:
    """What a decoder needs besides the outputs.

    spec: what the outputs mean.
    size: (width, height) of the model's input.
    placement: where the frame lies in the input.
    threshold: lowest score.
    top: most predictions.
    """

    spec: OutputSpec
    size: tuple[int, int]
    placement: Placement
    threshold: float
    top: int

    def pixels(self, places: Floats) -> Floats:
        """places: [n, 2] or [n, 4], x before y, as the model gives them. Returns them in pixels of the input."""
        if not self.spec.relative:
            return places
        return places * np.asarray(self.size * (places.shape[1] // 2), np.float32)


def decode_outputs(
    outputs: Sequence[NDArray[Any]],
    tensors: Sequence[TensorInfo],
    spec: OutputSpec,
    size: tuple[int, int],
    placement: Placement,
    threshold: float,
    top: int,
) -> tuple[Prediction, ...]:
    """Predictions in pixels of the frame, best first. Raises ValueError for an unknown decoder.

    outputs: as the model stores them (`Interpreter.raw`).
    tensors: their dtypes and scales.
    spec: what they mean.
    size: (width, height) of the model's input.
    placement: where the frame lies in the input.
    threshold: lowest score.
    top: most predictions.
    """
    request = _Request(spec, size, placement, max(threshold, MIN_SCORE), top)
    match spec.decoder:
        case "points":
            return _decode_points(outputs[0], tensors[0], request)
        case "ssd":
            return _decode_ssd([tensors[i].real(outputs[i]) for i in spec.order], request)
        case "yolo" | "yolo5" | "yolo_pose":
            return _decode_yolo(outputs[0], tensors[0], request)
        case "boxes":
            rows = tensors[0].real(outputs[0]).reshape(-1, 6)
            return _boxes_after_nms(rows[:, :4], rows[:, 4], rows[:, 5], request)
        case "mask":
            return _decode_mask(outputs[0], request)
        case "movenet":
            points = tensors[0].real(outputs[0]).reshape(1, -1, 3)[..., [1, 0, 2]]
            return _poses(points, None, request)
        case "movenet_multi":
            rows = tensors[0].real(outputs[0]).reshape(-1, 56)
            points = rows[:, :51].reshape(-1, 17, 3)[..., [1, 0, 2]]
            boxes = request.pixels(rows[:, [52, 51, 54, 53]])
            return _poses(points, (boxes, rows[:, 55]), request)
        case "posenet":
            heat, offsets = (tensors[i].real(outputs[i])[0] for i in spec.order)
            return _poses(_posenet_points(heat, offsets, size), None, request)
    raise ValueError(f"no decoder {spec.decoder!r}")


def comparable(outputs: Sequence[Floats], spec: OutputSpec) -> list[Floats]:
    """The part of the outputs that must be equal on two machines, in the outputs' own shapes, the rest 0.

    Boxes after NMS change places if two scores are nearly the same, and boxes beyond their count are arbitrary memory:
    only their scores are compared, best first.
    """
    if spec.decoder not in ("ssd", "boxes"):
        return list(outputs)
    result = [np.zeros_like(o) for o in outputs]
    if spec.decoder == "boxes":
        result[0].reshape(-1, 6)[:, 4] = -np.sort(-outputs[0].reshape(-1, 6)[:, 4])
        return result
    scores_at, count = spec.order[2], int(outputs[spec.order[3]].reshape(-1)[0])
    scores = outputs[scores_at].reshape(-1)[: max(0, count)]
    result[scores_at].reshape(-1)[: len(scores)] = -np.sort(-scores)
    return result


def upright(table: NDArray[Any]) -> NDArray[Any]:
    """YOLO's table with one column per box. Its longer side is that of the boxes."""
    return table if table.shape[0] <= table.shape[1] else table.T


def name_of(labels: Sequence[str], k: int) -> str:
    """The label of class `k`; a model may have more classes than labels."""
    return labels[k] if 0 <= k < len(labels) else f"class {k}"


def _decode_points(output: NDArray[Any], tensor: TensorInfo, request: _Request) -> tuple[Detection, ...]:
    """Each box is one cell, centred on its point."""
    spec, threshold = request.spec, request.threshold
    stride = spec.strides[0]
    cells = output[0]
    lowest = _stored(math.log(threshold / (1 - threshold)) if threshold < 1 else math.inf, tensor)
    if not (cells >= lowest).any():
        return ()
    # a peak is at least as high as its neighbours; of equal ones, which int8 has many, it is the first
    around = np.pad(cells.astype(np.float32), ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns, _ = cells.shape
    peak = cells >= lowest
    for dy, dx in ((0, 0), (0, 1), (0, 2), (1, 0)):
        peak &= cells > around[dy : dy + rows, dx : dx + columns]
    for dy, dx in ((1, 2), (2, 0), (2, 1), (2, 2)):
        peak &= cells >= around[dy : dy + rows, dx : dx + columns]
    y, x, classes = np.nonzero(peak)
    scores = 1 / (1 + np.exp(-tensor.real(cells[y, x, classes])))
    # between cells: the mean position of the scores around the peak
    near = np.stack([around[y + dy, x + dx, classes] for dy in range(3) for dx in range(3)], axis=1)
    weight = 1 / (1 + np.exp(-tensor.real(near).clip(-80, 80)))
    down, across = np.divmod(np.arange(9), 3)
    whole = weight.sum(axis=1)
    px = (x + 0.5 + (weight * (across - 1)).sum(axis=1) / whole) * stride
    py = (y + 0.5 + (weight * (down - 1)).sum(axis=1) / whole) * stride
    boxes = np.stack([px - stride / 2, py - stride / 2, px + stride / 2, py + stride / 2], axis=1).astype(np.float32)
    return to_detections(
        boxes, scores.astype(np.float32), classes, spec.labels, request.placement, request.top, nms_done=True
    )


def _decode_ssd(parts: list[Floats], request: _Request) -> tuple[Detection, ...]:
    boxes, classes, scores, count = (part.reshape(-1) for part in parts)
    n = max(0, min(int(count[0]), len(scores)))
    corners = boxes.reshape(-1, 4)[:n, [1, 0, 3, 2]]
    return _boxes_after_nms(corners, scores[:n], classes[:n], request)


def _boxes_after_nms(boxes: Floats, scores: Floats, classes: Floats, request: _Request) -> tuple[Detection, ...]:
    """boxes: [n, 4], left, top, right, bottom. scores, classes: [n]."""
    chosen = np.flatnonzero((scores >= request.threshold) & (classes >= 0))
    indices = classes[chosen].round().astype(np.int64)
    labels = [name_of(request.spec.labels, k) for k in range(int(indices.max(initial=-1)) + 1)]
    corners, clipped = request.pixels(boxes[chosen]), scores[chosen].clip(0, 1)
    return to_detections(corners, clipped, indices, labels, request.placement, request.top, nms_done=True)


def _decode_yolo(output: NDArray[Any], tensor: TensorInfo, request: _Request) -> tuple[Prediction, ...]:
    spec, threshold, top = request.spec, request.threshold, request.top
    poses = spec.decoder == "yolo_pose"
    first = 5 if spec.decoder == "yolo5" else 4
    rows = upright(output[0])
    # as stored: integers have the same order as the scores
    best = rows[4] if poses else rows[first:].max(axis=0)
    chosen = np.flatnonzero(best >= _stored(threshold, tensor))
    real = tensor.real(rows[:, chosen])
    if poses:
        scores, classes = real[4], np.zeros(len(chosen), np.int64)
    else:
        scores, classes = real[first:].max(axis=0), real[first:].argmax(axis=0)
    if first == 5:
        scores = scores * real[4]
    best_first = np.flatnonzero(scores >= threshold)
    best_first = best_first[np.argsort(-scores[best_first], kind="stable")[:MAX_CANDIDATES]]
    real, scores, classes = real[:, best_first], scores[best_first].clip(0, 1), classes[best_first]
    centre, half = real[:2].T, real[2:4].T / 2
    boxes = request.pixels(np.concatenate([centre - half, centre + half], axis=1))
    if not poses:
        return to_detections(boxes, scores, classes, spec.labels, request.placement, top)
    survivors = suppress(boxes, scores, classes)[:top]
    points = real[5:, survivors].T.reshape(len(survivors), -1, 3)
    return _poses(points, (boxes[survivors], scores[survivors]), request)


def _decode_mask(output: NDArray[Any], request: _Request) -> tuple[Region, ...]:
    placement, size = request.placement, request.size
    scored = output.ndim == 4 and output.shape[-1] > 1
    classes = output[0].argmax(axis=-1) if scored else output.reshape(-1, output.shape[2])
    # the padding is not part of the frame
    (tx, ty, tw, th), (sx, sy, sw, sh) = placement.target, placement.source
    across, down = classes.shape[1] / size[0], classes.shape[0] / size[1]
    x0, x1, y0, y1 = (round(v) for v in (tx * across, (tx + tw) * across, ty * down, (ty + th) * down))
    classes = classes[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    rows, columns = classes.shape
    over = Box(sx, sy, sw, sh)
    regions = []
    for k, count in zip(*np.unique(classes, return_counts=True), strict=True):
        label, share = name_of(request.spec.labels, int(k)), float(count) / classes.size
        if label.lower() in BACKGROUND_LABELS or share < max(request.threshold, MIN_REGION_SHARE):
            continue
        mask = classes == k
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, right = (sx + float(v) * sw / columns for v in (xs[0], xs[-1] + 1))
        top_, bottom = (sy + float(v) * sh / rows for v in (ys[0], ys[-1] + 1))
        regions.append(Region(label, int(k), share, Box(left, top_, right - left, bottom - top_), over, mask))
    return tuple(sorted(regions, key=lambda r: -r.score)[: request.top])


def _posenet_points(heat: Floats, offsets: Floats, size: tuple[int, int]) -> Floats:
    """[1, points, 3]: x, y in 0..1 and the score of the best cell of each heatmap."""
    rows, columns, points = heat.shape
    cells = heat.reshape(-1, points).argmax(axis=0)
    y, x = np.divmod(cells, columns)
    k = np.arange(points)
    down, across = (size[1] - 1) / max(rows - 1, 1), (size[0] - 1) / max(columns - 1, 1)
    where_y = y * down + offsets[y, x, k]
    where_x = x * across + offsets[y, x, points + k]
    scores = 1 / (1 + np.exp(-heat[y, x, k].clip(-80, 80)))
    return np.stack([where_x / size[0], where_y / size[1], scores], axis=1)[None].astype(np.float32)


def _poses(points: Floats, scored_boxes: tuple[Floats, Floats] | None, request: _Request) -> tuple[Pose, ...]:
    """points: [n, points, 3], x, y, score. scored_boxes: [n, 4] in pixels of the input, and [n]; None = from points."""
    spec, placement = request.spec, request.placement
    positions = request.pixels(points[..., :2].reshape(-1, 2))
    xs, ys = placement.to_source(positions[:, 0], positions[:, 1])
    placed = np.stack([xs, ys, points[..., 2].reshape(-1).clip(0, 1)], axis=1).reshape(points.shape)
    boxes, scores = scored_boxes if scored_boxes else (None, placed[..., 2].mean(axis=1))
    poses = []
    for i in np.argsort(-scores, kind="stable")[: request.top].tolist():
        if scores[i] < request.threshold:
            break
        visible = placed[i][placed[i][:, 2] >= MIN_KEYPOINT_SCORE]
        if boxes is not None:
            left, top_, right, bottom = to_frame(boxes[i : i + 1], placement)[0].tolist()
        elif len(visible):
            (left, top_), (right, bottom) = visible[:, :2].min(axis=0).tolist(), visible[:, :2].max(axis=0).tolist()
        else:
            continue
        named = [Point(name_of(spec.points, k), *map(float, p)) for k, p in enumerate(placed[i].tolist())]
        box = Box(left, top_, max(right - left, 1.0), max(bottom - top_, 1.0))
        poses.append(Pose(spec.labels[0], 0, float(scores[i]), box, tuple(named)))
    return tuple(poses)


def _stored(score: float, tensor: TensorInfo) -> float:
    """The smallest stored number whose real value is at least `score`."""
    return float(np.ceil(score / tensor.scale + tensor.zero_point)) if tensor.scale else score
