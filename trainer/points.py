"""Learning where things are, without how large they are: a heat map for devices on which a detector is too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.answer import answer
from sightline.boxes import BoxedPictures
from sightline.decode import OutputSpec
from sightline.detect import LOWEST
from sightline.interpreter import Tensor as Stored
from sightline.point_score import PointScore, point_score
from sightline.predictions import Detection
from sightline.preprocess import InputSpec
from trainer.boxed_data import AugmentedBoxes, PlainBoxes, collate
from trainer.detector import build_point_detector
from trainer.export import export_run
from trainer.recipe import Recipe

STRIDE = 8
SPREAD = 1 / 6  # of a box's size: around its middle the wrong cells are forgiven
SMALLEST = 0.4  # of a cell, the same of the smallest box


def heat(targets: Tensor, classes: int, rows: int, columns: int) -> Tensor:
    """float32 [n, rows, columns, classes]: 1 in the cell of each box's middle, falling off around it as a Gaussian.

    targets: float32 [n, most, 5], class (-1 = no box) and left, top, right, bottom in pixels of the input.
    """
    real = targets[..., 0] >= 0
    middle = (targets[..., 1:3] + targets[..., 3:5]) / 2 / STRIDE
    sigma = ((targets[..., 3:5] - targets[..., 1:3]) / STRIDE * SPREAD).clamp(min=SMALLEST)
    limit = middle.new_tensor([columns - 1, rows - 1])
    cell = torch.minimum(middle.floor().clamp(min=0), limit)
    x, y = (torch.arange(n, device=targets.device) for n in (columns, rows))
    across = torch.exp(-((x - cell[..., 0:1]) ** 2) / (2 * sigma[..., 0:1] ** 2))  # [n, most, columns]
    down = torch.exp(-((y - cell[..., 1:2]) ** 2) / (2 * sigma[..., 1:2] ** 2))
    spot = down[..., :, None] * across[..., None, :] * real[..., None, None]
    label = nn.functional.one_hot(targets[..., 0].clamp(min=0).long(), classes)
    return (spot[..., None] * label[:, :, None, None, :]).amax(dim=1)


def point_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss that forgives the neighbours of a middle (Zhou et al. 2019, "Objects as Points", section 3)."""
    logits = logits.float()
    wanted = heat(targets, logits.shape[-1], *logits.shape[1:3])
    log_p, log_q = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    p = logits.sigmoid()
    there = wanted == 1
    lost = torch.where(there, (1 - p).square() * log_p, (1 - wanted).pow(4) * p.square() * log_q)
    return -lost.sum() / there.sum().clamp(min=1)


class PointTask:
    """See `trainer.task.Task`."""

    goal, title = "f1", "F1"
    collate = staticmethod(collate)

    def __init__(self, data: BoxedPictures, spec: InputSpec) -> None:
        self.data, self.spec = data, spec
        self.output = OutputSpec("detect", "sigmoid", data.labels, (STRIDE,), layout="points")

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        return build_point_detector(recipe.arch, len(self.data.labels), weights, self.spec.width)

    def train_set(self, recipe: Recipe) -> AugmentedBoxes:
        return AugmentedBoxes(
            self.data.root, self.data.train, self.spec, recipe.seed, recipe.augment, recipe.flip, recipe.epochs
        )

    def val_set(self) -> PlainBoxes:
        return PlainBoxes(self.data.root, self.data.val, self.spec)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
        return point_loss(outputs, targets)

    def imitation(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Divergence of each cell's scores, summed over a picture."""
        scores = wanted.sigmoid()
        binary = nn.functional.binary_cross_entropy_with_logits
        return (binary(outputs, scores, reduction="sum") - binary(wanted, scores, reduction="sum")) / len(outputs)

    def evaluate(self, model: nn.Module, batches: DataLoader[Any], device: torch.device) -> dict[str, float]:
        model.eval()
        found, loss = self._detect(model, batches, device)
        measured = self._measure(found)
        return {"f1": measured.f1, "precision": measured.precision, "recall": measured.recall, "loss": loss}

    def export(
        self, out: Path, model: nn.Module, metrics: Mapping[str, Any], provenance: Mapping[str, Any], seed: int
    ) -> None:
        batches = DataLoader(self.val_set(), 32, collate_fn=collate)
        threshold = self._measure(self._detect(model.cpu().eval(), batches, torch.device("cpu"))[0]).threshold
        output = OutputSpec("detect", "sigmoid", self.data.labels, (STRIDE,), threshold, "points")
        export_run(
            out, model, self.data, self.spec, name=out.name, metrics=dict(metrics), provenance=dict(provenance),
            seed=seed, output=output,
        )  # fmt: skip

    def _detect(
        self, model: nn.Module, batches: DataLoader[Any], device: torch.device
    ) -> tuple[list[Sequence[Detection]], float]:
        found: list[Sequence[Detection]] = []
        loss = 0.0
        with torch.no_grad():
            for images, targets in batches:
                outputs = model(images.to(device).float())
                loss += float(point_loss(outputs, targets.to(device))) * len(images)
                array = outputs.float().cpu().numpy()
                stored = [Stored(0, "", (1, *array.shape[1:]), "float32", 0.0, 0)]
                for row in range(len(images)):
                    picture = self.data.val[len(found)]
                    size = picture.width, picture.height
                    said = answer([array[row : row + 1]], stored, self.spec, self.output, size, LOWEST)
                    found.append([d for d in said if isinstance(d, Detection)])
        return found, loss / len(found)

    def _measure(self, found: Sequence[Sequence[Detection]]) -> PointScore:
        return point_score(found, [p.truth for p in self.data.val], len(self.data.labels))
