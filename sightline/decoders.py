"""What models give other than classes and Sightline's own boxes, in numpy: points, other people's boxes, masks, poses.

    points         Sightline's own: a heat map [1, h, w, classes] of logits, in which each thing is a peak
ssd            TFLite_Detection_PostProcess: boxes [1, n, 4] as top, left, bottom, right of 0..1, classes [1, n],
               scores [1, n], count [1]
yolo           Ultralytics' since v8: [1, 4 + classes, n], or the same turned: middle x, y, width, height, scores
yolo5          its older ones: [1, n, 5 + classes], which has how sure it is of anything after the box
yolo_pose      [1, 5 + 3 * points, n]
boxes          finished ones: [1, n, 6], left, top, right, bottom, score, class (YOLO 26, exports with NMS)
mask           [1, height, width] class of each pixel, or [1, height, width, classes] scores (DeepLab)
movenet        [1, 1, 17, 3]: y, x, score of each point, 0..1 (MoveNet single pose)
movenet_multi  [1, people, 56]: the same 17, then top, left, bottom, right, score
posenet        heatmaps [1, h, w, points], offsets [1, h, w, 2 * points], y before x (PoseNet, one person)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.detection_postprocess import CANDIDATES, LOWEST, suppress, to_detections, to_frame
from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec
from sightline.predictions import Box, Detection, Point, Pose, Prediction, Region
from sightline.preprocess import Placement

Floats = NDArray[np.float32]

BODY = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
MIN_KEYPOINT_SCORE = 0.2  # of a point's score: those above are what a pose's box is around
NOTHING = ("background", "???")  # names of what is no class
SMALLEST = 0.001  # of the picture: a region that covers less is noise


def read_layout(
    outputs: Sequence[NDArray[Any]],
    tensors: Sequence[TensorInfo],
    spec: OutputSpec,
    size: tuple[int, int],
    placement: Placement,
    threshold: float,
    top: int,
) -> tuple[Prediction, ...]:
    """outputs: as the model stores them. size: (width, height) of its input. See `sightline.detection_postprocess` for
    the others."""
    threshold = max(threshold, LOWEST)
    match spec.decoder:
        case "points":
            return _points(outputs[0], tensors[0], spec, placement, threshold, top)
        case "ssd":
            return _ssd([tensors[i].real(outputs[i]) for i in spec.order], spec, size, placement, threshold, top)
        case "yolo" | "yolo5" | "yolo_pose":
            return _yolo(outputs[0], tensors[0], spec, size, placement, threshold, top)
        case "boxes":
            rows = tensors[0].real(outputs[0]).reshape(-1, 6)
            return _finished(rows[:, :4], rows[:, 4], rows[:, 5], spec, size, placement, threshold, top)
        case "mask":
            return _mask(outputs[0], spec, size, placement, threshold, top)
        case "movenet":
            points = tensors[0].real(outputs[0]).reshape(1, -1, 3)[..., [1, 0, 2]]
            return _poses(points, None, spec, size, placement, threshold, top)
        case "movenet_multi":
            rows = tensors[0].real(outputs[0]).reshape(-1, 56)
            points = rows[:, :51].reshape(-1, 17, 3)[..., [1, 0, 2]]
            boxes = _pixels(rows[:, [52, 51, 54, 53]], spec, size)
            return _poses(points, (boxes, rows[:, 55]), spec, size, placement, threshold, top)
        case "posenet":
            heat, offsets = (tensors[i].real(outputs[i])[0] for i in spec.order)
            return _poses(_posenet(heat, offsets, size), None, spec, size, placement, threshold, top)
    raise ValueError(f"no layout {spec.decoder!r}")


def comparable(outputs: Sequence[Floats], spec: OutputSpec) -> list[Floats]:
    """What two machines must agree on, in the outputs' own shapes, the rest 0. Finished boxes change places where two
    scores are nearly the same, and those beyond their count are whatever lay in the memory: of them it is the scores,
    best first."""
    if spec.decoder not in ("ssd", "boxes"):
        return list(outputs)
    settled = [np.zeros_like(o) for o in outputs]
    if spec.decoder == "boxes":
        settled[0].reshape(-1, 6)[:, 4] = -np.sort(-outputs[0].reshape(-1, 6)[:, 4])
        return settled
    where, count = spec.order[2], int(outputs[spec.order[3]].reshape(-1)[0])
    scores = outputs[where].reshape(-1)[: max(0, count)]
    settled[where].reshape(-1)[: len(scores)] = -np.sort(-scores)
    return settled


def upright(table: NDArray[Any]) -> NDArray[Any]:
    """YOLO's table with a column a box: the longer side is that of the boxes."""
    return table if table.shape[0] <= table.shape[1] else table.T


