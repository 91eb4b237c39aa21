"""Images with boxes: read, and each box checked, before anything is learned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

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
from sightline.data.formats import Format, RawBox, RawImage, find_format, read_format
from sightline.documents import read_bytes, utf8
from sightline.errors import DataError
from sightline.files import sha256
from sightline.images import decode_image
from sightline.metrics import GroundTruth

# a box may reach this far beyond the image: annotation tools round, and VOC counts from one
EDGE_PX = 1.5


@dataclass(frozen=True)
class Box:
    """A box of an image.

    label: index of its class.
    x, y, width, height: pixels of the image, from the left and the top of its first pixel.
    """

    label: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class DetectionImage(LabelledImage):
    """An image with its boxes.

    width, height: pixels, upright.
    boxes: cut to the image.
    """

    width: int
    height: int
    boxes: tuple[Box, ...]

    @property
    def main_class(self) -> int:
        return self.boxes[0].label if self.boxes else -1

    def identity(self, labels: Sequence[str]) -> str:
        boxes = ";".join(f"{labels[b.label]} {b.x:g} {b.y:g} {b.width:g} {b.height:g}" for b in self.boxes)
        return f"{self.sha256}\0{boxes}"

    @property
    def truth(self) -> GroundTruth:
        rows = [(b.x, b.y, b.width, b.height) for b in self.boxes]
        return GroundTruth(
            np.asarray([b.label for b in self.boxes], np.int64), np.asarray(rows, np.float64).reshape(-1, 4)
        )


@dataclass(frozen=True)
class DetectionDataset(Dataset[DetectionImage]):
    """A data set with boxes. format: how its annotations are written."""

    format: Format


def read_boxes(
    root: Path,
    *,
    kind: Format | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    wrong: Literal["refuse", "skip"] = "refuse",
    progress: Progress | None = None,
) -> DetectionDataset:
    """Read `root`, with annotations of COCO, Pascal VOC or YOLO.

    Every image is decoded once, and every box is checked against it. Without a split of its own, `val_fraction` of the
    images is held out by a seeded shuffle of their contents.

    kind: which format to read if the folder has more than one.
    wrong: "skip" leaves out images that are missing or corrupt and boxes that are empty, of no class or duplicates,
        and cuts boxes that reach outside.
    progress: called with (images that are read, all images).

    Raises DataError.
    """
    raw = read_format(root, kind or find_format(root))
    if not raw.images:
        raise DataError(f"{root}: no images are annotated")
    check_labels(root, raw.labels, "class")
    problems: list[Problem] = []
    entries: list[tuple[str, DetectionImage]] = []
    for annotated, content in read_in_parallel(raw.images, _read_content, progress):
        if isinstance(content, Problem):
            problems.append(content)
        else:
            digest, width, height = content
            boxes = _checked_boxes(annotated, (width, height), raw.labels, problems)
            path = annotated.path.relative_to(root).as_posix()
            entries.append((annotated.part, DetectionImage(path, digest, width, height, boxes)))
    if problems and wrong == "refuse":
        counts = Counter(p.kind for p in problems)
        total = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        raise DataError(
            f"{root}: {len(problems)} problems ({total}). Repair them, or pass --corrupt skip:{listed(problems)}"
        )
    train, val = _split(entries, val_fraction, seed)
    for name, images in (("training", train), ("held-out", val)):
        if not any(image.boxes for image in images):
            raise DataError(f"{root}: none of the {len(images)} {name} images has a box")
    return DetectionDataset(root, raw.labels, tuple(train), tuple(val), tuple(problems), raw.format)


def _read_content(annotated: RawImage) -> tuple[str, int, int] | Problem:
    """(sha256, width, height) of the file."""
    name = str(annotated.path)
    try:
        data = read_bytes(annotated.path, DataError)
    except DataError as e:
        return Problem("missing image", f"{e} (listed in {annotated.where})")
    if not utf8(name):
        return Problem("unreadable", f"{name!r}: the name is not UTF-8. Rename it.")
    try:
        height, width = decode_image(data, name).shape[:2]
    except DataError as e:
        return Problem("corrupt image", str(e))
    size = annotated.size
    if size is not None and size != (width, height):
        hint = ". Was it rotated after it was annotated?" if size == (height, width) else ""
        text = f"{name}: is {width}x{height}, but {annotated.where} has {size[0]}x{size[1]}{hint}"
        return Problem("other size", text)
    return sha256(data), width, height


def _checked_boxes(
    annotated: RawImage, size: tuple[int, int], labels: tuple[str, ...], problems: list[Problem]
) -> tuple[Box, ...]:
    """The valid boxes, cut to the image. What is wrong is appended to `problems`. size: (width, height)."""
    # one file may hold the boxes of all images
    file, path = annotated.where, annotated.path
    name = file if Path(file).stem == path.stem else f"{file}, {path.name}"
    problems += [Problem("unreadable", f"{name}: {error}") for error in annotated.errors]
    width, height = size
    boxes: dict[Box, None] = {}
    for i, raw in enumerate(annotated.boxes, 1):
        where = f"{name}: box {i} ({raw.label} {_coordinates(raw)})"
        if raw.label not in labels:
            known = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            problems.append(Problem("wrong class", f"{where}: unknown class. The classes are: {known}"))
            continue
        scale_x, scale_y = (width, height) if raw.relative else (1, 1)
        left, top = raw.x * scale_x, raw.y * scale_y
        right, bottom = left + raw.width * scale_x, top + raw.height * scale_y
        if not (right > left and bottom > top):
            problems.append(Problem("empty", f"{where}: has no area"))
            continue
        if min(left, top) < -EDGE_PX or right > width + EDGE_PX or bottom > height + EDGE_PX:
            problems.append(Problem("outside", f"{where}: reaches outside the image, which is {width}x{height}"))
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if not (right > left and bottom > top):
            continue
        box = Box(labels.index(raw.label), left, top, right - left, bottom - top)
        if box in boxes:
            problems.append(Problem("duplicate", f"{where}: is a duplicate"))
            continue
        boxes[box] = None
    return tuple(boxes)


def _coordinates(raw: RawBox) -> str:
    digits = ".4g" if raw.relative else ".6g"
    return " ".join(f"{v:{digits}}" for v in (raw.x, raw.y, raw.width, raw.height))


def _split(
    entries: Sequence[tuple[str, DetectionImage]], fraction: float, seed: int
) -> tuple[list[DetectionImage], list[DetectionImage]]:
    """(training, held-out) images: by the data set's own split, or by content."""
    images = [image for _, image in entries]
    if any(part == "val" for part, _ in entries):
        held = [part == "val" for part, _ in entries]
    else:
        digests = hold_out((image.sha256 for image in images), fraction, seed)
        held = [image.sha256 in digests for image in images]
    pairs = list(zip(images, held, strict=True))
    return [image for image, out in pairs if not out], [image for image, out in pairs if out]
