"""A folder of labelled pictures: read, checked to the last byte, and split, before anything is learned from it."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from sightline.data.detection import DetectionImage
from sightline.documents import is_file, utf8
from sightline.errors import DataError
from sightline.files import sha256
from sightline.images import SUFFIXES, decode_image, read_image
from sightline.output_spec import check_label
from sightline.preprocess import Frame, InputSpec, Preprocessor
from sightline.strict_config import near

VAL_NAMES = ("val", "valid", "validation")
Progress = Callable[[int, int], None]
AnyImage = TypeVar("AnyImage", "ClassificationImage", DetectionImage)


@dataclass(frozen=True)
class ClassificationImage:
    """path: relative to the data set's root. label: index into `labels`. sha256: of the file."""

    path: str
    label: int
    sha256: str


@dataclass(frozen=True)
class ClassificationDataset:
    """A classification data set. skipped: what was left out, each as 'path: why'. leaked: pictures that are, byte for
    byte, in both parts."""

    root: Path
    labels: tuple[str, ...]
    train: tuple[ClassificationImage, ...]
    val: tuple[ClassificationImage, ...]
    skipped: tuple[str, ...]
    leaked: int

    @property
    def fingerprint(self) -> str:
        """sha256 over every picture's part, class and content: equal exactly for equal data sets and splits."""
        digest = hashlib.sha256()
        for part, pictures in (("train", self.train), ("val", self.val)):
            for p in pictures:
                digest.update(f"{part}\0{self.labels[p.label]}\0{p.sha256}\n".encode())
        return digest.hexdigest()


def read_class_folders(
    root: Path,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    corrupt: Literal["refuse", "skip"] = "refuse",
    progress: Progress | None = None,
) -> ClassificationDataset:
    """Read `root`, with one subfolder per class, or with train/ and val/ that each have them.

    Every picture is decoded once. Without val/, `val_fraction` of each class is held out by a seeded shuffle: at least
    one picture a class, and pictures with equal content stay on the same side. progress: called with (done, total).
    Raises DataError: no classes, an empty class, classes that differ between the parts, corrupt pictures.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; a folder with one subfolder of pictures per class is needed")
    folders = _subfolders(root)
    split = next((name for name in VAL_NAMES if name in folders), None)
    if "train" in folders and split:
        listed = {"train": _listed(root, "train"), "val": _listed(root, split)}
        labels = _common_labels(root, split, listed)
    elif "train" in folders:
        listed = {"train": _listed(root, "train")}
        labels = tuple(listed["train"])
    else:
        listed = {"train": _listed(root, "")}
        labels = tuple(listed["train"])
    for name in labels:
        try:
            check_label(name)
        except ValueError as e:
            raise DataError(f"{root}: {e}; rename the folder") from None
    if len(labels) < 2:
        raise DataError(f"{root}: only one class, {labels[0]!r}; a classifier needs two or more subfolders")

    entries = [
        (part, labels.index(label), path)
        for part, classes in listed.items()
        for label, paths in classes.items()
        for path in paths
    ]
    bad: list[str] = []
    kept: dict[str, list[ClassificationImage]] = {"train": [], "val": []}
    with ThreadPoolExecutor(8) as pool:
        for i, ((part, label, path), outcome) in enumerate(zip(entries, pool.map(_check, entries), strict=True)):
            if isinstance(outcome, DataError):
                bad.append(str(outcome))
            else:
                kept[part].append(ClassificationImage(path.relative_to(root).as_posix(), label, outcome))
            if progress:
                progress(i + 1, len(entries))
    if bad and corrupt == "refuse":
        shown = "".join(f"\n  {line}" for line in bad[:10]) + ("\n  ..." if len(bad) > 10 else "")
        raise DataError(
            f"{root}: {len(bad)} of {len(entries)} pictures are corrupt (mend or remove them, or give --corrupt skip):"
            + shown
        )
    train, val = kept["train"], kept["val"]
    if "val" not in listed:
        train, val = _split(train, len(labels), val_fraction, seed)
    for part, pictures in (("training", train), ("held-out", val)):
        counts = Counter(p.label for p in pictures)
        empty = [label for i, label in enumerate(labels) if not counts[i]]
        if empty:
            raise DataError(
                f"{root}: no {part} pictures of {', '.join(empty)}; each class needs at least 2 different pictures"
            )
    leaked = len({p.sha256 for p in train} & {p.sha256 for p in val})
    return ClassificationDataset(root, labels, tuple(train), tuple(val), tuple(bad), leaked)


def balanced(pictures: Sequence[AnyImage], count: int, seed: int) -> list[AnyImage]:
    """`count` pictures, or all, as evenly over the classes as there are; a function of the seed. Of a picture with
    boxes the first one's class counts."""
    queues: dict[int, list[AnyImage]] = {}
    for p in random.Random(seed).sample(list(pictures), len(pictures)):
        queues.setdefault(_class_of(p), []).append(p)
    turns = [queue[i] for i in range(len(pictures)) for _, queue in sorted(queues.items()) if i < len(queue)]
    return turns[:count]


