"""Reads TFLite Metadata, with which a .tflite describes itself. MediaPipe and ML Kit read it too.

The model's `metadata` has an entry TFLITE_METADATA: a FlatBuffer of metadata_schema.fbs (tflite-support, identifier
M001). The files that it names, such as the labels, are in a ZIP archive after the model's end.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass

from sightline.errors import ModelError
from sightline.flatbuffer import Table

ENTRY = "TFLITE_METADATA"
_NORMALIZATION = 1  # NormalizationOptions in the union ProcessUnitOptions
_LABEL_FILES = (2, 3)  # file types TENSOR_AXIS_LABELS and TENSOR_VALUE_LABELS
_MAX_BYTES = 16 << 20  # of a label file, unpacked


@dataclass(frozen=True)
class Metadata:
    """What a .tflite states about itself.

    name, description, version: of the model; "" if the file has none.
    labels: of the first output that has labels, in the order of the model's outputs; None if the file has none.
    mean, std: the first input is (byte - mean) / std, for R, G, B; None if the file has none.
    """

    name: str
    description: str
    version: str
    labels: tuple[str, ...] | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None


def read_metadata(content: bytes, name: str = "model") -> Metadata | None:
    """The metadata of any .tflite; None if it has none. name: of the file, for errors.

    Raises ModelError if it is not a .tflite, or if its metadata are damaged.
    """
    if content[4:8] != b"TFL3":
        raise ModelError(f"{name}: not a .tflite file: TFL3 is missing at byte 4")
    try:
        packed = _entry(content)
        if packed is None:
            return None
        model = Table.root(packed, b"M001")
        graphs = model.tables(3)
        inputs, outputs = (graphs[0].tables(2), graphs[0].tables(3)) if graphs else ([], [])
        mean, std = _normalization(inputs[0]) if inputs else (None, None)
        file = _label_file(outputs)
        labels = None if file is None else _labels(content, file)
        return Metadata(model.text(0), model.text(1), model.text(2), labels, mean, std)
    except ValueError as e:  # UnicodeDecodeError is one
        raise ModelError(f"{name}: its metadata cannot be read: {e}") from None


def _entry(content: bytes) -> bytes | None:
    """The FlatBuffer under TFLITE_METADATA."""
    model = Table.root(content, b"TFL3")
    for table in model.tables(6):
        if table.text(0) == ENTRY:
            start, count = model.item(4, table.number(1, "<I")).vector(0, 1)
            return content[start : start + count]
    return None


def _normalization(tensor: Table) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    for unit in tensor.tables(4):
        options = unit.table(1)
        if unit.number(0, "<B") == _NORMALIZATION and options is not None:
            mean, std = options.floats(0), options.floats(1)
            if len(mean) != len(std) or len(mean) not in (1, 3):
                raise ValueError(f"{len(mean)} means and {len(std)} deviations. There must be 1 or 3 of each.")
            if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
                raise ValueError(f"means {mean} and deviations {std} must be finite, and the deviations above 0")
            # a single value is for all channels
            r, g, b = range(3) if len(mean) == 3 else (0, 0, 0)
            return (mean[r], mean[g], mean[b]), (std[r], std[g], std[b])
    return None, None


def _label_file(outputs: list[Table]) -> str | None:
    for tensor in outputs:
        for file in tensor.tables(6):
            if file.number(2, "<b") in _LABEL_FILES:
                return file.text(0)
    return None


def _labels(content: bytes, file: str) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            info = archive.getinfo(file)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"{file!r} is compressed by method {info.compress_type}, not stored (0) or deflated (8)"
                )
            with archive.open(info) as f:
                data = f.read(_MAX_BYTES + 1)
    except KeyError:
        raise ValueError(f"it names {file!r}, which is not in the file's archive") from None
    # a damaged archive raises any of these
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, struct.error) as e:
        raise ValueError(f"the archive with {file!r} is damaged or missing ({e})") from None
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{file!r} is larger than {_MAX_BYTES >> 20} MiB")
    lines = data.decode("utf-8").removesuffix("\n").split("\n")
    return tuple(line.removesuffix("\r") for line in lines)
