"""Reads COCO's JSON (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sightline.data.annotations import (
    RawBox,
    RawDataset,
    RawImage,
    class_name,
    four_numbers,
    images_by_name,
    locate,
    part_of,
)
from sightline.documents import is_file, parse_json, read_bytes, shortened
from sightline.errors import DataError

HEAD_BYTES = 4_000_000  # of a file, in which its keys are looked for


def coco_files(root: Path) -> list[Path]:
    """The annotation files of the data set, sorted. Raises DataError for a file that cannot be read."""
    candidates = [*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/_annotations.coco.json")]
    files = []
    for path in sorted(filter(is_file, candidates)):
        try:
            with path.open("rb") as f:
                head = f.read(HEAD_BYTES)
        except OSError as e:
            raise DataError(f"{path}: cannot be read: {e.strerror}") from None
        if b'"images"' in head and (b'"annotations"' in head or path.stat().st_size > len(head)):
            files.append(path)
    return files


def read_coco(root: Path) -> RawDataset:
    """Raises DataError for a file that is not COCO's JSON."""
    by_name, files = images_by_name(root), coco_files(root)
    labels, images = list[str](), list[RawImage]()
    for file in files:
        names, documents, annotations = _tables(file)
        in_order = sorted(names.items(), key=lambda item: str(item[0]).zfill(12))
        labels += [name for _, name in in_order if name not in labels]
        part = (part_of(file.stem) or part_of(file.parent.name)) if len(files) > 1 else ""
        for i, document in documents.items():
            where = f"{file}: image {i}"
            sides = [_side(document.get(key), f"{where}: {key}") for key in ("width", "height")]
            size = (sides[0], sides[1]) if all(sides) else None
            name = document.get("file_name", "")
            if not isinstance(name, str):
                raise DataError(f"{where}: file_name {shortened(repr(name))} is not text")
            boxes, errors = _boxes(annotations[i], names)
            path = locate(root, file.parent, name, by_name)
            images.append(RawImage(path, part, size, boxes, str(file), errors))
    return RawDataset("coco", tuple(labels), tuple(images))


def _tables(file: Path) -> tuple[dict[Any, str], dict[Any, Any], dict[Any, list[dict[str, Any]]]]:
    """(class name of each category, image of each id, annotations of each image) of a file."""
    try:
        data = parse_json(read_bytes(file, DataError))
        names = {c["id"]: class_name(c["name"], f"{file}: category {i}") for i, c in enumerate(data["categories"], 1)}
        documents = {i["id"]: i for i in data["images"]}
        if len(documents) < len(data["images"]):
            raise ValueError("two images have the same id")
        annotations: dict[Any, list[dict[str, Any]]] = {i: [] for i in documents}
        stray = 0
        for a in data["annotations"]:
            if a["image_id"] in annotations:
                annotations[a["image_id"]].append(a)
            else:
                stray += 1
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{file}: not COCO's format: {type(e).__name__}: {e}") from None
    if stray:
        raise DataError(f"{file}: {stray} annotations belong to images that the file does not list")
    return names, documents, annotations


def _boxes(annotations: list[dict[str, Any]], names: dict[Any, str]) -> tuple[tuple[RawBox, ...], tuple[str, ...]]:
    """(boxes, errors) of one image."""
    boxes, errors = [], []
    for a in annotations:
        if a.get("iscrowd"):  # a region of many objects is no object to learn
            continue
        try:
            x, y, width, height = four_numbers(a["bbox"])
            boxes.append(RawBox(names.get(a["category_id"], f"#{a['category_id']}"), x, y, width, height))
        except (ValueError, TypeError, KeyError):
            errors.append(f"annotation {a.get('id')} has no bbox of four numbers, or no category_id")
    return tuple(boxes), tuple(errors)


def _side(value: object, where: str) -> int:
    """Pixels of an annotated image; 0 if the file has none."""
    if value is None:
        return 0
    if not isinstance(value, int | float) or not 0 <= value < 1e6 or value != int(value):
        raise DataError(f"{where} {shortened(repr(value))} is not a number of pixels")
    return int(value)
