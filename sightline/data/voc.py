"""Reads Pascal VOC's XML (VOC2012 development kit, section 4)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from sightline.data.annotations import (
    Part,
    RawBox,
    RawDataset,
    RawImage,
    four_numbers,
    images_by_name,
    locate,
    part_of,
)
from sightline.documents import is_file, read_bytes, read_text
from sightline.errors import DataError
from sightline.images import SUFFIXES

MAX_XML_BYTES = 64 << 20  # the boxes of one image


def voc_files(root: Path) -> list[Path]:
    return sorted(filter(is_file, root.rglob("*.xml")))


def read_voc(root: Path) -> RawDataset:
    """Raises DataError for a file that is not XML."""
    by_name, parts = images_by_name(root), _parts(root)
    labels: set[str] = set()
    images: list[RawImage] = []
    for file in voc_files(root):
        try:
            tree = ElementTree.fromstring(read_bytes(file, DataError, MAX_XML_BYTES))
        except (ElementTree.ParseError, LookupError, ValueError) as e:  # the last two: its encoding
            raise DataError(f"{file}: not readable XML: {e}") from None
        if tree.tag != "annotation":
            continue
        boxes, errors = _boxes(tree)
        labels.update(box.label for box in boxes)
        name = (tree.findtext("filename") or "").strip()
        path = locate(root, file.parent, name, by_name)
        if not is_file(path):  # many tools keep the image's name in the annotation's own name alone
            same = [p for suffix in SUFFIXES for p in by_name.get(file.stem + suffix, [])]
            path = same[0] if len(same) == 1 else path
        part = parts.get(file.stem) or part_of(file.parent.name)
        images.append(RawImage(path, part, _size(tree), boxes, str(file), errors))
    return RawDataset("voc", tuple(sorted(labels)), tuple(images))


def _parts(root: Path) -> dict[str, Part]:
    """The part of each image, by its name without suffix."""
    return {
        line.split()[0]: part_of(file.stem)
        for file in root.glob("ImageSets/Main/*.txt")
        if file.stem in ("train", "val", "test")
        for line in read_text(file, DataError).splitlines()
        if line.strip()
    }


def _boxes(tree: ElementTree.Element) -> tuple[tuple[RawBox, ...], tuple[str, ...]]:
    """(boxes, errors) of one image."""
    boxes, errors = [], []
    for i, item in enumerate(tree.iter("object"), 1):
        label = (item.findtext("name") or "").strip()
        try:
            x1, y1, x2, y2 = four_numbers([item.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax")])
        except (ValueError, TypeError):
            errors.append(f"object {i} has no bndbox of four numbers")
            continue
        boxes.append(RawBox(label, x1, y1, x2 - x1, y2 - y1))
    return tuple(boxes), tuple(errors)


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    width, height = tree.findtext("size/width") or "", tree.findtext("size/height") or ""
    sides = [int(text) if text.isdecimal() and len(text) < 10 else 0 for text in (width, height)]
    return (sides[0], sides[1]) if all(sides) else None
