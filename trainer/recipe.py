"""What decides which weights are learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["classify", "detect", "points"]
Augment = Literal["none", "light", "default", "strong"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned. A resumed run must have the same recipe.

    task: what the model predicts.
    arch: name of a timm model.
    weights: "timm", "none" or a file; for fine-tuning the name and version of the parent run.
    epochs: passes over the training images.
    batch: images per step and process.
    learning_rate: of AdamW, at its peak.
    weight_decay: of AdamW.
    warmup_epochs: in which the learning rate rises from 0.
    label_smoothing: share of each label that goes to the other classes, 0..1.
    ema_decay: of the moving average of the weights.
    patience: epochs without improvement after which training stops; 0 = never.
    augment: how strongly the training images are varied.
    flip: whether they are mirrored.
    seed: of the split, the order and the first weights.
    quantization_aware: whether a finished run is fine-tuned with int8 rounding.
    """

    task: TaskName
    arch: str
    weights: str
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int
    label_smoothing: float
    ema_decay: float
    patience: int
    augment: Augment
    flip: bool
    seed: int
    quantization_aware: bool = False
