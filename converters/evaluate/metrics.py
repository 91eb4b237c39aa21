"""The metrics of a model: the class that it names, or the boxes or points that it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.detection_postprocess import MIN_SCORE
from sightline.interpreter import Interpreter
from sightline.metrics import GroundTruth, average_precision, in_boxes, iou, point_score
from sightline.output_spec import OutputSpec
from sightline.postprocess import postprocess
from sightline.predictions import Detection
from sightline.preprocess import InputSpec

MIN_MATCH_IOU = 0.5  # two boxes of one class that overlap at least this much are the same answer
# fraction of the threshold: a box that just fails to reach the threshold is not another answer
NEAR_THRESHOLD = 0.8
POINT_TOLERANCE = 0.5  # of a cell, on each side: a point one cell away is the same answer
ALL = slice(None)


@dataclass(frozen=True)
class Scores:
    """The result of a metric on labelled images. All values are in 0..1.

    value: the metric itself.
    per_class: {label: value} of each class that occurs.
    counts: {label: how many images or boxes have it}.
    extra: {name: value} of further metrics.
    curves: {label: precision at `RECALLS`}, for boxes only.
    """

    value: float
    per_class: dict[str, float]
    counts: dict[str, int]
    extra: dict[str, float]
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)


class Metrics(Protocol):
    """How to read, compare and score the answers of a model to a list of images.

    metric: name of the metric in JSON; title: in texts for people.
    labelled: whether every image has its ground truth.
    """

    metric: str
    title: str
    labelled: bool

    def set_image_size(self, i: int, size: tuple[int, int]) -> None:
        """size: (width, height) of image i on disk."""

    def read_answer(self, interpreter: Interpreter, i: int) -> Any:
        """The model's answer to image i, after `invoke`."""

    def collect(self, answers: list[Any]) -> Any:
        """The answers to all images, in the sequence that the other methods take."""

    def score(self, answers: Sequence[Any], subset: slice = ...) -> Scores | None:
        """subset: the images that the answers belong to. None where the images have no labels."""

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        """Share of the answers that are the same, in 0..1."""

    def differs(self, a: Any, b: Any) -> bool:
        """Whether two answers to one image are different."""

    def count_mistakes(self, i: int, answer: Any) -> int:
        """How many objects or classes are wrong in an answer to image i."""

    def describe(self, answer: Any) -> str:
        """An answer in a few words."""


def metrics_for(output: OutputSpec, input: InputSpec, truth: Sequence[Any]) -> Metrics:
    """The metrics of a task. truth: the class or boxes of each image; None without labels."""
    if output.task != "detect":
        return ClassificationMetrics(output, truth)
    return (PointMetrics if output.decoder == "points" else DetectionMetrics)(output, input, truth)


class ClassificationMetrics:
    """The best class of each image. Answers are int64 [n]."""

    def __init__(self, output: OutputSpec, truth: Sequence[int | None]) -> None:
        self.metric, self.title = output.metric
        self.labels = output.labels
        self.labelled = all(label is not None for label in truth)
        self.truth = np.asarray([-1 if label is None else label for label in truth])

    def set_image_size(self, i: int, size: tuple[int, int]) -> None:
        """A class does not depend on the image's size."""

    def read_answer(self, interpreter: Interpreter, i: int) -> int:
        return best_class(interpreter.results()[0])

    def collect(self, answers: list[int]) -> NDArray[np.int64]:
        return np.asarray(answers, np.int64)

    def score(self, answers: Sequence[Any], subset: slice = ALL) -> Scores | None:
        if not self.labelled:
            return None
        truth, predicted = self.truth[subset], np.asarray(answers)
        masks = {int(k): truth == k for k in np.unique(truth)}
        return Scores(
            value=float((predicted == truth).mean()),
            per_class={self.labels[k]: float((predicted[mask] == k).mean()) for k, mask in masks.items()},
            counts={self.labels[k]: int(mask.sum()) for k, mask in masks.items()},
            extra={},
        )

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        return float((np.asarray(a) == np.asarray(b)).mean())

    def differs(self, a: int, b: int) -> bool:
        return bool(a != b)

    def count_mistakes(self, i: int, answer: int) -> int:
        return int(answer != self.truth[i])

    def describe(self, answer: int) -> str:
        return self.labels[int(answer)]


