"""Named arrays in one .npz file, as bytes. Never pickled; the same arrays give the same bytes."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ModelError
from sightline.files import LARGEST

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def pack(**arrays: NDArray[Any]) -> bytes:
    """The arrays as an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes only one keyword
    return buffer.getvalue()


def unpack_rows(data: bytes, name: str, rows: int, shapes: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """The first rows of some arrays, with no more memory than these rows need.

    name: of the file, for errors.
    rows: how many to read.
    shapes: {array: (dtype, numbers per row)}.

    Raises ModelError if an array is missing, empty or has another dtype or row size, if the arrays have different
    numbers of rows, or if it is not an .npz file.
    """
    arrays: dict[str, NDArray[Any]] = {}
    counts = set()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = {n.removesuffix(".npy"): n for n in archive.namelist()}
            for key, (dtype, size) in shapes.items():
                if key not in names:
                    raise ModelError(f"{name}: has no array {key!r}. It has: {', '.join(names) or 'none'}")
                with archive.open(names[key]) as f:
                    read_header = _HEADERS[np.lib.format.read_magic(f)]
                    shape, in_columns, stored = read_header(f)
                    fits = shape and shape[0] > 0 and math.prod(shape[1:]) == size
                    if not fits or in_columns or stored != np.dtype(dtype):
                        expected = f"{dtype} with one or more rows of {size} numbers"
                        raise ModelError(f"{name}: {key!r} is {stored} {list(shape)}, but must be {expected}")
                    counts.add(shape[0])
                    content = f.read(min(rows, shape[0]) * size * stored.itemsize)
                arrays[key] = np.frombuffer(content, stored).reshape(-1, *shape[1:])
                if len(arrays[key]) != min(rows, shape[0]):
                    raise ValueError(f"{key!r} is truncated")
    except ModelError:
        raise
    except Exception as e:  # numpy parses a header as Python, so any error of that parser is possible
        raise ModelError(f"{name}: not a readable .npz file ({type(e).__name__}: {e})") from None
    if len(counts) != 1:
        differ = " and ".join(map(str, sorted(counts)))
        raise ModelError(f"{name}: its arrays have {differ} rows, but must have the same number")
    return arrays


def unpack(data: bytes, name: str, *needed: str) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file. Raises ModelError if one of `needed` is missing. name: of the file, for errors."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is one array, not an archive of named arrays")
        with loaded as f:
            archive: zipfile.ZipFile = f.zip  # type: ignore[assignment]
            if sum(info.file_size for info in archive.infolist()) > LARGEST:
                raise ValueError(f"it has more than {LARGEST} bytes unpacked")
            arrays = {key: f[key] for key in f.files}
    except Exception as e:  # numpy parses a header as Python, so any error of that parser is possible
        raise ModelError(f"{name}: not a readable .npz file ({e})") from None
    for key in needed:
        if key not in arrays:
            raise ModelError(f"{name}: has no array {key!r}. It has: {', '.join(arrays) or 'none'}")
    return arrays
