"""Named arrays as bytes: the same bytes for the same arrays, and a clear refusal of anything else."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sightline.errors import ModelError
from sightline.npz import pack, unpack, unpack_rows

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
    with pytest.raises(ModelError, match=r"x\.npz: has no array 'frames'. It has: images, labels"):
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


ROW = {"frames": ("uint8", 48)}


def test_the_first_rows_are_read_alone() -> None:
    assert np.array_equal(unpack_rows(pack(frames=FRAMES), "x.npz", 2, ROW)["frames"], FRAMES[:2])
    assert np.array_equal(unpack_rows(pack(frames=FRAMES), "x.npz", 9, ROW)["frames"], FRAMES)


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (FRAMES[:0], r"'frames' is uint8 \[0, 48\], but must be uint8 with one or more rows of 48 numbers"),
        (FRAMES[:, :40], r"is uint8 \[5, 40\]"),
        (FRAMES.astype(np.float32), r"is float32 \[5, 48\]"),
        (FRAMES.astype("<U4"), r"is <U4 \[5, 48\]"),
        (np.uint8(3), r"is uint8 \[\]"),
        (np.asfortranarray(FRAMES), r"is uint8 \[5, 48\]"),
    ],
)
def test_rows_of_another_form_are_refused(frames: NDArray[Any], why: str) -> None:
    with pytest.raises(ModelError, match=r"x\.npz: .*" + why):
        unpack_rows(pack(frames=frames), "x.npz", 2, ROW)


def test_arrays_of_unlike_lengths_are_refused() -> None:
    data = pack(frames=FRAMES, scores=np.zeros((3, 2), np.float32))
    with pytest.raises(ModelError, match=r"x\.npz: its arrays have 3 and 5 rows"):
        unpack_rows(data, "x.npz", 2, {**ROW, "scores": ("float32", 2)})


def with_header(header: bytes, content: bytes = b"") -> bytes:
    """An .npz whose only array begins with it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        archive.writestr("frames.npy", start + header + content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "header",
    [b"{", b"(" * 5000, b"{'descr': '|u1', 'fortran_order': False, 'shape': ('a',)}", b"\0\0", b"'" * 3, b"1 +", b"[]",
     b"{'descr': '|u1', 'fortran_order': False, 'shape': (9, 48)}"],
)  # fmt: skip
def test_a_header_that_is_garbage_is_refused(header: bytes) -> None:
    data = with_header(header)
    for read in (lambda: unpack(data, "x.npz", "frames"), lambda: unpack_rows(data, "x.npz", 2, ROW)):
        with pytest.raises(ModelError, match=r"x\.npz: "):
            read()


def test_an_archive_that_unpacks_to_gigabytes_costs_no_memory() -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (20000000, 48)}"
    data = with_header(header, bytes(100_000_000))
    tracemalloc.start()
    assert unpack_rows(data, "x.npz", 2, ROW)["frames"].shape == (2, 48)
    with pytest.raises(ModelError, match="is uint8"):
        unpack_rows(data, "x.npz", 2, {"frames": ("uint8", 47)})
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
