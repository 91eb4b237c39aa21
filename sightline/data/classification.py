"""A folder of labelled images for classification: read, decoded once, and split before anything is learned from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sightline.data.dataset import (
    Dataset,
    LabelledImage,
    Problem,
    Progress,
    check_labels,
    hold_out,
    listed,
    read_in_parallel,
)
from sightline.documents import is_file, read_bytes, utf8
from sightline.errors import DataError
from sightline.files import sha256
from sightline.images import SUFFIXES, decode_image
from sightline.strict_config import near

VAL_NAMES = ("val", "valid", "validation")
Part = Literal["train", "val"]
ClassFiles = dict[str, list[Path]]  # the image files of each class


@dataclass(frozen=True)
class ClassificationImage(LabelledImage):
    """An image of one class. label: index into the data set's `labels`."""

    label: int

    @property
    def main_class(self) -> int:
        return self.label

    def identity(self, labels: Sequence[str]) -> str:
        return f"{labels[self.label]}\0{self.sha256}"


@dataclass(frozen=True)
class ClassificationDataset(Dataset[ClassificationImage]):
    """A data set with one class per image."""


@dataclass(frozen=True)
class _Entry:
    part: Part
    label: int
    path: Path


def read_class_folders(
    root: Path,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    corrupt: Literal["refuse", "skip"] = "refuse",
    progress: Progress | None = None,
) -> ClassificationDataset:
    """Read `root`, with one subfolder per class, or with train/ and val/ that each have them.

    Every image is decoded once. Without val/, `val_fraction` of each class is held out by a seeded shuffle: at least
    one image per class, and images with equal content stay on the same side.

    corrupt: "skip" leaves out images that cannot be decoded.
    progress: called with (images that are read, all images).

    Raises DataError if there are no classes, a class is empty, the parts have different classes, or images are corrupt.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Pass a folder with one subfolder of images per class.")
    parts = _read_parts(root)
    labels = tuple(parts["train"])
    check_labels(root, labels, "folder")
    if len(labels) < 2:
        raise DataError(f"{root}: only one class, {labels[0]!r}. A classifier needs two or more subfolders.")
    entries = [
        _Entry(part, labels.index(label), path)
        for part, classes in parts.items()
        for label, paths in classes.items()
        for path in paths
    ]
    problems: list[Problem] = []
    images: dict[Part, list[ClassificationImage]] = {"train": [], "val": []}
    for entry, content in read_in_parallel(entries, _read_digest, progress):
        if isinstance(content, Problem):
            problems.append(content)
        else:
            path = entry.path.relative_to(root).as_posix()
            images[entry.part].append(ClassificationImage(path, content, entry.label))
    if problems and corrupt == "refuse":
        raise DataError(
            f"{root}: {len(problems)} of {len(entries)} images are corrupt. Repair or remove them, or pass "
            f"--corrupt skip:{listed(problems)}"
        )
    train, val = images["train"], images["val"]
    if "val" not in parts:
        train, val = _split(train, len(labels), val_fraction, seed)
    _check_each_class(root, labels, train, "training")
    _check_each_class(root, labels, val, "held-out")
    return ClassificationDataset(root, labels, tuple(train), tuple(val), tuple(problems))


def _read_parts(root: Path) -> dict[Part, ClassFiles]:
    """The files of each part. Only "train" if the folder has no split of its own."""
    folders = _subfolders(root)
    if "train" not in folders:
        return {"train": _class_files(root)}
    train = _class_files(root / "train")
    val_name = next((name for name in VAL_NAMES if name in folders), None)
    if val_name is None:
        return {"train": train}
    val = _class_files(root / val_name)
    for label in val:
        if label not in train:
            raise DataError(f"{root / val_name / label}: this class is not in {root / 'train'}{near(label, train)}")
    for label in train:
        if label not in val:
            raise DataError(f"{root / 'train' / label}: this class is not in {root / val_name}")
    return {"train": train, "val": val}


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_files(folder: Path) -> ClassFiles:
    """The image files of each class in `folder`; classes and files are sorted by name."""
    classes = {
        name: sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and is_file(p))
        for name in _subfolders(folder)
    }
    if not classes:
        loose = sum(p.suffix.lower() in SUFFIXES for p in folder.iterdir())
        content = f"{loose} images but no subfolders" if loose else "no subfolders"
        raise DataError(f"{folder}: {content}. Each class needs its own subfolder, named after it.")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise DataError(f"{folder}: no images in {', '.join(empty)} (known suffixes: {', '.join(SUFFIXES)})")
    return classes


def _read_digest(entry: _Entry) -> str | Problem:
    """sha256 of an image file that decodes."""
    path = entry.path
    if not utf8(str(path)):
        return Problem("unreadable", f"{str(path)!r}: the name is not UTF-8. Rename it.")
    try:
        data = read_bytes(path, DataError)
        decode_image(data, str(path))
    except DataError as e:
        return Problem("corrupt image", str(e))
    return sha256(data)


def _split(
    images: Sequence[ClassificationImage], classes: int, fraction: float, seed: int
) -> tuple[list[ClassificationImage], list[ClassificationImage]]:
    """(training, held-out) images, both sorted by path."""
    held: set[str] = set()
    for label in range(classes):
        held |= hold_out((image.sha256 for image in images if image.label == label), fraction, f"{seed}/{label}")
    order = sorted(images, key=lambda image: image.path)
    return [i for i in order if i.sha256 not in held], [i for i in order if i.sha256 in held]


def _check_each_class(root: Path, labels: Sequence[str], images: Sequence[ClassificationImage], part: str) -> None:
    counts = Counter(image.label for image in images)
    empty = [label for i, label in enumerate(labels) if not counts[i]]
    if empty:
        raise DataError(
            f"{root}: no {part} images of {', '.join(empty)}. Each class needs at least 2 different images."
        )
