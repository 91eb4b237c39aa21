"""Boxes as others write them: COCO's JSON, Pascal VOC's XML, YOLO's text files. What a file says, unjudged.

Sources: the COCO data format (https://cocodataset.org/#format-data), the VOC2012 development kit, section 4, and the
data.yaml of Ultralytics' documentation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import yaml

from sightline.errors import DataError
from sightline.images import SUFFIXES

Format = Literal["coco", "voc", "yolo"]
Part = Literal["train", "val", ""]
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
class RawPicture:
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
    pictures: tuple[RawPicture, ...]


def find_format(root: Path) -> Format:
    """What lies in `root`. Raises DataError for nothing known, and for more than one."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; pictures with boxes are needed (COCO, Pascal VOC or YOLO)")
    found: list[Format] = []
    if _coco_files(root):
        found.append("coco")
    if next(root.rglob("*.xml"), None):
        found.append("voc")
    if _data_yaml(root):
        found.append("yolo")
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{root}: has annotations of more than one format; --format says which: {', '.join(found)}")
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
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.setdefault(path.name, []).append(path)
    return found


def _located(root: Path, near: Path, name: str, by_name: Mapping[str, list[Path]]) -> Path:
    """Where a picture is: as it is written, from the root or the annotation's folder, or the one of its name."""
    for folder in (root, near, root / "images", near.parent / "images"):
        path = folder / name
        if name and path.is_file():
            return path
    same = by_name.get(Path(name).name, [])
    return same[0] if len(same) == 1 else root / name


def _coco_files(root: Path) -> list[Path]:
    files = []
    for path in sorted(
        [*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/_annotations.coco.json")]
    ):
        head = path.read_bytes()[:4_000_000]
        if (b'"annotations"' in head and b'"images"' in head) or (
            b'"images"' in head and path.stat().st_size > len(head)
        ):
            files.append(path)
    return files


def _read_coco(root: Path) -> RawSet:
    by_name, labels, pictures = _pictures(root), list[str](), list[RawPicture]()
    files = _coco_files(root)
    for file in files:
        try:
            data = json.loads(file.read_bytes())
            names = {c["id"]: str(c["name"]) for c in data["categories"]}
            images = {i["id"]: i for i in data["images"]}
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
                    x, y, width, height = (float(v) for v in a["bbox"])
                    boxes.append(RawBox(names.get(a["category_id"], f"#{a['category_id']}"), x, y, width, height))
                except (ValueError, TypeError, KeyError):
                    errors.append(f"annotation {a.get('id')} has no bbox of four numbers")
            size = (int(image["width"]), int(image["height"])) if image.get("width") and image.get("height") else None
            name = str(image.get("file_name", ""))
            path = _located(root, file.parent, name, by_name)
            pictures.append(RawPicture(path, part, size, tuple(boxes), str(file), tuple(errors)))
    return RawSet("coco", tuple(labels), tuple(pictures))


def _read_voc(root: Path) -> RawSet:
    by_name, pictures = _pictures(root), list[RawPicture]()
    parts = {
        line.split()[0]: _part_of(file.stem)
        for file in root.glob("ImageSets/Main/*.txt")
        if file.stem in ("train", "val", "test")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    labels: set[str] = set()
    for file in sorted(root.rglob("*.xml")):
        try:
            tree = ElementTree.parse(file).getroot()
        except ElementTree.ParseError as e:
            raise DataError(f"{file}: not XML that can be read: {e}") from None
        if tree.tag != "annotation":
            continue
        boxes, errors = [], []
        for i, thing in enumerate(tree.iter("object")):
            label = (thing.findtext("name") or "").strip()
            try:
                x1, y1, x2, y2 = (float(thing.findtext(f"bndbox/{k}") or "") for k in ("xmin", "ymin", "xmax", "ymax"))
            except ValueError:
                errors.append(f"object {i + 1} has no bndbox of four numbers")
                continue
            boxes.append(RawBox(label, x1, y1, x2 - x1, y2 - y1))
            labels.add(label)
        name = (tree.findtext("filename") or "").strip()
        path = _located(root, file.parent, name, by_name)
        if not path.is_file():  # many tools keep the picture's name in the annotation's own name alone
            same = [p for suffix in SUFFIXES for p in by_name.get(file.stem + suffix, [])]
            path = same[0] if len(same) == 1 else path
        width, height = tree.findtext("size/width") or "", tree.findtext("size/height") or ""
        size = (int(width), int(height)) if width.isdecimal() and height.isdecimal() and int(width) else None
        part = parts.get(file.stem) or _part_of(file.parent.name)
        pictures.append(RawPicture(path, part, size, tuple(boxes), str(file), tuple(errors)))
    return RawSet("voc", tuple(sorted(labels)), tuple(pictures))


def _data_yaml(root: Path) -> Path | None:
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue
        if isinstance(data, dict) and "names" in data and ("train" in data or "val" in data):
            return path
    return None


def _read_yolo(root: Path) -> RawSet:
    file = _data_yaml(root)
    assert file is not None, "find_format has seen it"
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    names = data["names"]
    names = (
        {i: str(n) for i, n in enumerate(names)}
        if isinstance(names, list)
        else {int(k): str(v) for k, v in names.items()}
    )
    pictures = []
    parts: tuple[Part, ...] = ("train", "val")
    listed = {part: _yolo_pictures(root, data, part) for part in parts}
    whole = not listed["val"] or set(listed["val"]) == set(listed["train"])  # the same folder twice is no split
    for part in parts:
        if part == "val" and whole:
            continue
        for path in listed[part]:
            text = _yolo_labels(path)
            boxes, errors = [], []
            for number, line in enumerate(text.read_text(encoding="utf-8").splitlines() if text.is_file() else [], 1):
                if not line.strip():
                    continue
                try:
                    index, *values = line.split()
                    x, y, width, height = (float(v) for v in values)
                    label = names.get(int(index), f"#{index}")
                except ValueError:
                    errors.append(f"line {number} is not `class x y width height`")
                    continue
                boxes.append(RawBox(label, x - width / 2, y - height / 2, width, height, relative=True))
            pictures.append(RawPicture(path, "" if whole else part, None, tuple(boxes), str(text), tuple(errors)))
    return RawSet("yolo", tuple(names[k] for k in sorted(names)), tuple(pictures))


def _yolo_pictures(root: Path, data: Mapping[str, Any], part: str) -> list[Path]:
    """A folder, a list of folders, or a text file of paths; from data.yaml's `path`, which may be another machine's."""
    entries = data.get(part) or data.get("valid" if part == "val" else part) or []
    base = Path(str(data.get("path") or "."))
    found: list[Path] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        places = [root / base / str(entry), root / str(entry), root / str(entry).removeprefix("../")]
        place = next((p for p in places if p.exists()), places[-1])
        if place.is_dir():
            found += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif place.is_file():
            found += [root / line.strip() for line in place.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            raise DataError(f"{root}: data.yaml's {part} is {entry!r}, which is not there")
    return found


def _yolo_labels(picture: Path) -> Path:
    """`images/x.jpg` has its boxes in `labels/x.txt`."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
