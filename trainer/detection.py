"""Learning what is in a picture and where."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.data.detection import DetectionDataset
from sightline.metrics import average_precision
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from trainer.box_task import BoxTask, Found, gap
from trainer.detection_loss import detection_loss
from trainer.detector import STRIDES, build_detector
from trainer.recipe import Recipe


class DetectionTask(BoxTask):
    """See `trainer.task.Task`."""

    goal, title = "map", "mAP"

    def __init__(self, data: DetectionDataset, spec: InputSpec) -> None:
        super().__init__(data, spec)
        self.output = OutputSpec("detect", "sigmoid", data.labels, STRIDES)

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        return build_detector(recipe.arch, len(self.data.labels), weights, self.spec.width)

    def loss(self, outputs: tuple[Tensor, ...], targets: Tensor, recipe: Recipe | None = None) -> Tensor:
        return detection_loss(outputs, targets, self.spec.width)

    def imitation(self, outputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> Tensor:
        """Divergence of each cell's scores, summed over a picture, and of its edges where the model sees something."""
        total = torch.zeros((), device=outputs[0].device)
        for logits, edges, true_logits, true_edges in zip(
            outputs[::2], outputs[1::2], wanted[::2], wanted[1::2], strict=True
        ):
            sure = true_logits.sigmoid().amax(-1, keepdim=True)
            shift = (edges - true_edges).abs() / true_edges.clamp(min=1.0)
            total = total + gap(logits, true_logits) + (shift * sure).sum()
        return total / len(outputs[0])

    def measure(self, found: Found) -> tuple[dict[str, float], float]:
        a = average_precision(found, [p.truth for p in self.data.val], len(self.data.labels))
        return {"map": a.map, "map50": a.map50}, a.threshold
