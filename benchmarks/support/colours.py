"""A data set of noisy images in three colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

LABELS = ("blue", "green", "red")
BGR = {"blue": (190, 50, 40), "green": (45, 180, 50), "red": (40, 50, 200)}
SIZE = 32  # pixels; width and height of the models' input


def coloured(label: str, rng: np.random.Generator, width: int = 48, height: int = 40) -> np.ndarray[Any, Any]:
    """uint8 [height, width, 3], BGR: a noisy image whose mean colour shows its class."""
    image = np.asarray(BGR[label]) + rng.normal(0, 25, (height, width, 3)) + rng.uniform(-25, 25)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_coloured(root: Path, each: int, seed: int = 0) -> Path:
    """Write class folders with `each` images of each label. Returns `root`."""
    rng = np.random.default_rng(seed)
    for label in LABELS:
        (root / label).mkdir(parents=True)
        for i in range(each):
            cv2.imwrite(str(root / label / f"{i:03}.png"), coloured(label, rng))
    return root
