"""Named arrays as bytes: the same bytes for the same arrays, and a clear refusal of anything else."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from sightline.arrays import pack, unpack
from sightline.errors import ModelError

FRAMES = np.arange(240, dtype=np.uint8).reshape(5, 48)


def test_arrays_come_back_as_they_were() -> None:
    outputs = np.linspace(0, 1, 7, dtype=np.float32)
    arrays = unpack(pack(frames=FRAMES, **{"static_int8/output_0": outputs}), "golden.npz", "frames")
    assert list(arrays) == ["frames", "static_int8/output_0"]
    assert arrays["frames"].dtype == np.uint8
    assert np.array_equal(arrays["frames"], FRAMES)
    assert np.array_equal(arrays["static_int8/output_0"], outputs)


def test_the_same_arrays_are_the_same_bytes_at_any_time() -> None:
    assert pack(frames=FRAMES) == pack(frames=FRAMES.copy())
    with zipfile.ZipFile(io.BytesIO(pack(frames=FRAMES))) as z:
        assert [i.date_time for i in z.infolist()] == [(1980, 1, 1, 0, 0, 0)], "the clock is in the file"


def test_a_needed_array_that_is_absent_is_named_with_those_there() -> None:
    with pytest.raises(ModelError, match=r"x\.npz: has no array 'frames', only images, labels"):
        unpack(pack(images=FRAMES, labels=FRAMES), "x.npz", "frames")


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, frames=np.array([{"a": 1}], dtype=object))
    return buffer.getvalue()


def one_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, FRAMES)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"not a zip", pack(frames=FRAMES)[:-30], pack(frames=FRAMES)[:20], pickled(), one_array()],
    ids=["empty", "text", "cut at the end", "cut at the start", "pickled", "a .npy"],
)
def test_what_is_no_npz_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"x\.npz: not a readable \.npz file"):
        unpack(data, "x.npz", "frames")


def test_damage_anywhere_is_refused_or_harmless() -> None:
    """Each bit of the file turned, one after another: a traceback for none of them, and never other numbers."""
    data = pack(frames=FRAMES)
    refused = 0
    for i in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[i // 8] ^= 1 << i % 8
        try:
            assert np.array_equal(unpack(bytes(damaged), "x.npz", "frames")["frames"], FRAMES), f"bit {i}"
        except ModelError:
            refused += 1
    assert refused > len(data), "the damage was not seen"