def name_of(labels: Sequence[str], k: int) -> str:
    """A model may know more classes than somebody named."""
    return labels[k] if 0 <= k < len(labels) else f"class {k}"


def _points(
    output: NDArray[Any], tensor: TensorInfo, spec: OutputSpec, placement: Placement, threshold: float, top: int
) -> tuple[Detection, ...]:
    """A box is the cell around the point."""
    stride = spec.strides[0]
    cells = output[0]
    lowest = _stored(math.log(threshold / (1 - threshold)) if threshold < 1 else math.inf, tensor)
    if not (cells >= lowest).any():
        return ()
    # a peak is as high as all that is around it; where neighbours are equal, int8 has many such, the first one is it
    around = np.pad(cells.astype(np.float32), ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns, _ = cells.shape
    peak = cells >= lowest
    for dy, dx in ((0, 0), (0, 1), (0, 2), (1, 0)):
        peak &= cells > around[dy : dy + rows, dx : dx + columns]
    for dy, dx in ((1, 2), (2, 0), (2, 1), (2, 2)):
        peak &= cells >= around[dy : dy + rows, dx : dx + columns]
    y, x, classes = np.nonzero(peak)
    scores = 1 / (1 + np.exp(-tensor.real(cells[y, x, classes])))
    # between cells: the middle of what is seen around the peak
    near = np.stack([around[y + dy, x + dx, classes] for dy in range(3) for dx in range(3)], axis=1)
    weight = 1 / (1 + np.exp(-tensor.real(near).clip(-80, 80)))
    down, across = np.divmod(np.arange(9), 3)
    whole = weight.sum(axis=1)
    px = (x + 0.5 + (weight * (across - 1)).sum(axis=1) / whole) * stride
    py = (y + 0.5 + (weight * (down - 1)).sum(axis=1) / whole) * stride
    boxes = np.stack([px - stride / 2, py - stride / 2, px + stride / 2, py + stride / 2], axis=1).astype(np.float32)
    return to_detections(boxes, scores.astype(np.float32), classes, spec.labels, placement, top, nms_done=True)


def _ssd(
    parts: list[Floats], spec: OutputSpec, size: tuple[int, int], placement: Placement, threshold: float, top: int
) -> tuple[Detection, ...]:
    boxes, classes, scores, count = (part.reshape(-1) for part in parts)
    n = max(0, min(int(count[0]), len(scores)))
    corners = boxes.reshape(-1, 4)[:n, [1, 0, 3, 2]]
    return _finished(corners, scores[:n], classes[:n], spec, size, placement, threshold, top)


def _finished(
    boxes: Floats, scores: Floats, classes: Floats, spec: OutputSpec, size: tuple[int, int], placement: Placement,
    threshold: float, top: int,
) -> tuple[Detection, ...]:  # fmt: skip
    kept = np.flatnonzero((scores >= threshold) & (classes >= 0))
    kinds = classes[kept].round().astype(np.int64)
    labels = [name_of(spec.labels, k) for k in range(int(kinds.max(initial=-1)) + 1)]
    corners = _pixels(boxes[kept], spec, size)
    return to_detections(corners, scores[kept].clip(0, 1), kinds, labels, placement, top, nms_done=True)


def _yolo(
    output: NDArray[Any], tensor: TensorInfo, spec: OutputSpec, size: tuple[int, int], placement: Placement,
    threshold: float, top: int,
) -> tuple[Prediction, ...]:  # fmt: skip
    poses = spec.decoder == "yolo_pose"
    first = 5 if spec.decoder == "yolo5" else 4
    rows = upright(output[0])
    # as stored: the order of integers is that of scores
    best = rows[4] if poses else rows[first:].max(axis=0)
    chosen = np.flatnonzero(best >= _stored(threshold, tensor))
    real = tensor.real(rows[:, chosen])
    if poses:
        scores, classes = real[4], np.zeros(len(chosen), np.int64)
    else:
        scores, classes = real[first:].max(axis=0), real[first:].argmax(axis=0)
    if first == 5:
        scores = scores * real[4]
    kept = np.flatnonzero(scores >= threshold)
    kept = kept[np.argsort(-scores[kept], kind="stable")[:CANDIDATES]]
    real, scores, classes = real[:, kept], scores[kept].clip(0, 1), classes[kept]
    middle, half = real[:2].T, real[2:4].T / 2
    boxes = _pixels(np.concatenate([middle - half, middle + half], axis=1), spec, size)
    if not poses:
        return to_detections(boxes, scores, classes, spec.labels, placement, top)
    nms_done = suppress(boxes, scores, classes)[:top]
    points = real[5:, nms_done].T.reshape(len(nms_done), -1, 3)
    return _poses(points, (boxes[nms_done], scores[nms_done]), spec, size, placement, threshold, top)


def _mask(
    output: NDArray[Any], spec: OutputSpec, size: tuple[int, int], placement: Placement, threshold: float, top: int
) -> tuple[Region, ...]:
    scored = output.ndim == 4 and output.shape[-1] > 1
    classes = output[0].argmax(axis=-1) if scored else output.reshape(-1, output.shape[2])
    # what was padded is no part of the frame
    (tx, ty, tw, th), (sx, sy, sw, sh) = placement.target, placement.source
    across, down = classes.shape[1] / size[0], classes.shape[0] / size[1]
    x0, x1, y0, y1 = (round(v) for v in (tx * across, (tx + tw) * across, ty * down, (ty + th) * down))
    classes = classes[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    rows, columns = classes.shape
    over = Box(sx, sy, sw, sh)
    found = []
    for k, count in zip(*np.unique(classes, return_counts=True), strict=True):
        label, share = name_of(spec.labels, int(k)), float(count) / classes.size
        if label.lower() in NOTHING or share < max(threshold, SMALLEST):
            continue
        mask = classes == k
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, right = (sx + float(v) * sw / columns for v in (xs[0], xs[-1] + 1))
        top_, bottom = (sy + float(v) * sh / rows for v in (ys[0], ys[-1] + 1))
        found.append(Region(label, int(k), share, Box(left, top_, right - left, bottom - top_), over, mask))
    return tuple(sorted(found, key=lambda r: -r.score)[:top])


def _posenet(heat: Floats, offsets: Floats, size: tuple[int, int]) -> Floats:
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


def _poses(
    points: Floats, known: tuple[Floats, Floats] | None, spec: OutputSpec, size: tuple[int, int], placement: Placement,
    threshold: float, top: int,
) -> tuple[Pose, ...]:  # fmt: skip
    """points: [n, points, 3], x, y, score. known: boxes [n, 4] in pixels of the input, and their scores [n]."""
    where = _pixels(points[..., :2].reshape(-1, 2), spec, size)
    xs, ys = placement.to_source(where[:, 0], where[:, 1])
    placed = np.stack([xs, ys, points[..., 2].reshape(-1).clip(0, 1)], axis=1).reshape(points.shape)
    boxes, scores = known if known else (None, placed[..., 2].mean(axis=1))
    found = []
    for i in np.argsort(-scores, kind="stable")[:top].tolist():
        if scores[i] < threshold:
            break
        sure = placed[i][placed[i][:, 2] >= MIN_KEYPOINT_SCORE]
        if boxes is not None:
            left, top_, right, bottom = to_frame(boxes[i : i + 1], placement)[0].tolist()
        elif len(sure):
            (left, top_), (right, bottom) = sure[:, :2].min(axis=0).tolist(), sure[:, :2].max(axis=0).tolist()
        else:
            continue
        named = [Point(name_of(spec.points, k), *map(float, p)) for k, p in enumerate(placed[i].tolist())]
        box = Box(left, top_, max(right - left, 1.0), max(bottom - top_, 1.0))
        found.append(Pose(spec.labels[0], 0, float(scores[i]), box, tuple(named)))
    return tuple(found)


def _pixels(places: Floats, spec: OutputSpec, size: tuple[int, int]) -> Floats:
    """places: [n, 2] or [n, 4], x before y."""
    return places * np.asarray(size * (places.shape[1] // 2), np.float32) if spec.relative else places


def _stored(score: float, tensor: TensorInfo) -> float:
    """The lowest number, as the model stores it, that is at least `score`."""
    return float(np.ceil(score / tensor.scale + tensor.zero_point)) if tensor.scale else score
