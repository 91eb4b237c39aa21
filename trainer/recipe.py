"""How a model is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned; a resumed run must have the same. patience: epochs, 0 = off."""

    task: Literal["classify", "detect", "points"]
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
    augment: str
    flip: bool
    seed: int
    quantization_aware: bool = False
