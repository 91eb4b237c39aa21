"""Learning the centres of objects without their sizes: a heat map, for devices that are too small for a detector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.data.detection import DetectionDataset
from sightline.metrics import point_score
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from trainer.box_task import BoxTask, Predictions, binary_divergence
from trainer.detector import build_point_detector
from trainer.recipe import Recipe

STRIDE = 8  # pixels of the input per cell
SPREAD = 1 / 6  # standard deviation around a box's centre, as a fraction of its size: near cells cost less
MIN_SPREAD = 0.4  # of a cell: standard deviation of the smallest box


def heat(targets: Tensor, classes: int, rows: int, columns: int) -> Tensor:
    """float32 [n, rows, columns, classes]: 1 in the cell of each box's centre, falling off as a Gaussian.

    targets: float32 [n, most, 5], class (-1 = no box) and left, top, right, bottom in pixels of the input.
    """
    real = targets[..., 0] >= 0
    centre = (targets[..., 1:3] + targets[..., 3:5]) / 2 / STRIDE
    sigma = ((targets[..., 3:5] - targets[..., 1:3]) / STRIDE * SPREAD).clamp(min=MIN_SPREAD)
    limit = centre.new_tensor([columns - 1, rows - 1])
    cell = torch.minimum(centre.floor().clamp(min=0), limit)
    x, y = (torch.arange(n, device=targets.device) for n in (columns, rows))
    across = torch.exp(-((x - cell[..., 0:1]) ** 2) / (2 * sigma[..., 0:1] ** 2))  # [n, most, columns]
    down = torch.exp(-((y - cell[..., 1:2]) ** 2) / (2 * sigma[..., 1:2] ** 2))
    spot = down[..., :, None] * across[..., None, :] * real[..., None, None]
    label = nn.functional.one_hot(targets[..., 0].clamp(min=0).long(), classes)
    return (spot[..., None] * label[:, :, None, None, :]).amax(dim=1)


def point_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss in which cells near a centre cost less (Zhou et al. 2019, "Objects as Points", section 3)."""
    logits = logits.float()
    target = heat(targets, logits.shape[-1], *logits.shape[1:3])
    log_p, log_q = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    p = logits.sigmoid()
    is_centre = target == 1
    terms = torch.where(is_centre, (1 - p).square() * log_p, (1 - target).pow(4) * p.square() * log_q)
    return -terms.sum() / is_centre.sum().clamp(min=1)


class PointTask(BoxTask):
    """See `trainer.task.Task`."""

    metric, metric_title = "f1", "F1"

    def __init__(self, data: DetectionDataset, spec: InputSpec) -> None:
        super().__init__(data, spec)
        self.output = OutputSpec("detect", "sigmoid", data.labels, (STRIDE,), decoder="points")

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        return build_point_detector(recipe.arch, len(self.data.labels), weights, self.spec.width)

    def loss(self, outputs: Tensor, targets: Tensor, recipe: Recipe | None = None) -> Tensor:
        return point_loss(outputs, targets)

    def distillation_loss(self, outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
        """Divergence of each cell's scores, summed over an image."""
        return binary_divergence(outputs, teacher_outputs) / len(outputs)

    def score(self, predictions: Predictions) -> tuple[dict[str, float], float]:
        p = point_score(predictions, [image.truth for image in self.data.val], len(self.data.labels))
        return {"f1": p.f1, "precision": p.precision, "recall": p.recall}, p.threshold
