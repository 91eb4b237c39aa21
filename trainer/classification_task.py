"""Learning the class of an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from sightline.data.classification import ClassificationDataset
from sightline.preprocess import InputSpec
from trainer.classification_data import AugmentedImages, PlainImages
from trainer.export import export_run
from trainer.model import build, check_classifier
from trainer.quantization_aware import divergence
from trainer.recipe import Recipe


class ClassificationTask:
    """See `trainer.task.Task`."""

    metric, metric_title = "accuracy", "accuracy"
    collate = staticmethod(default_collate)

    def __init__(self, data: ClassificationDataset, spec: InputSpec) -> None:
        self.data, self.spec = data, spec

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        classifier = build(recipe.arch, len(self.data.labels), weights, self.spec.width)
        check_classifier(classifier, self.spec.width, len(self.data.labels))
        return classifier

    def train_set(self, recipe: Recipe) -> AugmentedImages:
        return AugmentedImages(self.data, self.spec, recipe)

    def val_set(self) -> PlainImages:
        return PlainImages(self.data.root, self.data.val, self.spec)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=recipe.label_smoothing)

    def distillation_loss(self, outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
        return divergence(outputs, teacher_outputs)

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        model.eval()
        correct, loss, count = 0, 0.0, 0
        with torch.no_grad():
            for images, labels in batches:
                labels = labels.to(device)
                logits = model(images.to(device).float()).float()
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
                count += len(labels)
        return {"accuracy": correct / count, "loss": loss / count}

    def export(self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        export_run(out, model, self.data, self.spec, metrics=metrics, provenance=provenance)
