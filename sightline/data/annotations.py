"""Annotations as a file has them, unchecked, and what the readers of all formats share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sightline.documents import inside, is_file, shortened
from sightline.errors import DataError
from sightline.images import SUFFIXES

Format = Literal["coco", "voc", "yolo"]
Part = Literal["train", "val", ""]
VAL_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class RawBox:
    """A box as it is written.

    label: class name; an index without a name is written as `#7`.
    x, y, width, height: pixels, from the left and the top.
    relative: whether the four are fractions of the image instead.
    """

    label: str
    x: float
    y: float
    width: float
    height: float
    relative: bool = False


@dataclass(frozen=True)
class RawImage:
    """An image as it is annotated.

    path: of the image file.
    part: "" if the data set has no split.
    size: (width, height) in the annotation; None if it has none.
    boxes: in the order of the file.
    where: the annotation file.
    errors: lines of that file that cannot be read.
    """

    path: Path
    part: Part
    size: tuple[int, int] | None
    boxes: tuple[RawBox, ...]
    where: str
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawDataset:
    """A data set as it is annotated.

    format: of its annotations.
    labels: in the order of the format; VOC has no order, so they are sorted.
    images: in the order of the annotation files.
    """

    format: Format
    labels: tuple[str, ...]
    images: tuple[RawImage, ...]


def part_of(name: str) -> Part:
    """The part that a file or folder name stands for: `instances_val2017`, `train`, `valid`."""
    lower = name.lower()
    if any(word in lower for word in VAL_NAMES):
        return "val"
    return "train" if "train" in lower else ""


def image_files(folder: Path) -> Iterator[Path]:
    """The image files below `folder`, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and is_file(path):
            yield path


def images_by_name(root: Path) -> dict[str, list[Path]]:
    """The image files of each name, in any folder: annotations often have paths of another machine."""
    by_name: dict[str, list[Path]] = {}
    for path in image_files(root):
        by_name.setdefault(path.name, []).append(path)
    return by_name


def locate(root: Path, near: Path, name: str, by_name: Mapping[str, list[Path]]) -> Path:
    """The image file that an annotation names: its path from the root or the annotation's folder, or its name alone.

    Always inside the root: a data set from a stranger must not choose which other files of this machine are read.
    """
    for folder in (root, near, root / "images", near.parent / "images"):
        path = inside(folder, name)
        if name and path and path.is_relative_to(root) and is_file(path):
            return path
    same = by_name.get(Path(name).name, [])
    return same[0] if len(same) == 1 else root / Path(name).name


def class_name(value: object, where: str) -> str:
    """A class may be called 7. `yes` without quotes is not a name but true."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise DataError(f"{where}: the class name {shortened(repr(value))} is not text. Put it in quotes.")
    return str(value)


def four_numbers(values: Any) -> tuple[float, float, float, float]:
    """Raises ValueError or TypeError unless `values` are four finite numbers."""
    a, b, c, d = (float(v) for v in values)
    if not all(map(math.isfinite, (a, b, c, d))):
        raise ValueError("not finite")
    return a, b, c, d
