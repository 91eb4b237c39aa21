"""What learning boxes and learning points have in common: the data, and an evaluation with the device's own steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.data.detection import DetectionDataset
from sightline.detection_postprocess import MIN_SCORE
from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec
from sightline.postprocess import postprocess
from sightline.predictions import Detection
from sightline.preprocess import InputSpec
from trainer.detection_data import AugmentedBoxes, PlainBoxes, collate
from trainer.export import export_run
from trainer.recipe import Recipe

Predictions = Sequence[Sequence[Detection]]  # for each held-out image
EXPORT_BATCH = 32  # images


def binary_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Divergence of the cells' scores from those of a teacher, each a distribution of two; summed over all."""
    scores, entropy = teacher_logits.sigmoid(), nn.functional.binary_cross_entropy_with_logits
    return entropy(logits, scores, reduction="sum") - entropy(teacher_logits, scores, reduction="sum")


class BoxTask(ABC):
    """See `trainer.task.Task`.

    output: what the model's outputs mean. Its threshold is chosen when the run is written.
    """

    collate = staticmethod(collate)
    output: OutputSpec

    def __init__(self, data: DetectionDataset, spec: InputSpec) -> None:
        self.data, self.spec = data, spec

    @abstractmethod
    def score(self, predictions: Predictions) -> tuple[dict[str, float], float]:
        """(metrics, the best threshold)."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Tensor, recipe: Recipe | None = None) -> Tensor: ...

    def train_set(self, recipe: Recipe) -> AugmentedBoxes:
        return AugmentedBoxes(self.data, self.spec, recipe)

    def val_set(self) -> PlainBoxes:
        return PlainBoxes(self.data.root, self.data.val, self.spec)

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        predictions, loss = self._predict(model.eval(), batches, device)
        return {**self.score(predictions)[0], "loss": loss}

    def export(self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        batches = DataLoader(self.val_set(), EXPORT_BATCH, collate_fn=collate)
        predictions, _ = self._predict(model.cpu().eval(), batches, torch.device("cpu"))
        output = replace(self.output, threshold=round(self.score(predictions)[1], 2))
        export_run(out, model, self.data, self.spec, metrics=metrics, provenance=provenance, output=output)

    def _predict(
        self, model: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> tuple[list[Sequence[Detection]], float]:
        """(predictions for each held-out image, by the device's own steps; the mean loss)."""
        predictions: list[Sequence[Detection]] = []
        loss = 0.0
        with torch.no_grad():
            for images, targets in batches:
                outputs = model(images.to(device).float())
                loss += float(self.loss(outputs, targets.to(device))) * len(images)
                outputs = outputs if isinstance(outputs, tuple) else (outputs,)
                arrays = [o.float().cpu().numpy() for o in outputs]
                tensors = [TensorInfo(i, "", (1, *a.shape[1:]), "float32", 0.0, 0) for i, a in enumerate(arrays)]
                for row in range(len(images)):
                    image = self.data.val[len(predictions)]
                    rows, size = [a[row : row + 1] for a in arrays], (image.width, image.height)
                    objects = postprocess(rows, tensors, self.spec, self.output, size, MIN_SCORE)
                    predictions.append([d for d in objects if isinstance(d, Detection)])
        return predictions, loss / len(predictions)
