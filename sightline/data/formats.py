"""Boxes as others write them: COCO's JSON, Pascal VOC's XML, YOLO's text files. What a file says, unjudged.

Sources: the COCO data format (https://cocodataset.org/#format-data), the VOC2012 development kit, section 4, and the
data.yaml of Ultralytics' documentation.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from sightline.documents import inside, is_file, parse_json, read_bytes, read_text, shortened
from sightline.errors import DataError
from sightline.images import SUFFIXES
from sightline.yaml_reader import read_yaml

Format = Literal["coco", "voc", "yolo"]
Part = Literal["train", "val", ""]
_MOST_XML = 64 << 20  # bytes of one picture's boxes
VAL_NAMES = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class RawBox:
    """label: as written; an index that has no name is written as `#7`. x, y, width, height: pixels, from the left and
    the top; relative: fractions of the picture instead."""

    label: str
    x: float
    y: float
    width: float
    height: float
    relative: bool = False


@dataclass(frozen=True)
class RawImage:
    """path: of the file. part: '' where nobody has split the set. size: (width, height) as annotated; None = not said.
    where: the file that says it. errors: lines of it that cannot be read."""

    path: Path
    part: Part
    size: tuple[int, int] | None
    boxes: tuple[RawBox, ...]
    where: str
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawSet:
    """labels: in the order that the format gives them; VOC gives none, and they are sorted."""

    format: Format
    labels: tuple[str, ...]
    pictures: tuple[RawImage, ...]


def find_format(root: Path) -> Format:
    """What lies in `root`. Raises DataError for nothing known, and for more than one."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pictures with boxes are needed (COCO, Pascal VOC or YOLO)")
    found: list[Format] = []
    if _coco_files(root):
        found.append("coco")
    if any(is_file(path) for path in root.rglob("*.xml")):
        found.append("voc")
    broken: DataError | None = None
    try:
        if _data_yaml(root):
            found.append("yolo")
    except DataError as e:
        broken = e
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: has annotations of more than one format; --format says which: {', '.join(found)}")
    if broken:
        raise broken
    raise DataError(
        f"{root}: no annotations: neither COCO's .json with `images` and `annotations`, nor Pascal VOC's .xml, nor "
        "YOLO's data.yaml"
    )


def read_format(root: Path, kind: Format) -> RawSet:
    """Raises DataError for a file of annotations that cannot be read at all."""
    return {"coco": _read_coco, "voc": _read_voc, "yolo": _read_yolo}[kind](root)


def _part_of(name: str) -> Part:
    """By a file's or a folder's name: `instances_val2017`, `train`, `valid`."""
    lower = name.lower()
    if any(word in lower for word in VAL_NAMES):
        return "val"
    return "train" if "train" in lower else ""


