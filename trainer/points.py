"""Learning where things are, without how large they are: a heat map for devices on which a detector is too much."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.data.detection import DetectionDataset
from sightline.metrics import point_score
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from trainer.box_task import BoxTask, Found, gap
from trainer.detector import build_point_detector
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


class PointTask(BoxTask):
    """See `trainer.task.Task`."""

    goal, title = "f1", "F1"

    def __init__(self, data: DetectionDataset, spec: InputSpec) -> None:
        super().__init__(data, spec)
        self.output = OutputSpec("detect", "sigmoid", data.labels, (STRIDE,), decoder="points")

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        return build_point_detector(recipe.arch, len(self.data.labels), weights, self.spec.width)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | None = None) -> Tensor:
        return point_loss(outputs, targets)

    def imitation(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Divergence of each cell's scores, summed over a picture."""
        return gap(outputs, wanted) / len(outputs)

    def measure(self, found: Found) -> tuple[dict[str, float], float]:
        p = point_score(found, [picture.truth for picture in self.data.val], len(self.data.labels))
        return {"f1": p.f1, "precision": p.precision, "recall": p.recall}, p.threshold
