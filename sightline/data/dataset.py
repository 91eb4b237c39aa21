"""What every labelled data set has: its split, its fingerprint, a balanced choice of its images, and their frames."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar, get_args

import numpy as np

from sightline.errors import DataError
from sightline.images import read_image
from sightline.output_spec import check_label
from sightline.preprocess import Frame, InputSpec, Preprocessor

ProblemKind = Literal["missing image", "corrupt image", "other size", "unreadable", "wrong class", "empty", "outside",
                      "duplicate"]  # fmt: skip
PROBLEM_KINDS: tuple[ProblemKind, ...] = get_args(ProblemKind)
Progress = Callable[[int, int], None]  # called with (images that are read, all images)
MAX_LISTED = 10  # problems that an error message lists

Item = TypeVar("Item")
Content = TypeVar("Content")


@dataclass(frozen=True)
class LabelledImage(ABC):
    """An image file with its label.

    path: relative to the data set's root.
    sha256: of the file.
    """

    path: str
    sha256: str

    @property
    @abstractmethod
    def main_class(self) -> int:
        """Index of the class for which `balanced` counts the image; -1 if it has none."""

    @abstractmethod
    def identity(self, labels: Sequence[str]) -> str:
        """The content and the label as text, for the fingerprint."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image or its label.

    kind: one of `PROBLEM_KINDS`.
    text: file, place and reason, for people.
    """

    kind: ProblemKind
    text: str


Image = TypeVar("Image", bound=LabelledImage, covariant=True)


@dataclass(frozen=True)
class Dataset(Generic[Image]):
    """A labelled data set that has been read and checked.

    root: folder of the images.
    labels: class names, in the order of the class indices.
    train: images to learn from.
    val: held-out images.
    problems: what was left out or corrected.
    """

    root: Path
    labels: tuple[str, ...]
    train: tuple[Image, ...]
    val: tuple[Image, ...]
    problems: tuple[Problem, ...]

    @property
    def leaked(self) -> int:
        """Number of different images that are in both parts, byte for byte."""
        return len({image.sha256 for image in self.train} & {image.sha256 for image in self.val})

    @property
    def fingerprint(self) -> str:
        """sha256 over each image's part, content and label. Equal only for equal data sets with equal splits."""
        digest = hashlib.sha256()
        for part, images in (("train", self.train), ("val", self.val)):
            for image in images:
                digest.update(f"{part}\0{image.identity(self.labels)}\n".encode())
        return digest.hexdigest()


def check_labels(root: Path, labels: Iterable[str], noun: str) -> None:
    """Raise DataError for a label that a bundle could not hold. noun: what the user has to rename."""
    for label in labels:
        try:
            check_label(label)
        except ValueError as e:
            raise DataError(f"{root}: {e}. Rename the {noun}.") from None


def read_in_parallel(
    items: Sequence[Item], read: Callable[[Item], Content], progress: Progress | None
) -> Iterator[tuple[Item, Content]]:
    """Yield each item with what `read` returns for it, in order. Eight threads read."""
    with ThreadPoolExecutor(8) as pool:
        for count, pair in enumerate(zip(items, pool.map(read, items), strict=True), 1):
            yield pair
            if progress:
                progress(count, len(items))


def listed(problems: Sequence[Problem]) -> str:
    """The first problems, one line each, for the end of an error message."""
    lines = [problem.text for problem in problems[:MAX_LISTED]] + ["..."] * (len(problems) > MAX_LISTED)
    return "".join(f"\n  {line}" for line in lines)


def hold_out(digests: Iterable[str], fraction: float, seed: int | str) -> set[str]:
    """Choose `fraction` of the contents, at least one if there are two, by a seeded shuffle.

    digests: sha256 of the images. The choice depends on contents and not on names: renaming or copying the folder
    changes nothing, and images with equal contents stay on the same side.
    """
    order = sorted(set(digests))
    random.Random(seed).shuffle(order)
    return set(order[: max(1, round(len(order) * fraction))]) if len(order) > 1 else set()


def balanced(images: Sequence[Image], count: int, seed: int) -> list[Image]:
    """Choose up to `count` images, as evenly over the classes as possible; a function of the seed.

    An image with boxes counts for the class of its first box.
    """
    queues: dict[int, list[Image]] = {}
    for image in random.Random(seed).sample(list(images), len(images)):
        queues.setdefault(image.main_class, []).append(image)
    turns = [queue[i] for i in range(len(images)) for _, queue in sorted(queues.items()) if i < len(queue)]
    return turns[:count]


def read_frames(root: Path, images: Sequence[LabelledImage], spec: InputSpec) -> Frame:
    """uint8 [n, spec.height, spec.width, 3]: the images as the model takes them."""
    preprocess = Preprocessor(spec)
    return np.stack([preprocess(read_image(root / image.path)) for image in images])
