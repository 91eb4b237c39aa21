"""Pictures are decoded whole, upright and in three bytes a pixel, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.errors import DataError
from sightline.images import SUFFIXES, decode_image, read_image
from sightline.preprocess import Frame

SCENE: Frame = cv2.resize(
    np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC
)


def encoded(suffix: str, image: Frame = SCENE) -> bytes:
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_known_ending_is_decoded(suffix: str) -> None:
    image = decode_image(encoded(suffix), "x")
    assert (image.shape, image.dtype) == (SCENE.shape, np.uint8)
    assert np.abs(image.astype(int) - SCENE).mean() < (6 if suffix in (".jpg", ".jpeg", ".webp") else 1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_that_was_cut_anywhere_is_refused(suffix: str) -> None:
    whole = encoded(suffix)
    for length in sorted({*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}):
        with pytest.raises(DataError, match=r"^pic"):
            decode_image(whole[:length], f"pic{suffix}")


def test_a_cut_jpeg_with_a_whole_thumbnail_is_refused() -> None:
    """A camera's JPEG has another one in its header, with an end mark of its own."""
    thumbnail = encoded(".jpg", SCENE[:16, :16])
    header = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 8) + b"Exif\0\0" + thumbnail
    whole = encoded(".jpg")
    whole = whole[:2] + header + whole[2:]
    assert decode_image(whole, "pic.jpg").shape == SCENE.shape
    for length in range(len(header) + 4, len(whole) - 2, 50):
        with pytest.raises(DataError, match="pic"):
            decode_image(whole[:length], "pic.jpg")


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, None), (3, cv2.ROTATE_180), (6, cv2.ROTATE_90_CLOCKWISE), (8, 2)]
)
def test_a_picture_is_turned_upright_by_its_exif(orientation: int, turn: int | None) -> None:
    assert cv2.ROTATE_90_COUNTERCLOCKWISE == 2
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    header = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    plain = encoded(".jpg")
    upright = decode_image(plain, "x")
    expected = upright if turn is None else cv2.rotate(upright, turn)
    assert np.array_equal(decode_image(plain[:2] + header + plain[2:], "x"), expected)


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit"])
def test_other_pixels_become_three_bytes(kind: str) -> None:
    image = {
        "grey": SCENE[:, :, 0],
        "alpha": np.dstack([SCENE, np.full((60, 90), 9, np.uint8)]),
        "16 bit": SCENE.astype(np.uint16) * 257,
    }[kind]
    decoded = decode_image(encoded(".png", image), "x")
    expected = SCENE[:, :, :1].repeat(3, axis=2) if kind == "grey" else SCENE
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - expected).max() <= (1 if kind == "16 bit" else 0)


def huge_png() -> bytes:
    """What a few bytes may claim: 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"just some text, not a picture at all\n" * 20, "not a picture that can be decoded"),
        (b"\xff\xd8\xff\xd9", "not a picture"),
        (bytes(5000), "not a picture"),
        (huge_png(), r"cannot decode it|not a picture"),
    ],
    ids=["empty", "text", "an empty JPEG", "zeros", "too large"],
)
def test_what_is_no_picture_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=rf"^pic\.jpg: .*({why})"):
        decode_image(data, "pic.jpg")


def test_a_file_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(encoded(".png"))
    assert np.array_equal(read_image(tmp_path / "good.png"), SCENE)
    with pytest.raises(DataError, match=r"absent\.png: cannot be read: No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_image(tmp_path)
