"""What a folder of labelled pictures holds: counts and sizes as text, and a sheet of drawn boxes to look at."""

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

from sightline.data.detection import KINDS, Box, DetectionDataset, DetectionImage
from sightline.errors import DeviceError
from sightline.files import write_file
from sightline.images import read_image
from sightline.preprocess import Frame

NAMES = {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO"}
# COCO's own borders, in pixels of the picture
SMALL, MEDIUM = 32**2, 96**2
MODEL_PX = 320
CELL, COLUMNS, ROWS = (320, 240), 4, 5
COLOURS = ((60, 220, 255), (120, 255, 120), (255, 160, 80), (200, 120, 255), (80, 160, 255), (255, 255, 90))


@dataclasses.dataclass(frozen=True)
class Summary:
    """classes: {label: (training boxes, held-out boxes)}. sizes: boxes that are small, medium, large by COCO's borders.
    side_px: what the shorter side of the boxes is when the picture is MODEL_PX wide or high: (5th percentile, median).
    boxes_each: fewest, median, most of a picture. problems: {kind: how many}."""

    format: str
    train: int
    val: int
    boxes: int
    empty: int
    leaked: int
    classes: dict[str, tuple[int, int]]
    sizes: tuple[int, int, int]
    side_px: tuple[float, float]
    boxes_each: tuple[int, float, int]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    problems: dict[str, int]
    fingerprint: str


def summarize(data: DetectionDataset) -> Summary:
    pictures = (*data.train, *data.val)
    counts = [Counter(b.label for p in part for b in p.boxes) for part in (data.train, data.val)]
    areas = [b.width * b.height for p in pictures for b in p.boxes]
    sides = sorted(min(b.width, b.height) * MODEL_PX / max(p.width, p.height) for p in pictures for b in p.boxes)
    each = [len(p.boxes) for p in pictures]
    by_area = sorted(pictures, key=lambda p: p.width * p.height)
    found = Counter(p.kind for p in data.problems)
    return Summary(
        format=data.format,
        train=len(data.train),
        val=len(data.val),
        boxes=len(areas),
        empty=sum(n == 0 for n in each),
        leaked=data.leaked,
        classes={label: (counts[0][i], counts[1][i]) for i, label in enumerate(data.labels)},
        sizes=(sum(a < SMALL for a in areas), sum(SMALL <= a < MEDIUM for a in areas), sum(a >= MEDIUM for a in areas)),
        side_px=(sides[len(sides) // 20], statistics.median(sides)),
        boxes_each=(min(each), statistics.median(each), max(each)),
        smallest=(by_area[0].width, by_area[0].height),
        largest=(by_area[-1].width, by_area[-1].height),
        problems={kind: found[kind] for kind in KINDS if found[kind]},
        fingerprint=data.fingerprint,
    )


def render(data: DetectionDataset, s: Summary) -> str:
    """For a terminal."""
    wide = max(12, *(len(label) for label in s.classes))
    lines = [
        f"{data.root}: {NAMES[s.format]}, {s.train + s.val:,} pictures, {s.boxes:,} boxes",
        f"  training {s.train:,}, held out {s.val:,}; {s.smallest[0]}x{s.smallest[1]} to {s.largest[0]}x{s.largest[1]}",
        "",
        f"  {'class':{wide}} {'training':>10} {'held out':>10}",
        *(f"  {label:{wide}} {a:10,} {b:10,}" for label, (a, b) in s.classes.items()),
        "",
        f"  boxes of a picture: {s.boxes_each[0]} to {s.boxes_each[2]}, half have {s.boxes_each[1]:g} or fewer; "
        f"{s.empty:,} pictures have none",
        f"  small {s.sizes[0]:,}, medium {s.sizes[1]:,}, large {s.sizes[2]:,} (borders at 32x32 and 96x96 pixels)",
        f"  in a model's {MODEL_PX} pixels the shorter side of half of them is under {s.side_px[1]:.0f}, of 5 % under "
        f"{s.side_px[0]:.0f}" + ("; a larger --image-size sees more of them" if s.side_px[0] < 8 else ""),
    ]
    rare = [label for label, (a, b) in s.classes.items() if a < 20 or b < 1]
    if rare:
        lines.append(f"  few to learn or to judge by: {', '.join(rare)}")
    if s.leaked:
        lines.append(f"  {s.leaked} pictures are in both parts: what is measured on them was learned by heart")
    if s.problems:
        lines += ["", "  wrong: " + ", ".join(f"{n} {kind}" for kind, n in s.problems.items())]
        lines += [f"    {p.text}" for p in data.problems[:10]] + (["    ..."] if len(data.problems) > 10 else [])
    return "\n".join(lines)


def to_json(data: DetectionDataset, s: Summary) -> dict[str, Any]:
    return {"data": str(data.root), **dataclasses.asdict(s), "wrong": [dataclasses.asdict(p) for p in data.problems]}


def write_sheet(path: Path, data: DetectionDataset, seed: int = 0) -> None:
    """Some pictures with their boxes drawn in, as evenly over the classes as there are. path: .jpg or .png."""
    chosen = _chosen(data, COLUMNS * ROWS, seed)
    cells = [_cell(data, picture) for picture in chosen]
    rows = -(-len(cells) // COLUMNS)
    sheet = np.full((rows * CELL[1], COLUMNS * CELL[0], 3), 24, np.uint8)
    for i, cell in enumerate(cells):
        y, x = i // COLUMNS * CELL[1], i % COLUMNS * CELL[0]
        sheet[y : y + CELL[1], x : x + CELL[0]] = cell
    done, content = cv2.imencode(path.suffix or ".jpg", sheet)
    if not done:
        raise DeviceError(f"{path}: cannot be written as a picture")
    write_file(path, content.tobytes())


def _chosen(data: DetectionDataset, count: int, seed: int) -> Sequence[DetectionImage]:
    pictures = [*data.train, *data.val]
    random.Random(seed).shuffle(pictures)
    queues = [[p for p in pictures if any(b.label == i for b in p.boxes)] for i in range(len(data.labels))]
    turns = [q[i] for i in range(len(pictures)) for q in queues if i < len(q)]
    return list(dict.fromkeys([*turns, *pictures]))[:count]


def _cell(data: DetectionDataset, picture: DetectionImage) -> Frame:
    """A picture as large as fits, with its boxes."""
    image = read_image(data.root / picture.path)
    scale = min((CELL[0] - 6) / picture.width, (CELL[1] - 6) / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for box in picture.boxes:
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
    text = name if name.isascii() else f"#{box.label}"  # OpenCV's letters are ASCII's
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    base = top - 4 if top > height + 8 else top + height + 4
    cv2.rectangle(image, (left, base - height - 3), (left + width + 4, base + 3), (0, 0, 0), cv2.FILLED)
    cv2.putText(image, text, (left + 2, base), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
