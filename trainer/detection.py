"""Learning what is in a picture and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.average_precision import LOW, AveragePrecision, average_precision
from sightline.boxes import BoxedPictures
from sightline.decode import OutputSpec
from sightline.detect import detect
from sightline.interpreter import Tensor as Stored
from sightline.predictions import Detection
from sightline.preprocess import InputSpec, place
from trainer.boxed_data import AugmentedBoxes, PlainBoxes, collate
from trainer.detection_loss import detection_loss
from trainer.detector import STRIDES, build_detector
from trainer.export import export_run
from trainer.recipe import Recipe


class DetectionTask:
    """See `trainer.task.Task`."""

    goal, title = "map", "mAP"
    collate = staticmethod(collate)

    def __init__(self, data: BoxedPictures, spec: InputSpec) -> None:
        self.data, self.spec = data, spec

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        return build_detector(recipe.arch, len(self.data.labels), weights, self.spec.width)

    def train_set(self, recipe: Recipe) -> AugmentedBoxes:
        return AugmentedBoxes(
            self.data.root, self.data.train, self.spec, recipe.seed, recipe.augment, recipe.flip, recipe.epochs
        )

    def val_set(self) -> PlainBoxes:
        return PlainBoxes(self.data.root, self.data.val, self.spec)

    def loss(self, outputs: tuple[Tensor, ...], targets: Tensor, recipe: Recipe) -> Tensor:
        return detection_loss(outputs, targets, self.spec.width)

    def imitation(self, outputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
        """Divergence of each cell's scores, summed over a picture, and of its edges where the model sees something."""
        total = torch.zeros((), device=outputs[0].device)
        for logits, edges, true_logits, true_edges in zip(
            outputs[::2], outputs[1::2], wanted[::2], wanted[1::2], strict=True
        ):
            scores = true_logits.sigmoid()
            binary = nn.functional.binary_cross_entropy_with_logits
            gap = binary(logits, scores, reduction="sum") - binary(true_logits, scores, reduction="sum")
            sure = scores.amax(-1, keepdim=True)
            shift = (edges - true_edges).abs() / true_edges.clamp(min=1.0)
            total = total + gap + (shift * sure).sum()
        return total / len(outputs[0])

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        model.eval()
        found, loss = self._detect(model, batches, device)
        measured = self._measure(found)
        return {"map": measured.map, "map50": measured.map50, "loss": loss}

    def export(
        self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any], seed: int
    ) -> None:
        batches = DataLoader(self.val_set(), 32, collate_fn=collate)
        threshold = self._measure(self._detect(model.cpu().eval(), batches, torch.device("cpu"))[0]).threshold
        output = OutputSpec("detect", "sigmoid", self.data.labels, STRIDES, round(threshold, 2))
        export_run(
            out, model, self.data, self.spec, name=out.name, metrics=dict(metrics), provenance=dict(provenance),
            seed=seed, output=output,
        )  # fmt: skip

    def _detect(
        self, model: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> tuple[list[Sequence[Detection]], float]:
        """Of each held-out picture what the model says, in the very steps of the device; and the mean loss."""
        spec = OutputSpec("detect", "sigmoid", self.data.labels, STRIDES)
        found: list[Sequence[Detection]] = []
        loss = 0.0
        with torch.no_grad():
            for images, targets in batches:
                outputs = model(images.to(device).float())
                loss += float(detection_loss(outputs, targets.to(device), self.spec.width)) * len(images)
                arrays = [o.float().cpu().numpy() for o in outputs]
                for row in range(len(images)):
                    mine = [a[row : row + 1] for a in arrays]
                    stored = [Stored(i, "", a.shape, "float32", 0.0, 0) for i, a in enumerate(mine)]
                    picture = self.data.val[len(found)]
                    found.append(detect(mine, stored, spec, place(picture.width, picture.height, self.spec), LOW))
        return found, loss / len(found)

    def _measure(self, found: Sequence[Sequence[Detection]]) -> AveragePrecision:
        return average_precision(found, [p.truth for p in self.data.val], len(self.data.labels))