def _class_of(picture: ClassificationImage | DetectionImage) -> int:
    if isinstance(picture, ClassificationImage):
        return picture.label
    return picture.boxes[0].label if picture.boxes else -1


def read_frames(
    root: Path, pictures: Sequence[ClassificationImage] | Sequence[DetectionImage], spec: InputSpec
) -> Frame:
    """uint8 [n, spec.height, spec.width, 3]: the pictures as the model takes them."""
    preprocess = Preprocessor(spec)
    return np.stack([preprocess(read_image(root / p.path)) for p in pictures])


def _check(entry: tuple[str, int, Path]) -> str | DataError:
    path = entry[2]
    if not utf8(str(path)):
        return DataError(f"{str(path)!r}: its name is not UTF-8; rename it")
    try:
        data = path.read_bytes()
        decode_image(data, str(path))
    except OSError as e:
        return DataError(f"{path}: cannot be read: {e.strerror}")
    except DataError as e:
        return e
    return sha256(data)


def _subfolders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _listed(root: Path, part: str) -> dict[str, list[Path]]:
    """{label: pictures}, both sorted by name, of root/part."""
    folder = root / part
    classes = {
        name: sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES and is_file(p))
        for name in _subfolders(folder)
    }
    if not classes:
        loose = sum(p.suffix.lower() in SUFFIXES for p in folder.iterdir())
        found = f"{loose} pictures but no subfolders" if loose else "no subfolders"
        raise DataError(f"{folder}: {found}; each class needs a subfolder of its own, named after it")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise DataError(f"{folder}: no pictures in {', '.join(empty)} (known endings: {', '.join(SUFFIXES)})")
    return classes


def _common_labels(root: Path, val: str, listed: dict[str, dict[str, list[Path]]]) -> tuple[str, ...]:
    train = tuple(listed["train"])
    for label in listed["val"]:
        if label not in train:
            raise DataError(f"{root / val / label}: this class is not in {root / 'train'}{near(label, train)}")
    for label in train:
        if label not in listed["val"]:
            raise DataError(f"{root / 'train' / label}: this class is not in {root / val}")
    return train


def _split(
    pictures: Sequence[ClassificationImage], classes: int, fraction: float, seed: int
) -> tuple[list[ClassificationImage], list[ClassificationImage]]:
    held: set[str] = set()
    for label in range(classes):
        # shuffled by content, not by name: renaming or copying the folder changes nothing
        order = sorted({p.sha256 for p in pictures if p.label == label})
        random.Random(f"{seed}/{label}").shuffle(order)
        held.update(order[: max(1, round(len(order) * fraction)) if len(order) > 1 else 0])
    train = sorted((p for p in pictures if p.sha256 not in held), key=lambda p: p.path)
    return train, sorted((p for p in pictures if p.sha256 in held), key=lambda p: p.path)
