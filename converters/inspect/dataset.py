"""The content of a detection data set: counts and sizes as text, and a sheet of sample images with their boxes."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sightline.data.dataset import PROBLEM_KINDS
from sightline.data.detection import Box, DetectionDataset, DetectionImage
from sightline.errors import DeviceError
from sightline.files import write_file
from sightline.images import read_image
from sightline.preprocess import Frame

FORMAT_NAMES = {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO"}
# COCO's limits between small, medium and large boxes: area in pixels of the image
MEDIUM_AREA, LARGE_AREA = 32**2, 96**2
MODEL_PX = 320  # a common width of a detector's input
MIN_TRAINING_BOXES = 20  # a class with fewer is reported as rare
MIN_SIDE_PX = 8.0  # smaller boxes get the advice to use a larger --image-size
MAX_PROBLEMS = 10  # problems that are listed
CELL, COLUMNS, ROWS = (320, 240), 4, 5  # of the sheet; a cell is (width, height) in pixels
COLOURS = ((60, 220, 255), (120, 255, 120), (255, 160, 80), (200, 120, 255), (80, 160, 255), (255, 255, 90))


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a detection data set contains.

    train, val: number of training and held-out images.
    boxes: number of boxes.
    empty: images without boxes.
    leaked: images that are in both parts.
    classes: {label: (training boxes, held-out boxes)}.
    sizes: number of small, medium and large boxes by COCO's limits.
    side_px: shorter side of a box in an image of MODEL_PX width or height: (5th percentile, median).
    boxes_per_image: fewest, median, most.
    smallest, largest: (width, height) of the images with the smallest and largest area.
    problem_counts: {kind: number of problems}.
    """

    format: str
    train: int
    val: int
    boxes: int
    empty: int
    leaked: int
    classes: dict[str, tuple[int, int]]
    sizes: tuple[int, int, int]
    side_px: tuple[float, float]
    boxes_per_image: tuple[int, float, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    problem_counts: dict[str, int]
    fingerprint: str


def summarize(data: DetectionDataset) -> Summary:
    """Count images, boxes, classes and problems."""
    images = (*data.train, *data.val)
    counts = [Counter(b.label for p in part for b in p.boxes) for part in (data.train, data.val)]
    areas = [b.width * b.height for p in images for b in p.boxes]
    sides = sorted(min(b.width, b.height) * MODEL_PX / max(p.width, p.height) for p in images for b in p.boxes)
    each = [len(p.boxes) for p in images]
    by_area = sorted(images, key=lambda p: p.width * p.height)
    problems = Counter(p.kind for p in data.problems)
    return Summary(
        format=data.format,
        train=len(data.train),
        val=len(data.val),
        boxes=len(areas),
        empty=sum(n == 0 for n in each),
        leaked=data.leaked,
        classes={label: (counts[0][i], counts[1][i]) for i, label in enumerate(data.labels)},
        sizes=(
            sum(a < MEDIUM_AREA for a in areas),
            sum(MEDIUM_AREA <= a < LARGE_AREA for a in areas),
            sum(a >= LARGE_AREA for a in areas),
        ),
        side_px=(sides[len(sides) // 20], statistics.median(sides)),
        boxes_per_image=(min(each), statistics.median(each), max(each)),
        smallest=(by_area[0].width, by_area[0].height),
        largest=(by_area[-1].width, by_area[-1].height),
        problem_counts={kind: problems[kind] for kind in PROBLEM_KINDS if problems[kind]},
        fingerprint=data.fingerprint,
    )


def render(data: DetectionDataset, s: Summary) -> str:
    """The summary as text for a terminal."""
    wide = max(12, *(len(label) for label in s.classes))
    lines = [
        f"{data.root}: {FORMAT_NAMES[s.format]}, {s.train + s.val:,} images, {s.boxes:,} boxes",
        f"  training {s.train:,}, held out {s.val:,}; "
        f"image sizes {s.smallest[0]}x{s.smallest[1]} to {s.largest[0]}x{s.largest[1]}",
        "",
        f"  {'class':{wide}} {'training':>10} {'held out':>10}",
        *(f"  {label:{wide}} {a:10,} {b:10,}" for label, (a, b) in s.classes.items()),
        "",
        f"  boxes per image: {s.boxes_per_image[0]} to {s.boxes_per_image[2]}, median {s.boxes_per_image[1]:g}; "
        f"{s.empty:,} images have none",
        f"  small {s.sizes[0]:,}, medium {s.sizes[1]:,}, large {s.sizes[2]:,} (limits at 32x32 and 96x96 pixels)",
        f"  shorter side of a box in an image of {MODEL_PX} pixels: median {s.side_px[1]:.0f} pixels, 5 % are under "
        f"{s.side_px[0]:.0f}" + (". A larger --image-size finds more of them." if s.side_px[0] < MIN_SIDE_PX else ""),
    ]
    rare = [label for label, (a, b) in s.classes.items() if a < MIN_TRAINING_BOXES or b < 1]
    if rare:
        lines.append(f"  too few boxes to train or evaluate: {', '.join(rare)}")
    if s.leaked:
        lines.append(f"  {s.leaked} images are in both parts: validation scores will be too high")
    if s.problem_counts:
        lines += ["", "  problems: " + ", ".join(f"{n} {kind}" for kind, n in s.problem_counts.items())]
        more = ["    ..."] if len(data.problems) > MAX_PROBLEMS else []
        lines += [f"    {p.text}" for p in data.problems[:MAX_PROBLEMS]] + more
    return "\n".join(lines)


def to_json(data: DetectionDataset, s: Summary) -> dict[str, Any]:
    """The summary, and every problem."""
    problems = [dataclasses.asdict(p) for p in data.problems]
    return {"data": str(data.root), **dataclasses.asdict(s), "problems": problems}


def write_sheet(path: Path, data: DetectionDataset, seed: int = 0) -> None:
    """Write sample images with their boxes, as evenly over the classes as possible. path: .jpg or .png.

    Raises DeviceError if the image cannot be written.
    """
    cells = [_cell(data, image) for image in _sample(data, COLUMNS * ROWS, seed)]
    rows = -(-len(cells) // COLUMNS)
    sheet = np.full((rows * CELL[1], COLUMNS * CELL[0], 3), 24, np.uint8)
    for i, cell in enumerate(cells):
        y, x = i // COLUMNS * CELL[1], i % COLUMNS * CELL[0]
        sheet[y : y + CELL[1], x : x + CELL[0]] = cell
    done, content = cv2.imencode(path.suffix or ".jpg", sheet)
    if not done:
        raise DeviceError(f"{path}: cannot be written as an image")
    write_file(path, content.tobytes())


def _sample(data: DetectionDataset, count: int, seed: int) -> Sequence[DetectionImage]:
    images = [*data.train, *data.val]
    random.Random(seed).shuffle(images)
    queues = [[p for p in images if any(b.label == i for b in p.boxes)] for i in range(len(data.labels))]
    turns = [q[i] for i in range(len(images)) for q in queues if i < len(q)]
    return list(dict.fromkeys([*turns, *images]))[:count]


def _cell(data: DetectionDataset, sample: DetectionImage) -> Frame:
    """An image scaled to fit a cell, with its boxes."""
    image = read_image(data.root / sample.path)
    scale = min((CELL[0] - 6) / sample.width, (CELL[1] - 6) / sample.height)
    size = max(1, round(sample.width * scale)), max(1, round(sample.height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for box in sample.boxes:
        _draw(small, box, scale, data.labels)
    cell = np.full((CELL[1], CELL[0], 3), 24, np.uint8)
    y, x = (CELL[1] - size[1]) // 2, (CELL[0] - size[0]) // 2
    cell[y : y + size[1], x : x + size[0]] = small
    return cell


def _draw(image: Any, box: Box, scale: float, labels: Sequence[str]) -> None:
    colour = COLOURS[box.label % len(COLOURS)]
    left, top = round(box.x * scale), round(box.y * scale)
    right, bottom = round((box.x + box.width) * scale) - 1, round((box.y + box.height) * scale) - 1
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), 4)
    cv2.rectangle(image, (left, top), (right, bottom), colour, 2)
    name = labels[box.label]
    text = name if name.isascii() else f"#{box.label}"  # OpenCV draws ASCII only
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    base = top - 4 if top > height + 8 else top + height + 4
    cv2.rectangle(image, (left, base - height - 3), (left + width + 4, base + 3), (0, 0, 0), cv2.FILLED)
    cv2.putText(image, text, (left + 2, base), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
