"""The loss of a detector: which cells learn which box, and how far they are from it.

Task-aligned assignment (Feng et al. 2021, "TOOD", section 3.2): a box is learned by the cells that already
predict its class and its position best. The score to learn is how well they do (quality focal loss; Li et al. 2020,
"Generalized Focal Loss"); the edges learn by generalized IoU (Rezatofighi et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

CELLS_PER_BOX = 10  # that learn one box, at most
SCORE_POWER, IOU_POWER = 1.0, 6.0  # exponents of the alignment of a cell with a box
MIN_IOU = 0.01  # below it boxes count as equally far: before anything is learned the nearest cells have to begin
BOX_WEIGHT = 2.0  # of the edges' loss, relative to the scores' loss


@dataclass(frozen=True)
class Assignment:
    """What each cell has to learn.

    quality: float32 [n, cells, classes], the scores.
    box: int64 [n, cells], index of the box; meaningless where the weight is 0.
    weight: float32 [n, cells], of the box in the loss.
    """

    quality: Tensor
    box: Tensor
    weight: Tensor


def flatten(outputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A `Detector`'s outputs for images of size x size, as one row per cell.

    Returns logits [n, cells, classes], edges in pixels [n, cells, 4], the cells' centres in pixels [cells, 2] and
    their strides in pixels [cells].
    """
    logits = torch.cat([o.flatten(1, 2) for o in outputs[0::2]], dim=1)
    points, strides = [], []
    for o in outputs[0::2]:
        height, width = o.shape[1:3]
        stride = size / height
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((height * width,), stride))
    point, stride_of = torch.cat(points).to(logits.device), torch.cat(strides).to(logits.device)
    distances = torch.cat([o.flatten(1, 2) for o in outputs[1::2]], dim=1) * stride_of[:, None]
    return logits, torch.cat([point - distances[..., :2], point + distances[..., 2:]], dim=-1), point, stride_of


def detection_loss(outputs: tuple[Tensor, ...], targets: Tensor, size: int) -> Tensor:
    """targets: float32 [n, boxes, 5], class (-1 = no box) and left, top, right, bottom in pixels of the input."""
    logits, edges, points, strides = flatten(tuple(o.float() for o in outputs), size)
    a = assign(logits.detach(), edges.detach(), points, strides, targets)
    scores = logits.sigmoid()
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, a.quality, reduction="none")
    whole = a.weight.sum().clamp(min=1.0)
    quality = ((scores - a.quality).square() * entropy).sum() / whole
    chosen = a.weight > 0
    target = targets[..., 1:].gather(1, a.box[..., None].expand(-1, -1, 4))
    position: Tensor = (generalized_box_iou_loss(edges[chosen], target[chosen]) * a.weight[chosen]).sum() / whole
    return quality + BOX_WEIGHT * position


def assign(logits: Tensor, edges: Tensor, points: Tensor, strides: Tensor, targets: Tensor) -> Assignment:
    """logits, edges, points, strides: see `flatten`. targets: see `detection_loss`."""
    _, cells, classes = logits.shape
    real = targets[..., 0] >= 0
    label, box = targets[..., 0].clamp(min=0).long(), targets[..., 1:]
    centre = (box[..., :2] + box[..., 2:]) / 2
    offset = (points - centre[:, :, None]).abs()  # [n, boxes, cells, 2]
    inside = torch.cat([points - box[:, :, None, :2], box[:, :, None, 2:] - points], dim=-1).amin(-1) > 0
    # the cell around its centre, on every level: a box smaller than a cell may contain no cell's centre
    inside |= (offset <= strides[:, None] / 2).all(-1)
    inside &= real[..., None]

    overlap = _iou(box, edges)
    score = logits.sigmoid().gather(2, label[:, None, :].expand(-1, cells, -1)).transpose(1, 2)
    alignment = score.pow(SCORE_POWER) * overlap.clamp(min=MIN_IOU).pow(IOU_POWER) * inside
    best = torch.zeros_like(inside)
    if alignment.shape[1]:
        best.scatter_(2, alignment.topk(min(CELLS_PER_BOX, cells), dim=2).indices, True)
    taken = best & inside
    # a cell that several boxes claim goes to the one that it overlaps most
    rank = torch.where(taken, overlap + 1, 0.0)
    owner = rank.argmax(dim=1)
    mine = nn.functional.one_hot(owner, max(1, targets.shape[1])).transpose(1, 2).bool() & taken
    # the best cell of a box has to score its IoU, the others in proportion
    own = alignment * mine
    best_iou = (overlap * mine).amax(dim=2, keepdim=True).clamp(min=MIN_IOU)
    quality = own / own.amax(dim=2, keepdim=True).clamp(min=1e-30) * best_iou
    weight = quality.amax(dim=1)
    classes_of = label.gather(1, owner)
    return Assignment(nn.functional.one_hot(classes_of, classes) * weight[..., None], owner, weight)


def _iou(boxes: Tensor, edges: Tensor) -> Tensor:
    """IoU of each of [n, boxes, 4] with each of [n, cells, 4], both as corners: [n, boxes, cells]."""
    low = torch.maximum(boxes[:, :, None, :2], edges[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], edges[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)[:, :, None]
    other = (edges[..., 2:] - edges[..., :2]).clamp(min=0).prod(-1)[:, None]
    return shared / (area + other - shared).clamp(min=1e-9)
