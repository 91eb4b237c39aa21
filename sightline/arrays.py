"""Named arrays in one .npz file, as bytes; never pickled, and the same arrays give the same bytes."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ModelError


def pack(**arrays: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes only one keyword
    return buffer.getvalue()


def unpack(data: bytes, name: str, *needed: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file called `name` in errors; ModelError when one of `needed` is absent or it is no .npz."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("one array, not an archive of named ones")
        with loaded as f:
            arrays = {key: f[key] for key in f.files}
    except (ValueError, OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise ModelError(f"{name}: not a readable .npz file ({e})") from None
    for key in needed:
        if key not in arrays:
            raise ModelError(f"{name}: has no array {key!r}, only {', '.join(arrays) or 'nothing'}")
    return arrays
