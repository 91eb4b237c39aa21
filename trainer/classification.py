"""Learning which class a picture is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from sightline.data.classification import ClassificationDataset
from sightline.preprocess import InputSpec
from trainer.data import Augmented, Plain
from trainer.export import export_run
from trainer.model import build, one_tensor
from trainer.quantization_aware import divergence
from trainer.recipe import Recipe


class Classification:
    """See `trainer.task.Task`."""

    goal, title = "accuracy", "accuracy"
    collate = staticmethod(default_collate)

    def __init__(self, data: ClassificationDataset, spec: InputSpec) -> None:
        self.data, self.spec = data, spec

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        classifier = build(recipe.arch, len(self.data.labels), weights, self.spec.width)
        one_tensor(classifier, self.spec.width, len(self.data.labels))
        return classifier

    def train_set(self, recipe: Recipe) -> Augmented:
        return Augmented(self.data.root, self.data.train, self.spec, recipe.seed, recipe.augment, recipe.flip)

    def val_set(self) -> Plain:
        return Plain(self.data.root, self.data.val, self.spec)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)

    def imitation(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        return divergence(outputs, wanted)

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        model.eval()
        right, loss, count = 0, 0.0, 0
        with torch.no_grad():
            for images, labels in batches:
                labels = labels.to(device)
                logits = model(images.to(device).float()).float()
                right += int((logits.argmax(1) == labels).sum())
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                count += len(labels)
        return {"accuracy": right / count, "loss": loss / count}

    def export(
        self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any], seed: int
    ) -> None:
        export_run(
            out, model, self.data, self.spec, name=out.name, metrics=dict(metrics), provenance=dict(provenance),
            seed=seed,
        )  # fmt: skip
