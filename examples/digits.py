"""Real pictures that need no download: scikit-learn's scans of handwritten digits, and a camera clip made of them.

The scans are 1,797 pictures of 8x8 pixels from 43 people (NIST, UCI ML repository). They are written as they are;
Sightline's own preprocessing enlarges them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 640, 480, 25


def write_pictures(folder: Path) -> int:
    """folder/0 .. folder/9 with the scans as PNG; returns how many."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i, (scan, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.round(scan * (255 / 16)).astype(np.uint8))
    return len(digits.images)


@dataclass(frozen=True)
class Shot:
    """A stretch of the clip: which digit is before the camera from frame `first` up to `last`."""

    label: str
    first: int
    last: int


def write_clip(
    path: Path, pictures: Sequence[tuple[Path, str]], seconds_each: float = 1.0, seed: int = 0
) -> list[Shot]:
    """A camera's view of one (picture, label) after another: an unsteady hand, uneven light, a sensor's noise."""
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write a clip here")
    x, y = np.meshgrid(np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-1, 1, HEIGHT, dtype=np.float32))
    each = round(seconds_each * FPS)
    shots = []
    frame_id = 0
    for number, (picture, label) in enumerate(pictures):
        scan = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE)
        for i in range(each):
            frame = _held(scan, number * each + i)
            lamp = np.float32(0.8 + 0.25 * math.sin(frame_id / 40))
            light = lamp + 0.18 * x * np.float32(math.sin(frame_id / 55)) + 0.12 * y
            frame = frame * light + rng.normal(12, 6, frame.shape).astype(np.float32)
            grey = np.clip(frame, 0, 255).astype(np.uint8)
            writer.write(cv2.merge([grey, grey, grey]))
            frame_id += 1
        shots.append(Shot(label, frame_id - each, frame_id))
    writer.release()
    return shots


def _held(scan: NDArray[np.uint8], t: int) -> NDArray[np.float32]:
    """The scan on a page that sways, turns and comes nearer, [HEIGHT, WIDTH] grey levels."""
    angle = 7 * math.sin(t / 17) + 3 * math.sin(t / 5.3)
    scale = HEIGHT / scan.shape[0] * (0.97 + 0.07 * math.sin(t / 23))
    matrix = cv2.getRotationMatrix2D(((scan.shape[1] - 1) / 2, (scan.shape[0] - 1) / 2), angle, scale)
    matrix[:, 2] += (
        WIDTH / 2 - scan.shape[1] / 2 + 18 * math.sin(t / 13),
        HEIGHT / 2 - scan.shape[0] / 2 + 14 * math.cos(t / 19),
    )
    return cv2.warpAffine(scan, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR).astype(np.float32)
