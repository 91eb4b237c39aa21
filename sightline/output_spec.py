"""What a model's outputs mean, and the predictions of a classifier."""

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
    """What a model's outputs mean.

    A classifier has one output, float [1, classes], in the order of `labels`. Sightline's detectors have two outputs
    for each stride; see `sightline.detection_postprocess`. Other models have a decoder of `sightline.decoders`.

    task: what the model predicts.
    activation: turns the outputs into scores. `softmax`: exactly one class per image. `sigmoid`: any number of
        classes. `none`: the graph ends in scores.
    labels: class names, in the order of the classes.
    strides: of a detector's levels, in pixels of the input.
    threshold: lowest score that is shown by default.
    decoder: how outputs are read; "" for classifiers and Sightline's own detectors.
    relative: whether the decoder's coordinates are 0..1 of the input instead of pixels.
    order: indices of the outputs, in the order that the decoder expects; () = as they are.
    points: names of a pose's points.
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
        """Channels of the outputs of Sightline's own detectors for each stride."""
        return (len(self.labels),) if self.decoder == "points" else (len(self.labels), 4)

    @property
    def metric(self) -> tuple[str, str]:
        """(key, title) of the metric by which such a model is judged."""
        if self.task != "detect":
            return "accuracy", "accuracy"
        return ("f1", "F1") if self.decoder == "points" else ("map", "mAP")

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("the label list is empty")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two classes have the same label")
        for label in self.labels:
            check_label(label)
        if (self.task == "detect" and self.decoder in ("", "points")) != bool(self.strides):
            raise ValueError("Sightline's own detectors must have strides, and other models must not")
        if self.task not in TASKS[self.decoder]:
            raise ValueError(
                f"the decoder {self.decoder!r} is for the task {' or '.join(TASKS[self.decoder])}, not {self.task}"
            )
        if any(stride < 1 for stride in self.strides) or len(set(self.strides)) < len(self.strides):
            raise ValueError(f"strides {self.strides} must be different numbers of pixels")
        if self.strides and self.activation != "sigmoid":
            raise ValueError("the activation of a detector must be sigmoid")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold {self.threshold} is not a score from 0 to 1")


def check_label(label: str) -> None:
    """Raise ValueError for a label that a file with one label per line cannot hold."""
    if label != label.strip() or len(label.splitlines()) != 1:
        raise ValueError(f"the label {label!r} must be one line without spaces at its ends")
    if label != label.encode("utf-8", "replace").decode():
        raise ValueError(f"the label {label!r} cannot be written in UTF-8")


def scores(outputs: Sequence[Floats], spec: OutputSpec) -> Floats:
    """The score of each class, float32 [classes]. Raises ValueError if the outputs do not match `spec`."""
    if len(outputs) != 1 or outputs[0].size != len(spec.labels):
        shapes = [list(o.shape) for o in outputs]
        raise ValueError(f"outputs of shapes {shapes} are not one score for each of {len(spec.labels)} labels")
    x = outputs[0].reshape(-1)
    if spec.activation == "softmax":
        e = np.exp(x - x.max())
        return np.asarray(e / e.sum(), np.float32)
    if spec.activation == "sigmoid":
        # exp of a large positive number overflows: clip it where the score is 0 in float32 anyway
        return np.asarray(1 / (1 + np.exp(np.minimum(-x, 88))), np.float32)
    return x


def decode(
    outputs: Sequence[Floats], spec: OutputSpec, top: int = 3, threshold: float = 0.0
) -> tuple[Classification, ...]:
    """The `top` classes whose score reaches `threshold`, best first. Equal scores are in the order of the labels."""
    s = scores(outputs, spec)
    order = np.argsort(-s, kind="stable")[:top]
    return tuple(Classification(spec.labels[i], int(i), float(s[i])) for i in order if s[i] >= threshold)
