"""Boxes in other people's formats: COCO's JSON, Pascal VOC's XML, YOLO's text files. Read, but not checked."""

from __future__ import annotations

from pathlib import Path

from sightline.data.annotations import Format, RawBox, RawDataset, RawImage
from sightline.data.coco import coco_files, read_coco
from sightline.data.voc import read_voc, voc_files
from sightline.data.yolo import data_yaml, read_yolo
from sightline.errors import DataError

__all__ = ["Format", "RawBox", "RawDataset", "RawImage", "find_format", "read_format"]


def find_format(root: Path) -> Format:
    """The format of the annotations in `root`. Raises DataError if there are none, or more than one format."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Pass a folder of images with boxes (COCO, Pascal VOC or YOLO).")
    formats: list[Format] = []
    if coco_files(root):
        formats.append("coco")
    if voc_files(root):
        formats.append("voc")
    broken: DataError | None = None
    try:
        if data_yaml(root):
            formats.append("yolo")
    except DataError as e:
        broken = e
    if len(formats) == 1:
        return formats[0]
    if formats:
        raise DataError(
            f"{root}: has annotations of more than one format. Choose one with --format: {', '.join(formats)}"
        )
    if broken:
        raise broken
    raise DataError(
        f"{root}: no annotations. Expected a COCO .json with `images` and `annotations`, Pascal VOC .xml files, or "
        "a YOLO data.yaml."
    )


def read_format(root: Path, kind: Format) -> RawDataset:
    """Read the annotations of `root`. Raises DataError for an annotation file that cannot be read at all."""
    return {"coco": read_coco, "voc": read_voc, "yolo": read_yolo}[kind](root)
