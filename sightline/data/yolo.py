"""Reads YOLO's text files and their data.yaml, as Ultralytics documents them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.data.annotations import Part, RawBox, RawDataset, RawImage, class_name, four_numbers, image_files
from sightline.documents import inside, is_file, read_text, shortened
from sightline.errors import DataError
from sightline.yaml_reader import read_yaml


def data_yaml(root: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The data.yaml and its content. Raises DataError if there is none and one of the YAML files cannot be read."""
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


def read_yolo(root: Path) -> RawDataset:
    """Raises DataError for a data.yaml that is missing or cannot be read."""
    document = data_yaml(root)
    if document is None:
        raise DataError(f"{root}: no data.yaml with `names` and `train` or `val`")
    file, data = document
    names = _class_names(file, data["names"])
    parts: tuple[Part, ...] = ("train", "val")
    paths = {part: _part_images(file, data, part) for part in parts}
    # the same folder in both parts is no split
    unsplit = not paths["val"] or set(paths["val"]) == set(paths["train"])
    images = []
    for part in parts[:1] if unsplit else parts:
        for path in paths[part]:
            label_file = _label_file(path)
            boxes, errors = _boxes(label_file, names) if is_file(label_file) else ((), ())
            images.append(RawImage(path, "" if unsplit else part, None, boxes, str(label_file), errors))
    return RawDataset("yolo", tuple(names[k] for k in sorted(names)), tuple(images))


def _class_names(file: Path, names: object) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file}: names: must be a list of the classes, or a mapping of numbers to them")
    by_index: dict[int, str] = {}
    for key, name in names.items():
        if not str(key).isdecimal():
            raise DataError(f"{file}: names: {shortened(repr(key))} is not the number of a class")
        by_index[int(key)] = class_name(name, f"{file}: names: {key}")
    repeated = [name for name, count in Counter(by_index.values()).items() if count > 1]
    if repeated:
        raise DataError(f"{file}: names: two classes are called {repeated[0]!r}")
    return by_index


def _boxes(file: Path, names: Mapping[int, str]) -> tuple[tuple[RawBox, ...], tuple[str, ...]]:
    """(boxes, errors) of one image."""
    boxes, errors = [], []
    for number, line in enumerate(read_text(file, DataError).splitlines(), 1):
        if not line.strip():
            continue
        try:
            index, *values = line.split()
            x, y, width, height = four_numbers(values)
            label = names.get(int(index), f"#{index}")
        except ValueError:
            errors.append(f"line {number} is not `class x y width height`")
            continue
        boxes.append(RawBox(label, x - width / 2, y - height / 2, width, height, relative=True))
    return tuple(boxes), tuple(errors)


def _part_images(file: Path, data: Mapping[str, Any], part: str) -> list[Path]:
    """The images of a part: a folder, a list of folders, or a text file of paths, all inside the folder of data.yaml.

    They are relative to data.yaml's `path`, which may be another machine's.
    """
    root = file.parent
    entries = data.get(part) or data.get("valid" if part == "val" else part) or []
    base = str(data.get("path") or ".")
    images: list[Path] = []
    for entry in map(str, entries if isinstance(entries, list) else [entries]):
        names = (os.path.join(base, entry), entry, entry.removeprefix("../"))  # noqa: PTH118  # text, not a Path
        places = [p for p in (inside(root, name) for name in names) if p]
        place = next((p for p in places if is_file(p) or p.is_dir()), None)
        if place is None:
            hint = "" if places else f": it is outside {root}, so link it into that folder"
            raise DataError(f"{root}: {part} in {file.name} is {shortened(entry)!r}, which does not exist{hint}")
        images += image_files(place) if place.is_dir() else _paths_in(place, root)
    return images


def _paths_in(file: Path, root: Path) -> list[Path]:
    """The images that a text file lists, one path per line."""
    images = []
    for number, line in enumerate(read_text(file, DataError).splitlines(), 1):
        if line.strip():
            image = inside(root, line.strip())
            if image is None:
                raise DataError(f"{file}, line {number}: {shortened(line)!r} leads out of {root}")
            images.append(image)
    return images


def _label_file(image: Path) -> Path:
    """`images/x.jpg` has its boxes in `labels/x.txt`."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")
