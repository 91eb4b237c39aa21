"""Loads images with boxes for training and evaluation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from sightline.data.detection import DetectionDataset, DetectionImage
from sightline.images import read_image
from sightline.preprocess import Frame, InputSpec, Preprocessor, place
from trainer.classification_data import Key, random_window
from trainer.recipe import Recipe

MIN_VISIBLE_AREA = 0.3  # of a box's area: a box that is cut further is dropped
MIN_SIDE_PX = 2.0  # of a box, in the input
UNAUGMENTED_FRACTION = 0.15  # of the epochs, at the end: whole images, as a camera's are


@dataclass(frozen=True)
class AugmentLevel:
    """mosaics: share of images that are mosaics. min_area: smallest part of an image's area. min_scale: smallest size
    on the canvas."""

    mosaics: float
    min_area: float
    min_scale: float


LEVELS: dict[str, AugmentLevel] = {
    "none": AugmentLevel(0.0, 1.0, 1.0),
    "light": AugmentLevel(0.0, 0.7, 0.8),
    "default": AugmentLevel(0.5, 0.4, 0.5),
    "strong": AugmentLevel(0.9, 0.25, 0.35),
}

Rect = tuple[int, int, int, int]


class AugmentedBoxes(Dataset[tuple[Tensor, Tensor]]):
    """Training images: random parts, moved and resized by the device's own preprocessing, in random colours.

    One fills the canvas, or four form a mosaic (Bochkovskiy et al. 2020). A key is (epoch, index). The randomness is a
    function of (seed, key). Items: uint8 [height, width, 3] RGB, and float32 [n, 5]: class and left, top, right, bottom
    in pixels of the image.
    """

    def __init__(self, data: DetectionDataset, spec: InputSpec, recipe: Recipe) -> None:
        self.root, self.images, self.spec = data.root, data.train, spec
        self.seed, self.epochs, self.level = recipe.seed, recipe.epochs, LEVELS[recipe.augment]
        self.flip = recipe.flip and recipe.augment != "none"
        self.jitter = v2.ColorJitter(0.3, 0.3, 0.3) if recipe.augment != "none" else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        height, width = self.spec.height, self.spec.width
        canvas = np.full((height, width, 3), self.spec.pad, np.uint8)
        unaugmented = epoch >= self.epochs - round(self.epochs * UNAUGMENTED_FRACTION)
        if not unaugmented and rng.random() < self.level.mosaics:
            x, y = (round(side * rng.uniform(0.35, 0.65)) for side in (width, height))
            rects: list[Rect] = [(0, 0, x, y), (x, 0, width - x, y), (0, y, x, height - y)]
            rects.append((x, y, width - x, height - y))
            chosen = [index, *(rng.randrange(len(self.images)) for _ in range(3))]
            rng.shuffle(chosen)
        else:
            rects, chosen = [(0, 0, width, height)], [index]
        boxes = [self._draw(canvas, rect, self.images[i], rng) for rect, i in zip(rects, chosen, strict=True)]
        image = torch.from_numpy(canvas)
        if self.jitter:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(rng.getrandbits(62))
                image = self.jitter(image.permute(2, 0, 1)).permute(1, 2, 0).contiguous()
        return image, torch.from_numpy(np.concatenate(boxes))

    def _draw(self, canvas: Frame, rect: Rect, labelled: DetectionImage, rng: random.Random) -> NDArray[np.float32]:
        """Draw a part of an image into `rect` of the canvas. Returns its visible boxes, [n, 5]."""
        frame = read_image(self.root / labelled.path)
        boxes = _corners(labelled)
        level = self.level
        x, y, w, h = random_window(frame, rng, level.min_area) if level.min_area < 1 else (0, 0, *frame.shape[1::-1])
        frame = frame[y : y + h, x : x + w]
        left, top, width, height = rect
        scale = rng.uniform(level.min_scale, 1.0)
        inner = InputSpec(max(1, round(width * scale)), max(1, round(height * scale)), self.spec.resize)
        placement = place(w, h, inner)
        sx, sy, sw, sh = placement.source
        tx, ty, tw, th = placement.target
        small = Preprocessor(inner)(frame)[ty : ty + th, tx : tx + tw]
        if self.flip and rng.random() < 0.5:
            small = small[:, ::-1]
            boxes[:, [1, 3]] = 2 * x + 2 * sx + sw - boxes[:, [3, 1]]
        if level.min_scale < 1:  # anywhere; otherwise where the device puts it
            tx, ty = rng.randint(0, width - tw), rng.randint(0, height - th)
        canvas[top + ty : top + ty + th, left + tx : left + tx + tw] = small
        boxes[:, [1, 3]] = (boxes[:, [1, 3]] - x - sx) * (tw / sw) + tx + left
        boxes[:, [2, 4]] = (boxes[:, [2, 4]] - y - sy) * (th / sh) + ty + top
        return _visible(boxes, (left + tx, top + ty, tw, th))


class PlainBoxes(Dataset[tuple[Tensor, Tensor]]):
    """Images exactly as the device sees them. Items are those of `AugmentedBoxes`, keys are indices."""

    def __init__(self, root: Path, images: Sequence[DetectionImage], spec: InputSpec) -> None:
        self.root, self.images, self.spec = root, images, spec
        self.preprocess = Preprocessor(spec)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labelled = self.images[index]
        image = self.preprocess(read_image(self.root / labelled.path))
        placement = place(labelled.width, labelled.height, self.spec)
        sx, sy, sw, sh = placement.source
        tx, ty, tw, th = placement.target
        boxes = _corners(labelled)
        boxes[:, [1, 3]] = (boxes[:, [1, 3]] - sx) * (tw / sw) + tx
        boxes[:, [2, 4]] = (boxes[:, [2, 4]] - sy) * (th / sh) + ty
        return torch.from_numpy(image), torch.from_numpy(_visible(boxes, placement.target))


def collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """uint8 [n, height, width, 3] and float32 [n, boxes, 5], padded with rows of class -1: no box."""
    rows = max(1, *(len(boxes) for _, boxes in items))
    targets = torch.full((len(items), rows, 5), -1.0)
    for i, (_, boxes) in enumerate(items):
        targets[i, : len(boxes)] = boxes
    return torch.stack([image for image, _ in items]), targets


def _corners(labelled: DetectionImage) -> NDArray[np.float32]:
    """[n, 5]: class and left, top, right, bottom in pixels of the image."""
    rows = [(b.label, b.x, b.y, b.x + b.width, b.y + b.height) for b in labelled.boxes]
    return np.asarray(rows, np.float32).reshape(-1, 5)


def _visible(boxes: NDArray[np.float32], rect: Rect) -> NDArray[np.float32]:
    """The boxes cut to `rect`, without those of which too little is visible."""
    x, y, w, h = rect
    before = (boxes[:, 3:] - boxes[:, 1:3]).prod(axis=1)
    cut = boxes.copy()
    cut[:, [1, 3]] = boxes[:, [1, 3]].clip(x, x + w)
    cut[:, [2, 4]] = boxes[:, [2, 4]].clip(y, y + h)
    sides = cut[:, 3:] - cut[:, 1:3]
    visible: NDArray[np.float32] = cut[
        (sides.min(axis=1) >= MIN_SIDE_PX) & (sides.prod(axis=1) >= MIN_VISIBLE_AREA * before)
    ]
    return visible
