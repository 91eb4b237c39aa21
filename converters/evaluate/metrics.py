"""By what a model is judged: the class that it names, or the boxes that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.detection_postprocess import LOWEST
from sightline.interpreter import Interpreter
from sightline.metrics import GroundTruth, average_precision, in_boxes, iou, point_score
from sightline.output_spec import OutputSpec
from sightline.postprocess import answer as read
from sightline.predictions import Detection
from sightline.preprocess import InputSpec

SAME_IOU = 0.5  # two boxes of one class that share more are the same answer
NEARLY = 0.8  # of the threshold: a box that just fails to reach it is not another answer


@dataclass(frozen=True)
class Scores:
    """value: in 0..1. more: other metrics of the same. per_class: {label: value}; sizes: how many there are of each.
    curves: precision at `RECALLS` of each label, where boxes are judged."""

    value: float
    per_class: dict[str, float]
    sizes: dict[str, int]
    more: dict[str, float]
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)


class Metrics(Protocol):
    """metric: of `Scores`, as programs call it; title: as people do."""

    metric: str
    title: str
    labelled: bool

    def prepare(self, i: int, size: tuple[int, int]) -> None:
        """size: (width, height) of held-out picture i as it is on disk."""

    def answer(self, interpreter: Interpreter, i: int) -> Any:
        """What a model says to held-out picture i, after its `invoke`."""

    def collect(self, answers: list[Any]) -> Sequence[Any]: ...

    def quality(self, answers: Sequence[Any], some: slice = ...) -> Scores | None:
        """some: of the held-out pictures, whose answers these are. None where nobody labelled them."""

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        """How far the answers are the same, in 0..1."""

    def differs(self, a: Any, b: Any) -> bool: ...

    def mistakes(self, i: int, answer: Any) -> int:
        """How many things are wrong in an answer to held-out picture i."""

    def say(self, answer: Any) -> str:
        """An answer in a few words."""


def metrics_for(output: OutputSpec, input: InputSpec, truth: Sequence[Any]) -> Metrics:
    """truth: of each held-out picture its class or boxes; None where nobody labelled it."""
    if output.task != "detect":
        return ClassificationMetrics(output, truth)
    return (PointMetrics if output.decoder == "points" else DetectionMetrics)(output, input, truth)


class ClassificationMetrics:
    """The best class of each picture. Answers are int64 [n]."""

    def __init__(self, output: OutputSpec, truth: Sequence[int | None]) -> None:
        self.metric, self.title = output.metric
        self.labels = output.labels
        self.labelled = all(label is not None for label in truth)
        self.truth = np.asarray([-1 if label is None else label for label in truth])

    def prepare(self, i: int, size: tuple[int, int]) -> None:
        pass

    def answer(self, interpreter: Interpreter, i: int) -> int:
        return best_class(interpreter.results()[0])

    def collect(self, answers: list[int]) -> NDArray[np.int64]:
        return np.asarray(answers, np.int64)

    def quality(self, answers: Sequence[Any], some: slice = slice(None)) -> Scores | None:
        if not self.labelled:
            return None
        right, given = self.truth[some], np.asarray(answers)
        found = {int(k): right == k for k in np.unique(right)}
        return Scores(
            value=float((given == right).mean()),
            per_class={self.labels[k]: float((given[mask] == k).mean()) for k, mask in found.items()},
            sizes={self.labels[k]: int(mask.sum()) for k, mask in found.items()},
            more={},
        )

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        return float((np.asarray(a) == np.asarray(b)).mean())

    def differs(self, a: int, b: int) -> bool:
        return bool(a != b)

    def mistakes(self, i: int, answer: int) -> int:
        return int(answer != self.truth[i])

    def say(self, answer: int) -> str:
        return self.labels[int(answer)]


class DetectionMetrics:
    """The boxes of each picture, in its pixels, down to scores that nobody shows: average precision asks for them."""

    labelled = True

    def __init__(self, output: OutputSpec, input: InputSpec, truth: Sequence[GroundTruth]) -> None:
        self.metric, self.title = output.metric
        self.spec, self.input, self.truth = output, input, list(truth)
        self.sizes = [(1, 1)] * len(truth)

    def prepare(self, i: int, size: tuple[int, int]) -> None:
        self.sizes[i] = size

    def answer(self, interpreter: Interpreter, i: int) -> tuple[Detection, ...]:
        raw, tensors = interpreter.raw(), interpreter.outputs
        return read(raw, tensors, self.input, self.spec, self.sizes[i], LOWEST)  # type: ignore[return-value]

    def collect(self, answers: list[tuple[Detection, ...]]) -> list[tuple[Detection, ...]]:
        return answers

    def quality(self, answers: Sequence[Any], some: slice = slice(None)) -> Scores | None:
        a = average_precision(answers, self.truth[some], len(self.spec.labels))
        curves = {label: a.precision50[k] for k, label in enumerate(self.spec.labels)}
        return self._quality(a.map, a.per_class, {"map50": a.map50}, some, curves)

    def _quality(
        self, value: float, per_class: NDArray[np.float64], more: dict[str, float], some: slice,
        curves: dict[str, NDArray[np.float64]],
    ) -> Scores:  # fmt: skip
        """per_class, curves: of all classes; kept are those that occur."""
        counts = np.bincount(np.concatenate([t.labels for t in self.truth[some]]), minlength=len(self.spec.labels))
        sizes = {label: int(counts[k]) for k, label in enumerate(self.spec.labels) if counts[k]}
        each = {label: float(per_class[k]) for k, label in enumerate(self.spec.labels) if counts[k]}
        return Scores(value, each, sizes, more, {label: y for label, y in curves.items() if label in sizes})

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        """Share of the boxes worth showing, of both, that the other one has too: same class, IoU at least 0.5."""
        counted = [self._matched(x, y) for pair in zip(a, b, strict=True) for x, y in (pair, pair[::-1])]
        shown = sum(n for _, n in counted)
        return sum(m for m, _ in counted) / shown if shown else 1.0

    def differs(self, a: tuple[Detection, ...], b: tuple[Detection, ...]) -> bool:
        return any(m < n for m, n in (self._matched(a, b), self._matched(b, a)))

    def mistakes(self, i: int, answer: tuple[Detection, ...]) -> int:
        """Boxes that were missed, and boxes that are shown where there is nothing of their class."""
        shown, truth = self.shown(answer), self.truth[i]
        found = self._found(shown, truth)
        return len(shown) + len(truth.labels) - 2 * found

    def say(self, answer: tuple[Detection, ...]) -> str:
        return ", ".join(f"{d.label} {d.score:.2f}" for d in self.shown(answer)) or "nothing"

    def shown(self, answer: tuple[Detection, ...]) -> list[Detection]:
        return [d for d in answer if d.score >= self.spec.threshold]

    def _matched(self, these: Sequence[Detection], those: Sequence[Detection]) -> tuple[int, int]:
        """(how many of `these` that are worth showing `those` have too, how many there are)."""
        wanted = self.shown(these)
        others = [d for d in those if d.score >= NEARLY * self.spec.threshold]
        return self._same(wanted, GroundTruth(np.asarray([d.index for d in others], np.int64), boxes_of(others))), len(
            wanted
        )

    def _found(self, shown: Sequence[Detection], truth: GroundTruth) -> int:
        """How many of them are there."""
        return match(shown, truth)

    def _same(self, these: Sequence[Detection], those: GroundTruth) -> int:
        return match(these, those)


class PointMetrics(DetectionMetrics):
    """The points of each picture, each with a cell around it."""

    def quality(self, answers: Sequence[Any], some: slice = slice(None)) -> Scores | None:
        p = point_score(answers, self.truth[some], len(self.spec.labels), self.spec.threshold)
        return self._quality(p.f1, p.per_class, {"precision": p.precision, "recall": p.recall}, some, {})

    def _found(self, shown: Sequence[Detection], truth: GroundTruth) -> int:
        return sum(in_boxes(shown, truth))

    def _same(self, these: Sequence[Detection], those: GroundTruth) -> int:
        return sum(in_boxes(these, those, 0.5))  # a cell away


def match(found: Sequence[Detection], truth: GroundTruth) -> int:
    """How many of `found`, best first, are among the boxes of `truth`."""
    if not len(found) or not len(truth.boxes):
        return 0
    overlap = iou(boxes_of(found), truth.boxes)
    overlap[np.asarray([d.index for d in found])[:, None] != truth.labels] = 0
    free = np.ones(len(truth.boxes), bool)
    for row in overlap:  # the best score chooses first, and no box serves two
        k = int(np.argmax(row * free))
        if row[k] * free[k] >= SAME_IOU:
            free[k] = False
    return int((~free).sum())


def best_class(scores: NDArray[np.float32]) -> int:
    """What is not a number is never the best."""
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


def boxes_of(found: Sequence[Detection]) -> NDArray[np.float64]:
    return np.asarray([(d.box.x, d.box.y, d.box.width, d.box.height) for d in found], np.float64).reshape(-1, 4)
