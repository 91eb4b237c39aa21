"""Pictures with boxes: read, and each box checked, before anything is learned from them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from sightline.data.formats import Format, RawBox, RawImage, find_format, read_format
from sightline.documents import read_bytes, utf8
from sightline.errors import DataError
from sightline.files import sha256
from sightline.images import decode_image
from sightline.metrics import GroundTruth
from sightline.output_spec import check_label

# what annotators' tools round, and VOC's counting from one
EDGE_PX = 1.5
Kind = Literal["missing picture", "corrupt picture", "other size", "unreadable", "wrong class", "empty", "outside",
               "duplicate"]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Box:
    """label: index. x, y, width, height: pixels of the picture, from the left and the top of its first pixel."""

    label: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class DetectionImage:
    """path: relative to the data set's root. sha256: of the file. width, height: pixels, upright."""

    path: str
    sha256: str
    width: int
    height: int
    boxes: tuple[Box, ...]

    @property
    def truth(self) -> GroundTruth:
        rows = [(b.x, b.y, b.width, b.height) for b in self.boxes]
        return GroundTruth(
            np.asarray([b.label for b in self.boxes], np.int64), np.asarray(rows, np.float64).reshape(-1, 4)
        )


@dataclass(frozen=True)
class Problem:
    """text: where it is and what, for people."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class DetectionDataset:
    """A detection data set. problems: what was wrong, and was left out or mended. leaked: pictures that are, byte for
    byte, in both parts."""

    root: Path
    format: Format
    labels: tuple[str, ...]
    train: tuple[DetectionImage, ...]
    val: tuple[DetectionImage, ...]
    problems: tuple[Problem, ...]
    leaked: int

    @property
    def fingerprint(self) -> str:
        """sha256 over every picture's part, content and boxes: equal exactly for equal data sets and splits."""
        digest = hashlib.sha256()
        for part, pictures in (("train", self.train), ("val", self.val)):
            for p in pictures:
                boxes = ";".join(f"{self.labels[b.label]} {b.x:g} {b.y:g} {b.width:g} {b.height:g}" for b in p.boxes)
                digest.update(f"{part}\0{p.sha256}\0{boxes}\n".encode())
        return digest.hexdigest()


def read_boxes(
    root: Path,
    *,
    kind: Format | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    wrong: Literal["refuse", "skip"] = "refuse",
    progress: Progress | None = None,
) -> DetectionDataset:
    """Read `root` in COCO's, Pascal VOC's or YOLO's form; kind: where more than one lie there.

    Every picture is decoded once, every box is held against it. wrong: `skip` leaves out pictures that are missing or
    corrupt and boxes that are empty, of no class or there twice, and cuts those that reach outside. Without a split of
    its own, `val_fraction` of the pictures is held out by a seeded shuffle of their contents. Raises DataError.
    """
    raw = read_format(root, kind or find_format(root))
    if not raw.pictures:
        raise DataError(f"{root}: no pictures are annotated")
    for label in raw.labels:
        try:
            check_label(label)
        except ValueError as e:
            raise DataError(f"{root}: {e}; rename the class") from None
    problems: list[Problem] = []
    read: list[tuple[str, DetectionImage]] = []
    with ThreadPoolExecutor(8) as pool:
        for i, (picture, content) in enumerate(zip(raw.pictures, pool.map(_content, raw.pictures), strict=True)):
            if isinstance(content, Problem):
                problems.append(content)
            else:
                digest, width, height = content
                boxes = _checked(picture, width, height, raw.labels, problems)
                path = picture.path.relative_to(root).as_posix()
                read.append((picture.part, DetectionImage(path, digest, width, height, boxes)))
            if progress:
                progress(i + 1, len(raw.pictures))
    if problems and wrong == "refuse":
        counts = Counter(p.kind for p in problems)
        total = ", ".join(f"{n} {kind}" for kind, n in counts.items())
        shown = "".join(f"\n  {p.text}" for p in problems[:10]) + ("\n  ..." if len(problems) > 10 else "")
        raise DataError(
            f"{root}: {len(problems)} things are wrong ({total}); mend them, or leave them out (--corrupt skip):{shown}"
        )
    if any(part == "val" for part, _ in read):
        train, val = ([p for part, p in read if (part == "val") == held] for held in (False, True))
    else:
        train, val = _split([p for _, p in read], val_fraction, seed)
    for name, pictures in (("training", train), ("held-out", val)):
        if not any(p.boxes for p in pictures):
            raise DataError(f"{root}: no box in the {name} pictures; there are {len(pictures)}")
    leaked = len({p.sha256 for p in train} & {p.sha256 for p in val})
    return DetectionDataset(root, raw.format, raw.labels, tuple(train), tuple(val), tuple(problems), leaked)


