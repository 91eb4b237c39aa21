"""By what a model is judged: the class that it names, or the boxes that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.source import Source
from sightline.average_precision import LOW, AveragePrecision, Truth, average_precision, iou
from sightline.detect import detect
from sightline.interpreter import Interpreter
from sightline.predictions import Detection
from sightline.preprocess import Placement, place

SAME_IOU = 0.5  # two boxes of one class that share more are the same answer
NEARLY = 0.8  # of the threshold: a box that just fails to reach it is not another answer


@dataclass(frozen=True)
class Quality:
    """value: in 0..1. more: other metrics of the same. per_class: {label: value}; sizes: how many there are of each."""

    value: float
    per_class: dict[str, float]
    sizes: dict[str, int]
    more: dict[str, float]


class Rules(Protocol):
    """metric: of `Quality`, as programs call it; title: as people do."""

    metric: str
    title: str
    labelled: bool

    def prepare(self, i: int, size: tuple[int, int]) -> None:
        """size: (width, height) of held-out picture i as it is on disk."""

    def answer(self, interpreter: Interpreter, i: int) -> Any:
        """What a model says to held-out picture i, after its `invoke`."""

    def collect(self, answers: list[Any]) -> Sequence[Any]: ...

    def quality(self, answers: Sequence[Any], some: slice = ...) -> Quality | None:
        """some: of the held-out pictures, whose answers these are. None where nobody labelled them."""

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        """How far the answers are the same, in 0..1."""

    def differs(self, a: Any, b: Any) -> bool: ...

    def say(self, answer: Any) -> str:
        """An answer in a few words."""


def rules_of(source: Source) -> Rules:
    return BoxRules(source) if source.output.task == "detect" else ClassRules(source)


class ClassRules:
    """The best class of each picture. Answers are int64 [n]."""

    metric, title = "accuracy", "accuracy"

    def __init__(self, source: Source) -> None:
        self.labels = source.output.labels
        self.labelled = all(label is not None for _, label in source.heldout)
        self.truth = np.asarray([-1 if label is None else label for _, label in source.heldout])

    def prepare(self, i: int, size: tuple[int, int]) -> None:
        pass

    def answer(self, interpreter: Interpreter, i: int) -> int:
        return best_class(interpreter.results()[0])

    def collect(self, answers: list[int]) -> NDArray[np.int64]:
        return np.asarray(answers, np.int64)

    def quality(self, answers: Sequence[Any], some: slice = slice(None)) -> Quality | None:
        if not self.labelled:
            return None
        right, given = self.truth[some], np.asarray(answers)
        found = {int(k): right == k for k in np.unique(right)}
        return Quality(
            value=float((given == right).mean()),
            per_class={self.labels[k]: float((given[mask] == k).mean()) for k, mask in found.items()},
            sizes={self.labels[k]: int(mask.sum()) for k, mask in found.items()},
            more={},
        )

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        return float((np.asarray(a) == np.asarray(b)).mean())

    def differs(self, a: int, b: int) -> bool:
        return bool(a != b)

    def say(self, answer: int) -> str:
        return self.labels[int(answer)]


class BoxRules:
    """The boxes of each picture, in its pixels, down to scores that nobody shows: average precision asks for them."""

    metric, title = "map", "mAP"
    labelled = True

    def __init__(self, source: Source) -> None:
        self.spec, self.input = source.output, source.input
        self.truth: list[Truth] = [truth for _, truth in source.heldout]
        self.placements: list[Placement] = [place(1, 1, source.input)] * len(self.truth)

    def prepare(self, i: int, size: tuple[int, int]) -> None:
        self.placements[i] = place(*size, self.input)

    def answer(self, interpreter: Interpreter, i: int) -> tuple[Detection, ...]:
        return detect(interpreter.raw(), interpreter.outputs, self.spec, self.placements[i], LOW)

    def collect(self, answers: list[tuple[Detection, ...]]) -> list[tuple[Detection, ...]]:
        return answers

    def precision(self, answers: Sequence[Any], some: slice = slice(None)) -> AveragePrecision:
        return average_precision(answers, self.truth[some], len(self.spec.labels))

    def quality(self, answers: Sequence[Any], some: slice = slice(None)) -> Quality | None:
        measured = self.precision(answers, some)
        counts = np.bincount(np.concatenate([t.labels for t in self.truth[some]]), minlength=len(self.spec.labels))
        occurring = [(k, label) for k, label in enumerate(self.spec.labels) if counts[k]]
        return Quality(
            value=measured.map,
            per_class={label: float(measured.per_class[k]) for k, label in occurring},
            sizes={label: int(counts[k]) for k, label in occurring},
            more={"map50": measured.map50},
        )

    def agreement(self, a: Sequence[Any], b: Sequence[Any]) -> float:
        """Share of the boxes worth showing, of both, that the other one has too: same class, IoU at least 0.5."""
        counted = [self._matched(x, y) for pair in zip(a, b, strict=True) for x, y in (pair, pair[::-1])]
        shown = sum(n for _, n in counted)
        return sum(m for m, _ in counted) / shown if shown else 1.0

    def differs(self, a: tuple[Detection, ...], b: tuple[Detection, ...]) -> bool:
        return any(m < n for m, n in (self._matched(a, b), self._matched(b, a)))

    def say(self, answer: tuple[Detection, ...]) -> str:
        return ", ".join(f"{d.label} {d.score:.2f}" for d in self.shown(answer)) or "nothing"

    def shown(self, answer: tuple[Detection, ...]) -> list[Detection]:
        return [d for d in answer if d.score >= self.spec.threshold]

    def _matched(self, these: Sequence[Detection], those: Sequence[Detection]) -> tuple[int, int]:
        """(how many of `these` that are worth showing `those` have too, how many there are)."""
        wanted = [d for d in these if d.score >= self.spec.threshold]
        others = [d for d in those if d.score >= NEARLY * self.spec.threshold]
        if not wanted or not others:
            return 0, len(wanted)
        overlap = iou(boxes_of(wanted), boxes_of(others))
        overlap[np.asarray([d.index for d in wanted])[:, None] != np.asarray([d.index for d in others])] = 0
        free = np.ones(len(others), bool)
        found = 0
        for row in overlap:  # the best score chooses first, and no box serves two
            k = int(np.argmax(row * free))
            if row[k] * free[k] >= SAME_IOU:
                free[k], found = False, found + 1
        return found, len(wanted)


def best_class(scores: NDArray[np.float32]) -> int:
    """What is not a number is never the best."""
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


def boxes_of(found: Sequence[Detection]) -> NDArray[np.float64]:
    return np.asarray([(d.box.x, d.box.y, d.box.width, d.box.height) for d in found], np.float64).reshape(-1, 4)


def drawn(path: Path, answers: Sequence[tuple[Sequence[Any], tuple[int, int, int]]], side: int = 480) -> bytes:
    """A JPEG of a picture, at most `side` pixels large, with boxes [n, 4] and their colours (BGR)."""
    from sightline.images import read_image

    frame = read_image(path)
    scale = min(1.0, side / max(frame.shape[:2]))
    frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for boxes, colour in answers:
        for x, y, width, height in (np.asarray(boxes, np.float64).reshape(-1, 4) * scale).tolist():
            cv2.rectangle(frame, (round(x), round(y)), (round(x + width), round(y + height)), colour, 2)
    return bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
