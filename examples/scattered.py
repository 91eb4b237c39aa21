"""Images with boxes that need no download: scans of handwritten digits, scattered over photographs.

Scans and photographs ship with scikit-learn. The held-out images have other scans, and another part of each photograph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 240  # pixels of an image
SIZES = (28, 84)  # pixels of a digit's longer side
MAX_DIGITS = 6  # of an image
VAL_FRACTION = 0.3  # of the scans, and of each photograph, at its right
Part = Literal["train", "val"]


@dataclass(frozen=True)
class Digit:
    """A digit in an image. x, y, width, height: pixels, from the left and the top."""

    label: int
    x: int
    y: int
    width: int
    height: int


class Scatter:
    """Draws the images of one part. Each is a function of (seed, index)."""

    def __init__(self, part: Part, seed: int = 0, sizes: tuple[int, int] = SIZES) -> None:
        """sizes: smallest and largest longer side of a digit, in pixels."""
        from sklearn.datasets import load_digits, load_sample_images

        digits = load_digits()
        first = round(len(digits.images) * (1 - VAL_FRACTION))
        chosen = slice(first) if part == "train" else slice(first, None)
        self.scans = digits.images[chosen] / 16
        self.labels = digits.target[chosen]
        self.photos = []
        for photo in load_sample_images().images:
            edge = round(photo.shape[1] * (1 - VAL_FRACTION))
            half = photo[:, :edge] if part == "train" else photo[:, edge:]
            self.photos.append(np.ascontiguousarray(half[..., ::-1]))
        self.sizes = sizes
        self.seed = (seed, 0 if part == "train" else 1)

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], list[Digit]]:
        """(uint8 [HEIGHT, WIDTH, 3] BGR, the digits in it)."""
        rng = np.random.default_rng((*self.seed, index))
        frame = self.background(rng)
        placed: list[Digit] = []
        for _ in range(int(rng.integers(0, MAX_DIGITS + 1))):
            k = int(rng.integers(len(self.scans)))
            ink = glyph(self.scans[k], int(rng.integers(*self.sizes)), rng.uniform(-12, 12))
            height, width = ink.shape
            x, y = int(rng.integers(WIDTH - width)), int(rng.integers(HEIGHT - height))
            if any(_overlap((x, y, width, height), d) for d in placed):
                continue
            draw(frame, ink, x, y, colour(frame[y : y + height, x : x + width], rng))
            placed.append(Digit(int(self.labels[k]), x, y, width, height))
        noise = rng.normal(0, rng.uniform(1, 8), frame.shape)
        return np.clip(frame + noise, 0, 255).astype(np.uint8), placed

    def background(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """A part of a photograph, float32 [HEIGHT, WIDTH, 3]."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        height = int(rng.integers(100, photo.shape[0]))
        width = min(photo.shape[1], round(height * WIDTH / HEIGHT))
        x, y = int(rng.integers(photo.shape[1] - width + 1)), int(rng.integers(photo.shape[0] - height + 1))
        part = cv2.resize(photo[y : y + height, x : x + width], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        part = part[:, ::-1] if rng.random() < 0.5 else part
        return np.asarray(part * rng.uniform(0.6, 1.2), np.float32)


def glyph(scan: NDArray[np.float64], size: int, angle: float) -> NDArray[np.float32]:
    """The ink of a digit, float32 [height, width] in 0..1. size: pixels of its longer side. angle: degrees."""
    large = cv2.resize(np.pad(scan, 2).astype(np.float32), (size * 2, size * 2), interpolation=cv2.INTER_CUBIC)
    middle = (size - 0.5, size - 0.5)
    large = cv2.warpAffine(large, cv2.getRotationMatrix2D(middle, angle, 1.0), (size * 2, size * 2))
    ys, xs = np.nonzero(large > 0.3)
    large = large[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    scale = size / max(large.shape)
    shape = max(4, round(large.shape[1] * scale)), max(4, round(large.shape[0] * scale))
    small = cv2.resize(large, shape, interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(small * 1.3, 0, 1), np.float32)


def colour(under: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A colour that contrasts with the image under it: three channels."""
    bright = under.mean() < 128
    return rng.uniform(190, 255, 3).astype(np.float32) if bright else rng.uniform(0, 60, 3).astype(np.float32)


def draw(frame: NDArray[np.float32], ink: NDArray[np.float32], x: int, y: int, paint: NDArray[np.float32]) -> None:
    """Draw the ink into the frame, with its top left corner at x, y."""
    height, width = ink.shape
    part = frame[y : y + height, x : x + width]
    part += ink[..., None] * (paint - part)


def write_scattered(folder: Path, *, train: int, val: int, seed: int = 0, sizes: tuple[int, int] = SIZES) -> int:
    """Write folder/train and folder/val with images and a COCO _annotations.coco.json. Returns the number of boxes."""
    total = 0
    for part, count in (("train", train), ("val", val)):
        scatter = Scatter(part, seed, sizes)  # type: ignore[arg-type]
        (folder / part).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            frame, digits = scatter(i)
            name = f"{i:05}.jpg"
            cv2.imwrite(str(folder / part / name), frame, [cv2.IMWRITE_JPEG_QUALITY, 92])
            images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
            annotations += [
                {"id": total + k, "image_id": i, "category_id": d.label, "bbox": [d.x, d.y, d.width, d.height]}
                for k, d in enumerate(digits)
            ]
            total += len(digits)
        categories = [{"id": k, "name": str(k)} for k in range(10)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / part / "_annotations.coco.json").write_text(json.dumps(document))
    return total


def _overlap(box: tuple[int, int, int, int], d: Digit) -> bool:
    x, y, width, height = box
    return x < d.x + d.width and d.x < x + width and y < d.y + d.height and d.y < y + height


def write_moving(
    path: Path, *, seconds: float = 20.0, fps: int = 15, count: int = 3, seed: int = 0
) -> list[list[Digit]]:
    """Write a clip in which held-out digits move over a photograph, turn at its edges, and cross.

    Returns the digits of each frame, always in the same order. The first ones pass behind the others.
    """
    scatter = Scatter("val", seed)
    rng = np.random.default_rng((seed, 2))
    ground = scatter.background(rng)
    moving = []
    for _ in range(count):
        k = int(rng.integers(len(scatter.scans)))
        ink = glyph(scatter.scans[k], int(rng.integers(64, 100)), rng.uniform(-8, 8))
        room = np.asarray([WIDTH - ink.shape[1], HEIGHT - ink.shape[0]], np.float64)
        at, speed = rng.uniform(0, 1, 2) * room, rng.uniform(20, 60, 2) * rng.choice([-1, 1], 2)
        x, y = at.astype(int)
        paint = colour(ground[y : y + ink.shape[0], x : x + ink.shape[1]], rng)
        moving.append((int(scatter.labels[k]), ink, room, at, speed, paint))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (WIDTH, HEIGHT))  # type: ignore[attr-defined]
    truth = []
    for i in range(round(seconds * fps)):
        frame, digits = ground.copy(), []
        for label, ink, room, at, speed, paint in moving:
            way = (at + speed * i / fps) % (2 * room)  # there and back
            x, y = np.minimum(way, 2 * room - way).astype(int).tolist()
            draw(frame, ink, x, y, paint)
            digits.append(Digit(label, x, y, ink.shape[1], ink.shape[0]))
        writer.write(np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8))
        truth.append(digits)
    writer.release()
    return truth
