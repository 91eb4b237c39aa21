"""Named arrays in one .npz file, as bytes; never pickled, and the same arrays give the same bytes."""

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
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes only one keyword
    return buffer.getvalue()


def unpack_rows(data: bytes, name: str, rows: int, shapes: Mapping[str, tuple[str, int]]) -> dict[str, NDArray[Any]]:
    """The first rows of some arrays, without more memory than they take. shapes: {array: (dtype, numbers in a row)}.

    Raises ModelError where an array is absent, of another dtype or row, or has no row; where they are not of one
    number of rows; and where it is no .npz.
    """
    found: dict[str, NDArray[Any]] = {}
    counts = set()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = {n.removesuffix(".npy"): n for n in archive.namelist()}
            for key, (dtype, size) in shapes.items():
                if key not in names:
                    raise ModelError(f"{name}: has no array {key!r}, only {', '.join(names) or 'nothing'}")
                with archive.open(names[key]) as f:
                    read_header = _HEADERS[np.lib.format.read_magic(f)]
                    shape, in_columns, stored = read_header(f)
                    fits = shape and shape[0] > 0 and math.prod(shape[1:]) == size
                    if not fits or in_columns or stored != np.dtype(dtype):
                        needed = f"{dtype}, one row or more of {size} numbers"
                        raise ModelError(f"{name}: {key!r} is {stored} {list(shape)}; {needed} is needed")
                    counts.add(shape[0])
                    content = f.read(min(rows, shape[0]) * size * stored.itemsize)
                found[key] = np.frombuffer(content, stored).reshape(-1, *shape[1:])
                if len(found[key]) != min(rows, shape[0]):
                    raise ValueError(f"{key!r} is cut off")
    except ModelError:
        raise
    except Exception as e:  # numpy reads a header as Python, so it raises whatever Python's parser does
        raise ModelError(f"{name}: not a readable .npz file ({type(e).__name__}: {e})") from None
    if len(counts) != 1:
        differ = " and ".join(map(str, sorted(counts)))
        raise ModelError(f"{name}: its arrays have {differ} rows; the same number of each is needed")
    return found


def unpack(data: bytes, name: str, *needed: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file called `name` in errors; ModelError when one of `needed` is absent or it is no .npz."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of named ones")
        with loaded as f:
            archive: zipfile.ZipFile = f.zip  # type: ignore[assignment]
            if sum(info.file_size for info in archive.infolist()) > LARGEST:
                raise ValueError(f"more than {LARGEST} bytes when it is unpacked")
            arrays = {key: f[key] for key in f.files}
    except Exception as e:  # numpy reads a header as Python, so it raises whatever Python's parser does
        raise ModelError(f"{name}: not a readable .npz file ({e})") from None
    for key in needed:
        if key not in arrays:
            raise ModelError(f"{name}: has no array {key!r}, only {', '.join(arrays) or 'nothing'}")
    return arrays
