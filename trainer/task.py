"""What differs between kinds of models. The rest of the training loop is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sightline.data.dataset import Dataset, LabelledImage
from sightline.preprocess import InputSpec
from trainer.recipe import Recipe

Outputs = Any  # of the model: a tensor, or a tuple of tensors


class Task(Protocol):
    """What is learned, and how it is judged.

    metric: key in the result of `evaluate` that decides which epoch is the best.
    metric_title: its name for people.
    """

    metric: str
    metric_title: str

    @property
    def data(self) -> Dataset[LabelledImage]:
        """The data set that is learned."""

    @property
    def spec(self) -> InputSpec:
        """The model's input."""

    @property
    def collate(self) -> Callable[..., Any]:
        """Makes a batch of items of `train_set`: (images uint8 [n, height, width, 3], targets)."""

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        """A new model that starts from `weights`."""

    def train_set(self, recipe: Recipe) -> TorchDataset[tuple[Tensor, Any]]:
        """The augmented training images. Keys are (epoch, index); see `trainer.classification_data.Shuffled`."""

    def val_set(self) -> TorchDataset[tuple[Tensor, Any]]:
        """The held-out images as the device will see them. Keys are indices."""

    def loss(self, outputs: Outputs, targets: Tensor, recipe: Recipe) -> Tensor:
        """How far the outputs are from the labels."""

    def distillation_loss(self, outputs: Outputs, teacher_outputs: Outputs) -> Tensor:
        """How far the outputs are from those of a teacher."""

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        """Metrics over a loader of `val_set`: fractions in 0..1, and the mean `loss`."""

    def export(self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Write the run folder."""
