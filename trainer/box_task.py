"""What learning boxes and learning points have in common: the pictures, the held-out ones as the device sees them."""

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
from sightline.detection_postprocess import LOWEST
from sightline.interpreter import TensorInfo as Stored
from sightline.output_spec import OutputSpec
from sightline.postprocess import answer
from sightline.predictions import Detection
from sightline.preprocess import InputSpec
from trainer.detection_data import AugmentedBoxes, PlainBoxes, collate
from trainer.export import export_run
from trainer.recipe import Recipe

Found = Sequence[Sequence[Detection]]  # of each held-out picture


def gap(logits: Tensor, wanted: Tensor) -> Tensor:
    """Divergence of the scores of cells from those that are wanted, each a distribution of two; summed over all."""
    scores, binary = wanted.sigmoid(), nn.functional.binary_cross_entropy_with_logits
    return binary(logits, scores, reduction="sum") - binary(wanted, scores, reduction="sum")


class BoxTask(ABC):
    """See `trainer.task.Task`. output: what the model gives; its threshold is found when the run is written."""

    collate = staticmethod(collate)
    output: OutputSpec

    def __init__(self, data: DetectionDataset, spec: InputSpec) -> None:
        self.data, self.spec = data, spec

    @abstractmethod
    def measure(self, found: Found) -> tuple[dict[str, float], float]:
        """(metrics, the threshold that is best)."""

    @abstractmethod
    def loss(self, outputs: Any, targets: Tensor, recipe: Recipe | None = None) -> Tensor: ...

    def train_set(self, recipe: Recipe) -> AugmentedBoxes:
        return AugmentedBoxes(
            self.data.root, self.data.train, self.spec, recipe.seed, recipe.augment, recipe.flip, recipe.epochs
        )

    def val_set(self) -> PlainBoxes:
        return PlainBoxes(self.data.root, self.data.val, self.spec)

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        found, loss = self._look(model.eval(), batches, device)
        return {**self.measure(found)[0], "loss": loss}

    def export(
        self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any], seed: int
    ) -> None:
        batches = DataLoader(self.val_set(), 32, collate_fn=collate)
        found, _ = self._look(model.cpu().eval(), batches, torch.device("cpu"))
        export_run(
            out, model, self.data, self.spec, name=out.name, metrics=dict(metrics), provenance=dict(provenance),
            seed=seed, output=replace(self.output, threshold=round(self.measure(found)[1], 2)),
        )  # fmt: skip

    def _look(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> tuple[Found, float]:
        """What the model says to each held-out picture, in the very steps of the device; and the mean loss."""
        found: list[Sequence[Detection]] = []
        loss = 0.0
        with torch.no_grad():
            for images, targets in batches:
                outputs = model(images.to(device).float())
                loss += float(self.loss(outputs, targets.to(device))) * len(images)
                every = outputs if isinstance(outputs, tuple) else (outputs,)
                arrays = [o.float().cpu().numpy() for o in every]
                stored = [Stored(i, "", (1, *a.shape[1:]), "float32", 0.0, 0) for i, a in enumerate(arrays)]
                for row in range(len(images)):
                    picture = self.data.val[len(found)]
                    size, mine = (picture.width, picture.height), [a[row : row + 1] for a in arrays]
                    said = answer(mine, stored, self.spec, self.output, size, LOWEST)
                    found.append([d for d in said if isinstance(d, Detection)])
        return found, loss / len(found)
