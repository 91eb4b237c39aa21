"""The frames that calibrate a model or become its golden samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.documents import is_file
from sightline.errors import DataError
from sightline.images import SUFFIXES, read_image
from sightline.npz import unpack
from sightline.preprocess import Frame, InputSpec, Preprocessor
from sightline.run_folder import CALIBRATION_FRAMES


def calibration_frames(path: Path, spec: InputSpec) -> Frame:
    """uint8 [n, height, width, 3] from a folder of images, or from an .npz with `frames`. Raises DataError."""
    if path.suffix == ".npz" and path.is_file():
        frames = unpack(path.read_bytes(), str(path), "frames")["frames"]
        check_frames(frames, spec, str(path))
        return frames
    return read_frames(spread(list_images(path), CALIBRATION_FRAMES), spec)


def list_images(path: Path) -> list[Path]:
    """The images of a folder and its subfolders, sorted. Raises DataError where there are none."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of calibration images, nor an .npz with `frames`")
    paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and is_file(p))
    if not paths:
        raise DataError(f"{path}: no images to calibrate with (known endings: {', '.join(SUFFIXES)})")
    return paths


def spread(paths: list[Path], count: int) -> list[Path]:
    """`count` of the paths, evenly over their order, which is often that of class or time."""
    return paths[:: max(1, len(paths) // count)][:count]


def read_frames(paths: list[Path], spec: InputSpec) -> Frame:
    """uint8 [n, height, width, 3]. Raises DataError."""
    preprocess = Preprocessor(spec)
    return np.stack([preprocess(read_image(p)) for p in paths])


def check_frames(frames: NDArray[Any], spec: InputSpec, name: str) -> None:
    """Raises DataError for an array that is not uint8 [n, height, width, 3]."""
    size = (spec.height, spec.width, 3)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size or not len(frames):
        actual = f"{frames.dtype} {list(frames.shape)}"
        raise DataError(f"{name}: frames must be uint8 [n, {spec.height}, {spec.width}, 3], not {actual}")
