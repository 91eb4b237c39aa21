"""What a model's outputs mean, and a classifier's predictions from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sightline.predictions import Classification

Floats = NDArray[np.float32]
Task = Literal["classify", "detect", "segment", "pose"]
Decoder = Literal[
    "", "points", "ssd", "yolo", "yolo5", "yolo_pose", "boxes", "mask", "movenet", "movenet_multi", "posenet"
]
TASKS: dict[Decoder, tuple[Task, ...]] = {
    "": ("classify", "detect"), "points": ("detect",), "ssd": ("detect",), "yolo": ("detect",), "yolo5": ("detect",),
    "boxes": ("detect",), "yolo_pose": ("pose",), "mask": ("segment",), "movenet": ("pose",),
    "movenet_multi": ("pose",), "posenet": ("pose",),
}  # fmt: skip


@dataclass(frozen=True)
class OutputSpec:
    """What a model's outputs mean. Classification has one output, float [1, classes], in the order of `labels`;
    detection two for each of its strides, see `sightline.detection_postprocess`; what others made has a `decoder`, one
    of `sightline.decoders`.

    activation: what turns the outputs into scores: `softmax` for exactly one class a picture, `sigmoid` for any number
    of them, `none` where the graph ends in one. strides: of a detector's levels, in pixels of the input. threshold:
    lowest score that is worth showing, where nobody asks for another. relative: whether a layout's coordinates are 0 to
    1 of the input, not pixels. order: which output is which of a layout's; none = as they come. points: names
    of a pose's.
    """

    task: Task
    activation: Literal["softmax", "sigmoid", "none"]
    labels: tuple[str, ...]
    strides: tuple[int, ...] = ()
    threshold: float = 0.0
    decoder: Decoder = ""
    relative: bool = False
    order: tuple[int, ...] = ()
    points: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[int, ...]:
        """Channels of the outputs that Sightline's own detectors give for each stride."""
        return (len(self.labels),) if self.decoder == "points" else (len(self.labels), 4)

    @property
    def metric(self) -> tuple[str, str]:
        """What a model of this kind is judged by, as programs call it and as people do."""
        if self.task != "detect":
            return "accuracy", "accuracy"
        return ("f1", "F1") if self.decoder == "points" else ("map", "mAP")

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("a model without labels says nothing")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two classes have the same label")
        for label in self.labels:
            check_label(label)
        if (self.task == "detect" and self.decoder in ("", "points")) != bool(self.strides):
            raise ValueError("a detector of Sightline's has strides, and nothing else has")
        if self.task not in TASKS[self.decoder]:
            raise ValueError(f"the layout {self.decoder!r} is there to {' or '.join(TASKS[self.decoder])}")
        if any(stride < 1 for stride in self.strides) or len(set(self.strides)) < len(self.strides):
            raise ValueError(f"strides {self.strides}: different numbers of pixels are needed")
        if self.strides and self.activation != "sigmoid":
            raise ValueError("a detector's scores are sigmoids of its logits")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} is not a score from 0 to 1")


def check_label(label: str) -> None:
    """Raises ValueError for a text that a file of one label a line could not give back."""
    if label != label.strip() or len(label.splitlines()) != 1:
        raise ValueError(f"the label {label!r} must be one line, with no space around it")
    if label != label.encode("utf-8", "replace").decode():
        raise ValueError(f"the label {label!r} cannot be written in UTF-8")


def scores(outputs: Sequence[Floats], spec: OutputSpec) -> Floats:
    """float32 [classes]. Raises ValueError when the outputs are not what `spec` says."""
    if len(outputs) != 1 or outputs[0].size != len(spec.labels):
        shapes = [list(o.shape) for o in outputs]
        raise ValueError(f"outputs of shapes {shapes} are not one score for each of {len(spec.labels)} labels")
    x = outputs[0].reshape(-1)
    if spec.activation == "softmax":
        e = np.exp(x - x.max())
        return np.asarray(e / e.sum(), np.float32)
    if spec.activation == "sigmoid":
        # exp of a large positive number overflows: clip where the score is 0 in float32 anyway
        return np.asarray(1 / (1 + np.exp(np.minimum(-x, 88))), np.float32)
    return x


def decode(
    outputs: Sequence[Floats], spec: OutputSpec, top: int = 3, threshold: float = 0.0
) -> tuple[Classification, ...]:
    """The `top` classes whose score reaches `threshold`, best first; equal scores in the order of the labels."""
    s = scores(outputs, spec)
    order = np.argsort(-s, kind="stable")[:top]
    return tuple(Classification(spec.labels[i], int(i), float(s[i])) for i in order if s[i] >= threshold)
