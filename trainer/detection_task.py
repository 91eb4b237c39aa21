"""Learning which objects are in an image, and where."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sightline.data.detection import DetectionDataset
from sightline.metrics import average_precision
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from trainer.box_task import BoxTask, Predictions, binary_divergence
from trainer.detection_loss import detection_loss
from trainer.detector import STRIDES, build_detector
from trainer.recipe import Recipe


class DetectionTask(BoxTask):
    """See `trainer.task.Task`."""

    metric, metric_title = "map", "mAP"

    def __init__(self, data: DetectionDataset, spec: InputSpec) -> None:
        super().__init__(data, spec)
        self.output = OutputSpec("detect", "sigmoid", data.labels, STRIDES)

    def build(self, recipe: Recipe, weights: str) -> nn.Module:
        return build_detector(recipe.arch, len(self.data.labels), weights, self.spec.width)

    def loss(self, outputs: tuple[Tensor, ...], targets: Tensor, recipe: Recipe | None = None) -> Tensor:
        return detection_loss(outputs, targets, self.spec.width)

    def distillation_loss(self, outputs: tuple[Tensor, ...], teacher_outputs: tuple[Tensor, ...]) -> Tensor:
        """Divergence of each cell's scores, and distance of its edges weighted by the teacher's score; per image."""
        total = torch.zeros((), device=outputs[0].device)
        for logits, edges, teacher_logits, teacher_edges in zip(
            outputs[::2], outputs[1::2], teacher_outputs[::2], teacher_outputs[1::2], strict=True
        ):
            weight = teacher_logits.sigmoid().amax(-1, keepdim=True)
            shift = (edges - teacher_edges).abs() / teacher_edges.clamp(min=1.0)
            total = total + binary_divergence(logits, teacher_logits) + (shift * weight).sum()
        return total / len(outputs[0])

    def score(self, predictions: Predictions) -> tuple[dict[str, float], float]:
        a = average_precision(predictions, [image.truth for image in self.data.val], len(self.data.labels))
        return {"map": a.map, "map50": a.map50}, a.threshold