def _pictures(root: Path) -> dict[str, list[Path]]:
    """By name, in whatever folder: annotations carry paths of machines that are long gone."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and is_file(path):
            found.setdefault(path.name, []).append(path)
    return found


def _located(root: Path, near: Path, name: str, by_name: Mapping[str, list[Path]]) -> Path:
    """Where a picture is: as it is written, from the root or the annotation's folder, or the one of its name. Always
    inside of the root: a data set that somebody sent does not choose what else of this machine is read."""
    for folder in (root, near, root / "images", near.parent / "images"):
        path = inside(folder, name)
        if name and path and path.is_relative_to(root) and is_file(path):
            return path
    same = by_name.get(Path(name).name, [])
    return same[0] if len(same) == 1 else root / Path(name).name


def _coco_files(root: Path) -> list[Path]:
    files = []
    found = [*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/_annotations.coco.json")]
    for path in sorted(filter(is_file, found)):
        try:
            with path.open("rb") as f:
                head = f.read(4_000_000)
        except OSError as e:
            raise DataError(f"{path}: cannot be read: {e.strerror}") from None
        if (b'"annotations"' in head and b'"images"' in head) or (
            b'"images"' in head and path.stat().st_size > len(head)
        ):
            files.append(path)
    return files


def _read_coco(root: Path) -> RawSet:
    by_name, labels, pictures = _pictures(root), list[str](), list[RawImage]()
    files = _coco_files(root)
    for file in files:
        try:
            data = parse_json(read_bytes(file, DataError))
            names = {c["id"]: _class_name(c["name"], f"{file}: category {i}")
                     for i, c in enumerate(data["categories"], 1)}  # fmt: skip
            images = {i["id"]: i for i in data["images"]}
            if len(images) < len(data["images"]):
                raise ValueError("two images have the same id")
            annotations: dict[Any, list[dict[str, Any]]] = {i: [] for i in images}
            stray = 0
            for a in data["annotations"]:
                if a["image_id"] in annotations:
                    annotations[a["image_id"]].append(a)
                else:
                    stray += 1
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise DataError(f"{file}: not COCO's form: {type(e).__name__}: {e}") from None
        if stray:
            raise DataError(f"{file}: {stray} annotations are of pictures that it does not list")
        labels += [
            name for _, name in sorted(names.items(), key=lambda item: str(item[0]).zfill(12)) if name not in labels
        ]
        part = (_part_of(file.stem) or _part_of(file.parent.name)) if len(files) > 1 else ""
        for i, image in images.items():
            boxes, errors = [], []
            for a in annotations[i]:
                if a.get("iscrowd"):  # a region of many, which is no object to learn
                    continue
                try:
                    x, y, width, height = _numbers(a["bbox"])
                    boxes.append(RawBox(names.get(a["category_id"], f"#{a['category_id']}"), x, y, width, height))
                except (ValueError, TypeError, KeyError):
                    errors.append(f"annotation {a.get('id')} has no bbox of four numbers, or no category_id")
            where = f"{file}: image {i}"
            sides = [_side(image.get(key), f"{where}: {key}") for key in ("width", "height")]
            size = (sides[0], sides[1]) if all(sides) else None
            name = image.get("file_name", "")
            if not isinstance(name, str):
                raise DataError(f"{where}: file_name {shortened(repr(name))} is no text")
            path = _located(root, file.parent, name, by_name)
            pictures.append(RawImage(path, part, size, tuple(boxes), str(file), tuple(errors)))
    return RawSet("coco", tuple(labels), tuple(pictures))


def _read_voc(root: Path) -> RawSet:
    by_name, pictures = _pictures(root), list[RawImage]()
    parts = {
        line.split()[0]: _part_of(file.stem)
        for file in root.glob("ImageSets/Main/*.txt")
        if file.stem in ("train", "val", "test")
        for line in read_text(file, DataError).splitlines()
        if line.strip()
    }
    labels: set[str] = set()
    for file in sorted(filter(is_file, root.rglob("*.xml"))):
        try:
            tree = ElementTree.fromstring(read_bytes(file, DataError, _MOST_XML))
        except (ElementTree.ParseError, LookupError, ValueError) as e:  # the last two: of its encoding
            raise DataError(f"{file}: not XML that can be read: {e}") from None
        if tree.tag != "annotation":
            continue
        boxes, errors = [], []
        for i, thing in enumerate(tree.iter("object")):
            label = (thing.findtext("name") or "").strip()
            try:
                x1, y1, x2, y2 = _numbers([thing.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax")])
            except (ValueError, TypeError):
                errors.append(f"object {i + 1} has no bndbox of four numbers")
                continue
            boxes.append(RawBox(label, x1, y1, x2 - x1, y2 - y1))
            labels.add(label)
        name = (tree.findtext("filename") or "").strip()
        path = _located(root, file.parent, name, by_name)
        if not is_file(path):  # many tools keep the picture's name in the annotation's own name alone
            same = [p for suffix in SUFFIXES for p in by_name.get(file.stem + suffix, [])]
            path = same[0] if len(same) == 1 else path
        width, height = tree.findtext("size/width") or "", tree.findtext("size/height") or ""
        sides = [int(text) if text.isdecimal() and len(text) < 10 else 0 for text in (width, height)]
        size = (sides[0], sides[1]) if all(sides) else None
        part = parts.get(file.stem) or _part_of(file.parent.name)
        pictures.append(RawImage(path, part, size, tuple(boxes), str(file), tuple(errors)))
    return RawSet("voc", tuple(sorted(labels)), tuple(pictures))


def _class_name(value: object, where: str) -> str:
    """A class may be called 7; `yes` without quotes is no name but true."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise DataError(f"{where}: the class name {shortened(repr(value))} is no text; put it in quotes")
    return str(value)