class DetectionMetrics:
    """The boxes of each image, in its pixels. Boxes far below the threshold stay: average precision needs them."""

    labelled = True

    def __init__(self, output: OutputSpec, input: InputSpec, truth: Sequence[GroundTruth]) -> None:
        self.metric, self.title = output.metric
        self.spec, self.input, self.truth = output, input, list(truth)
        self.sizes = [(1, 1)] * len(truth)

    def set_image_size(self, i: int, size: tuple[int, int]) -> None:
        self.sizes[i] = size

    def read_answer(self, interpreter: Interpreter, i: int) -> tuple[Detection, ...]:
        raw, tensors = interpreter.raw(), interpreter.outputs
        return postprocess(raw, tensors, self.input, self.spec, self.sizes[i], MIN_SCORE)  # type: ignore[return-value]

    def collect(self, answers: list[tuple[Detection, ...]]) -> list[tuple[Detection, ...]]:
        return answers

    def score(self, answers: Sequence[Any], subset: slice = ALL) -> Scores | None:
        a = average_precision(answers, self.truth[subset], len(self.spec.labels))
        curves = {label: a.precision50[k] for k, label in enumerate(self.spec.labels)}
        counts = self._counts(subset)
        return Scores(
            value=a.map,
            per_class=self._per_class(a.per_class, counts),
            counts=counts,
            extra={"map50": a.map50},
            curves={label: curve for label, curve in curves.items() if label in counts},
        )

    def _counts(self, subset: slice) -> dict[str, int]:
        """{label: number of boxes} of the classes that occur."""
        counts = np.bincount(np.concatenate([t.labels for t in self.truth[subset]]), minlength=len(self.spec.labels))
        return {label: int(counts[k]) for k, label in enumerate(self.spec.labels) if counts[k]}

    def _per_class(self, values: NDArray[np.float64], counts: dict[str, int]) -> dict[str, float]:
        return {label: float(values[k]) for k, label in enumerate(self.spec.labels) if label in counts}

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        """Share of the visible boxes of both that the other one has too: same class, IoU at least 0.5."""
        matches = [self._match_visible(x, y) for pair in zip(a, b, strict=True) for x, y in (pair, pair[::-1])]
        visible = sum(n for _, n in matches)
        return sum(m for m, _ in matches) / visible if visible else 1.0

    def differs(self, a: tuple[Detection, ...], b: tuple[Detection, ...]) -> bool:
        return any(m < n for m, n in (self._match_visible(a, b), self._match_visible(b, a)))

    def count_mistakes(self, i: int, answer: tuple[Detection, ...]) -> int:
        """Missed boxes, and visible boxes where there is no object of their class."""
        visible, truth = self.visible(answer), self.truth[i]
        return len(visible) + len(truth.labels) - 2 * self._count_correct(visible, truth)

    def describe(self, answer: tuple[Detection, ...]) -> str:
        return ", ".join(f"{d.label} {d.score:.2f}" for d in self.visible(answer)) or "nothing"

    def visible(self, answer: tuple[Detection, ...]) -> list[Detection]:
        """The boxes whose score reaches the threshold."""
        return [d for d in answer if d.score >= self.spec.threshold]

    def _match_visible(self, a: Sequence[Detection], b: Sequence[Detection]) -> tuple[int, int]:
        """(how many visible boxes of `a` are in `b` too, number of visible boxes of `a`)."""
        visible = self.visible(tuple(a))
        others = [d for d in b if d.score >= NEAR_THRESHOLD * self.spec.threshold]
        other_boxes = GroundTruth(np.asarray([d.index for d in others], np.int64), boxes_of(others))
        return self._count_same(visible, other_boxes), len(visible)

    def _count_correct(self, visible: Sequence[Detection], truth: GroundTruth) -> int:
        return count_matches(visible, truth)

    def _count_same(self, a: Sequence[Detection], b: GroundTruth) -> int:
        return count_matches(a, b)


class PointMetrics(DetectionMetrics):
    """The points of each image, each with a cell around it."""

    def score(self, answers: Sequence[Any], subset: slice = ALL) -> Scores | None:
        p = point_score(answers, self.truth[subset], len(self.spec.labels), self.spec.threshold)
        counts = self._counts(subset)
        extra = {"precision": p.precision, "recall": p.recall}
        return Scores(p.f1, self._per_class(p.per_class, counts), counts, extra)

    def _count_correct(self, visible: Sequence[Detection], truth: GroundTruth) -> int:
        return sum(in_boxes(visible, truth))

    def _count_same(self, a: Sequence[Detection], b: GroundTruth) -> int:
        return sum(in_boxes(a, b, POINT_TOLERANCE))


def count_matches(detections: Sequence[Detection], truth: GroundTruth) -> int:
    """How many detections, best first, match a box of `truth`: same class, IoU at least 0.5."""
    if not len(detections) or not len(truth.boxes):
        return 0
    overlap = iou(boxes_of(detections), truth.boxes)
    overlap[np.asarray([d.index for d in detections])[:, None] != truth.labels] = 0
    free = np.ones(len(truth.boxes), bool)
    for row in overlap:  # the best score chooses first, and each box matches once
        k = int(np.argmax(row * free))
        if row[k] * free[k] >= MIN_MATCH_IOU:
            free[k] = False
    return int((~free).sum())


def best_class(scores: NDArray[np.float32]) -> int:
    """Index of the highest score. NaN is never the highest."""
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


def boxes_of(detections: Sequence[Detection]) -> NDArray[np.float64]:
    """float64 [n, 4]: x, y, width, height."""
    boxes = [(d.box.x, d.box.y, d.box.width, d.box.height) for d in detections]
    return np.asarray(boxes, np.float64).reshape(-1, 4)