def _content(picture: RawImage) -> tuple[str, int, int] | Problem:
    """(sha256, width, height) of the file."""
    name = str(picture.path)
    try:
        data = read_bytes(picture.path, DataError)
    except DataError as e:
        return Problem("missing picture", f"{e}; {picture.where} names it")
    if not utf8(name):
        return Problem("unreadable", f"{name!r}: its name is not UTF-8; rename it")
    try:
        height, width = decode_image(data, name).shape[:2]
    except DataError as e:
        return Problem("corrupt picture", str(e))
    if picture.size not in (None, (width, height)):
        assert picture.size is not None
        turned = "; was it turned after it was annotated?" if picture.size == (height, width) else ""
        said = f"{picture.size[0]}x{picture.size[1]}"
        return Problem("other size", f"{name}: is {width}x{height}, {picture.where} says {said}{turned}")
    return sha256(data), width, height


def _checked(
    picture: RawImage, width: int, height: int, labels: tuple[str, ...], problems: list[Problem]
) -> tuple[Box, ...]:
    """Its boxes, cut to the picture, without those that are none; what was wrong goes to `problems`."""
    # one file may speak of all pictures
    name = picture.where if Path(picture.where).stem == picture.path.stem else f"{picture.where}, {picture.path.name}"
    problems += [Problem("unreadable", f"{name}: {error}") for error in picture.errors]
    kept: dict[Box, None] = {}
    for i, raw in enumerate(picture.boxes, 1):
        where = f"{name}: box {i} ({raw.label} {_shown(raw)})"
        if raw.label not in labels:
            known = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
            problems.append(Problem("wrong class", f"{where}: the classes are {known}"))
            continue
        scale_x, scale_y = (width, height) if raw.relative else (1, 1)
        left, top = raw.x * scale_x, raw.y * scale_y
        right, bottom = left + raw.width * scale_x, top + raw.height * scale_y
        if not (right > left and bottom > top):
            problems.append(Problem("empty", f"{where}: has no area"))
            continue
        if min(left, top) < -EDGE_PX or right > width + EDGE_PX or bottom > height + EDGE_PX:
            problems.append(Problem("outside", f"{where}: reaches outside of the picture, which is {width}x{height}"))
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if not (right > left and bottom > top):
            continue
        box = Box(labels.index(raw.label), left, top, right - left, bottom - top)
        if box in kept:
            problems.append(Problem("duplicate", f"{where}: is there twice"))
            continue
        kept[box] = None
    return tuple(kept)


def _shown(raw: RawBox) -> str:
    digits = ".4g" if raw.relative else ".6g"
    return " ".join(f"{v:{digits}}" for v in (raw.x, raw.y, raw.width, raw.height))


def _split(
    pictures: list[DetectionImage], fraction: float, seed: int
) -> tuple[list[DetectionImage], list[DetectionImage]]:
    """By content, not by name, so that equal pictures stay on one side; of each side at least one."""
    order = sorted({p.sha256 for p in pictures})
    random.Random(seed).shuffle(order)
    held = set(order[: max(1, round(len(order) * fraction))]) if len(order) > 1 else set()
    return [p for p in pictures if p.sha256 not in held], [p for p in pictures if p.sha256 in held]
