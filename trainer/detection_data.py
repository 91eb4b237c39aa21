"""Pictures with boxes on their way into training and evaluation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from sightline.data.detection import DetectionImage
from sightline.images import read_image
from sightline.preprocess import Frame, InputSpec, Preprocessor, place
from trainer.data import Key, random_window

MIN_VISIBLE_AREA = 0.3  # of a box's area: what is cut off further is no example of it
SMALLEST_PX = 2.0  # of a side, in the input
UNAUGMENTED_FRACTION = 0.15  # of the epochs, at the end, with pictures that are whole, as the camera's are

# (share of mosaics, smallest part of a picture's area, smallest size on the canvas)
LEVELS = {"none": (0.0, 1.0, 1.0), "light": (0.0, 0.7, 0.8), "default": (0.5, 0.4, 0.5), "strong": (0.9, 0.25, 0.35)}

Rect = tuple[int, int, int, int]


class AugmentedBoxes(Dataset[tuple[Tensor, Tensor]]):
    """Training pictures: parts of them, moved and resized by the device's own preprocessing, alone or four in a mosaic
    (Bochkovskiy et al. 2020), in other light.

    A key is (epoch, index), and the randomness is a function of (seed, key). Items: uint8 [height, width, 3] RGB, and
    float32 [n, 5], class and left, top, right, bottom in pixels of it.
    """

    def __init__(
        self, root: Path, pictures: Sequence[DetectionImage], spec: InputSpec, seed: int, augment: str, flip: bool,
        epochs: int,
    ) -> None:  # fmt: skip
        self.root, self.pictures, self.spec, self.seed, self.epochs = root, pictures, spec, seed, epochs
        self.mosaics, self.part, self.size = LEVELS[augment]
        self.flip = flip and augment != "none"
        self.light = v2.ColorJitter(0.3, 0.3, 0.3) if augment != "none" else None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rng = random.Random(f"{self.seed}/{epoch}/{index}")
        height, width = self.spec.height, self.spec.width
        canvas = np.full((height, width, 3), self.spec.pad, np.uint8)
        calm = epoch >= self.epochs - round(self.epochs * UNAUGMENTED_FRACTION)
        if not calm and rng.random() < self.mosaics:
            x, y = (round(side * rng.uniform(0.35, 0.65)) for side in (width, height))
            rects: list[Rect] = [(0, 0, x, y), (x, 0, width - x, y), (0, y, x, height - y)]
            rects.append((x, y, width - x, height - y))
            chosen = [index, *(rng.randrange(len(self.pictures)) for _ in range(3))]
            rng.shuffle(chosen)
        else:
            rects, chosen = [(0, 0, width, height)], [index]
        boxes = [self._draw(canvas, rect, self.pictures[i], rng) for rect, i in zip(rects, chosen, strict=True)]
        image = torch.from_numpy(canvas)
        if self.light:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(rng.getrandbits(62))
                image = self.light(image.permute(2, 0, 1)).permute(1, 2, 0).contiguous()
        return image, torch.from_numpy(np.concatenate(boxes))

    def _draw(self, canvas: Frame, rect: Rect, picture: DetectionImage, rng: random.Random) -> NDArray[np.float32]:
        """Draw a part of a picture somewhere in `rect` of the canvas; what is left of its boxes, [n, 5]."""
        frame = read_image(self.root / picture.path)
        boxes = _corners(picture)
        x, y, w, h = random_window(frame, rng, self.part) if self.part < 1 else (0, 0, *frame.shape[1::-1])
        frame = frame[y : y + h, x : x + w]
        left, top, width, height = rect
        scale = rng.uniform(self.size, 1.0)
        inner = InputSpec(max(1, round(width * scale)), max(1, round(height * scale)), self.spec.resize)
        placement = place(w, h, inner)
        sx, sy, sw, sh = placement.source
        tx, ty, tw, th = placement.target
        small = Preprocessor(inner)(frame)[ty : ty + th, tx : tx + tw]
        if self.flip and rng.random() < 0.5:
            small = small[:, ::-1]
            boxes[:, [1, 3]] = 2 * x + 2 * sx + sw - boxes[:, [3, 1]]
        if self.size < 1:  # anywhere; else where the device would put it
            tx, ty = rng.randint(0, width - tw), rng.randint(0, height - th)
        canvas[top + ty : top + ty + th, left + tx : left + tx + tw] = small
        boxes[:, [1, 3]] = (boxes[:, [1, 3]] - x - sx) * (tw / sw) + tx + left
        boxes[:, [2, 4]] = (boxes[:, [2, 4]] - y - sy) * (th / sh) + ty + top
        return _visible(boxes, (left + tx, top + ty, tw, th))


class PlainBoxes(Dataset[tuple[Tensor, Tensor]]):
    """Pictures exactly as the device makes them. Items as of `AugmentedBoxes`, keys are indices."""

    def __init__(self, root: Path, pictures: Sequence[DetectionImage], spec: InputSpec) -> None:
        self.root, self.pictures, self.spec = root, pictures, spec
        self.preprocess = Preprocessor(spec)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = self.pictures[index]
        image = self.preprocess(read_image(self.root / picture.path))
        placement = place(picture.width, picture.height, self.spec)
        sx, sy, sw, sh = placement.source
        tx, ty, tw, th = placement.target
        boxes = _corners(picture)
        boxes[:, [1, 3]] = (boxes[:, [1, 3]] - sx) * (tw / sw) + tx
        boxes[:, [2, 4]] = (boxes[:, [2, 4]] - sy) * (th / sh) + ty
        return torch.from_numpy(image), torch.from_numpy(_visible(boxes, placement.target))


def collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """uint8 [n, height, width, 3] and float32 [n, most, 5], in which -1 as a class says that there is no box."""
    most = max(1, *(len(boxes) for _, boxes in items))
    targets = torch.full((len(items), most, 5), -1.0)
    for i, (_, boxes) in enumerate(items):
        targets[i, : len(boxes)] = boxes
    return torch.stack([image for image, _ in items]), targets


def _corners(picture: DetectionImage) -> NDArray[np.float32]:
    rows = [(b.label, b.x, b.y, b.x + b.width, b.y + b.height) for b in picture.boxes]
    return np.asarray(rows, np.float32).reshape(-1, 5)


def _visible(boxes: NDArray[np.float32], rect: Rect) -> NDArray[np.float32]:
    """The boxes cut to `rect`, without those of which too little is left."""
    x, y, w, h = rect
    before = (boxes[:, 3:] - boxes[:, 1:3]).prod(axis=1)
    cut = boxes.copy()
    cut[:, [1, 3]] = boxes[:, [1, 3]].clip(x, x + w)
    cut[:, [2, 4]] = boxes[:, [2, 4]].clip(y, y + h)
    sides = cut[:, 3:] - cut[:, 1:3]
    kept = (sides.min(axis=1) >= SMALLEST_PX) & (sides.prod(axis=1) >= MIN_VISIBLE_AREA * before)
    return cut[kept]