def _numbers(values: Any) -> tuple[float, float, float, float]:
    """Raises ValueError or TypeError for what is not four finite numbers."""
    a, b, c, d = (float(v) for v in values)
    if not all(map(math.isfinite, (a, b, c, d))):
        raise ValueError("not finite")
    return a, b, c, d


def _side(value: object, where: str) -> int:
    """Pixels of an annotated picture; 0 where nothing is said."""
    if value is None:
        return 0
    if not isinstance(value, int | float) or not 0 <= value < 1e6 or value != int(value):
        raise DataError(f"{where} {shortened(repr(value))} is no number of pixels")
    return int(value)


def _data_yaml(root: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The file, and what it holds. Raises DataError where none is one and one of them cannot be read."""
    broken: DataError | None = None
    for path in sorted(filter(is_file, [*root.glob("*.yaml"), *root.glob("*.yml")])):
        try:
            data = read_yaml(path, DataError)
        except DataError as e:
            broken = broken or e
            continue
        if isinstance(data, dict) and "names" in data and ("train" in data or "val" in data):
            return path, data
    if broken:
        raise broken
    return None


def _class_names(file: Path, names: object) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file}: names: a list of the classes, or a mapping of numbers to them, is needed")
    known: dict[int, str] = {}
    for key, name in names.items():
        if not str(key).isdecimal():
            raise DataError(f"{file}: names: {shortened(repr(key))} is no number of a class")
        known[int(key)] = _class_name(name, f"{file}: names: {key}")
    twice = [name for name, count in Counter(known.values()).items() if count > 1]
    if twice:
        raise DataError(f"{file}: names: two classes are called {twice[0]!r}")
    return known


def _read_yolo(root: Path) -> RawSet:
    found = _data_yaml(root)
    if found is None:
        raise DataError(f"{root}: no data.yaml with `names` and `train` or `val` is there")
    file, data = found
    names = _class_names(file, data["names"])
    pictures = []
    parts: tuple[Part, ...] = ("train", "val")
    listed = {part: _yolo_pictures(file, data, part) for part in parts}
    whole = not listed["val"] or set(listed["val"]) == set(listed["train"])  # the same folder twice is no split
    for part in parts:
        if part == "val" and whole:
            continue
        for path in listed[part]:
            text = _yolo_labels(path)
            boxes, errors = [], []
            for number, line in enumerate(read_text(text, DataError).splitlines() if is_file(text) else [], 1):
                if not line.strip():
                    continue
                try:
                    index, *values = line.split()
                    x, y, width, height = _numbers(values)
                    label = names.get(int(index), f"#{index}")
                except ValueError:
                    errors.append(f"line {number} is not `class x y width height`")
                    continue
                boxes.append(RawBox(label, x - width / 2, y - height / 2, width, height, relative=True))
            pictures.append(RawImage(path, "" if whole else part, None, tuple(boxes), str(text), tuple(errors)))
    return RawSet("yolo", tuple(names[k] for k in sorted(names)), tuple(pictures))


def _yolo_pictures(file: Path, data: Mapping[str, Any], part: str) -> list[Path]:
    """A folder, a list of folders, or a text file of paths; from data.yaml's `path`, which may be another machine's.
    All of them inside of the file's folder."""
    root = file.parent
    entries = data.get(part) or data.get("valid" if part == "val" else part) or []
    base = str(data.get("path") or ".")
    found: list[Path] = []
    for entry in map(str, entries if isinstance(entries, list) else [entries]):
        names = (os.path.join(base, entry), entry, entry.removeprefix("../"))  # noqa: PTH118  # of text, not of a Path
        places = [p for p in (inside(root, name) for name in names) if p]
        place = next((p for p in places if is_file(p) or p.is_dir()), None)
        if place is None:
            hint = "" if places else f": it is outside of {root}, so link it into that folder"
            raise DataError(f"{root}: {file.name}'s {part} is {shortened(entry)!r}, which is not there{hint}")
        if place.is_dir():
            found += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES and is_file(p))
            continue
        for number, line in enumerate(read_text(place, DataError).splitlines(), 1):
            if line.strip():
                picture = inside(root, line.strip())
                if picture is None:
                    raise DataError(f"{place}, line {number}: {shortened(line)!r} leads out of {root}")
                found.append(picture)
    return found


def _yolo_labels(picture: Path) -> Path:
    """`images/x.jpg` has its boxes in `labels/x.txt`."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
