"""What one kind of model is learned by and another is not: everything else of the loop is the same for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sightline.data.classification import ClassificationDataset
from sightline.data.detection import DetectionDataset
from sightline.preprocess import InputSpec
from trainer.recipe import Recipe

Outputs = Any  # of the model: a tensor, or a tuple of them


class Task(Protocol):
    """goal: the metric of `evaluate` that decides which epoch was the best; title: what people call it. data: what is
    learned. collate: makes a batch, (images uint8 [n, height, width, 3], targets), of what `train_set` gives."""

    goal: str
    title: str
    data: ClassificationDataset | DetectionDataset
    spec: InputSpec
    collate: Any

    def build(self, recipe: Recipe, weights: str) -> nn.Module: ...

    def train_set(self, recipe: Recipe) -> Dataset[tuple[Tensor, Any]]:
        """Its keys are (epoch, index); see `trainer.data.Shuffled`."""

    def val_set(self) -> Dataset[tuple[Tensor, Any]]:
        """The held-out pictures as the device will see them; its keys are indices."""

    def loss(self, outputs: Outputs, targets: Tensor, recipe: Recipe) -> Tensor: ...

    def imitation(self, outputs: Outputs, wanted: Outputs) -> Tensor:
        """How far a model that is fine-tuned is from the one that it was, which is what it shall stay."""

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        """Metrics over a loader of `val_set`; fractions in 0..1, and the mean `loss`."""

    def export(
        self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any], seed: int
    ) -> None:
        """Write the run folder."""
