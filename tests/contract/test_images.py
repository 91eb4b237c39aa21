"""Pictures are decoded whole, upright and in three bytes a pixel, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.errors import DataError
from sightline.images import MAX_PIXELS, SUFFIXES, decode_image, image_size, read_image
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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png() -> bytes:
    """What a few bytes may claim: 60000 x 60000 pixels."""
    size = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"just some text, not an image at all\n" * 20, "not an image that can be decoded"),
        (b"\xff\xd8\xff\xd9", "not an image"),
        (bytes(5000), "not an image"),
        (huge_png(), "60000x60000 pixels are too many"),
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
    with pytest.raises(DataError, match="cannot be read: it is a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".gif"])
@pytest.mark.parametrize("size", [(90, 60), (1, 1), (33, 700)])
def test_the_header_says_the_size_of_every_format_that_is_decoded(suffix: str, size: tuple[int, int]) -> None:
    data = encoded(suffix, cv2.resize(SCENE, size))
    assert image_size(data) == size
    assert decode_image(data, "x").shape[1::-1] == size


@pytest.mark.parametrize("quality", [(cv2.IMWRITE_WEBP_QUALITY, 101), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
def test_other_ways_to_encode_have_their_size_too(quality: tuple[int, int]) -> None:
    suffix = ".webp" if quality[0] == cv2.IMWRITE_WEBP_QUALITY else ".jpg"
    for image in (SCENE, np.dstack([SCENE, np.full((60, 90), 9, np.uint8)]) if suffix == ".webp" else SCENE[:, :, 0]):
        assert image_size(cv2.imencode(suffix, image, quality)[1].tobytes()) == (90, 60)


def resized(data: bytes, width: int, height: int) -> bytes:
    """An encoded image whose header announces another size."""
    changed = bytearray(data)
    old_width, old_height = SCENE.shape[1], SCENE.shape[0]
    forms = {
        b"\xff\xd8": (">HH", (old_height, old_width), (height, width)),
        b"\x89P": (">II", (old_width, old_height), (width, height)),
        b"BM": ("<ii", (old_width, old_height), (width, height)),
        b"RI": ("<HH", (old_width, old_height), (width, height)),
        b"GI": ("<HH", (old_width, old_height), (width, height)),
    }
    if data[:2] == b"II":  # two entries of the directory, wherever it stands
        at = struct.unpack_from("<I", data, 4)[0] + 2
        while struct.unpack_from("<H", data, at)[0] != 256:
            at += 12
        changed[at : at + 12] = struct.pack("<HHII", 256, 4, 1, width)
        changed[at + 12 : at + 24] = struct.pack("<HHII", 257, 4, 1, height)
        return bytes(changed)
    form, old, new = forms[data[:2]]
    at = data.index(struct.pack(form, *old))
    struct.pack_into(form, changed, at, *new)
    if data[:2] == b"\x89P":
        struct.pack_into(">I", changed, 29, zlib.crc32(bytes(changed[12:29])))
    return bytes(changed)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".gif"])
def test_a_size_beyond_the_limit_is_refused_by_the_header_alone(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cv2.imencode(suffix, SCENE, [cv2.IMWRITE_WEBP_QUALITY, 80])[1].tobytes()
    data = resized(whole, 16000, 12000)
    assert image_size(data) == (16000, 12000) and MAX_PIXELS < 16000 * 12000
    monkeypatch.setattr(cv2, "imdecode", None)  # whoever calls it, fails
    with pytest.raises(DataError, match=r"^pic: 16000x12000 pixels are too many. The limit is 64 million"):
        decode_image(data, "pic")
    with pytest.raises(DataError, match="90x60 pixels are too many"):
        decode_image(whole, "pic", max_pixels=90 * 59)


def test_a_jpeg_of_some_bytes_cannot_announce_millions_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    white = np.full((3000, 3000), 255, np.uint8)
    for progressive in (0, 1):
        flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_QUALITY, 1]
        assert decode_image(cv2.imencode(".jpg", white, flags)[1].tobytes(), "the flattest").shape == (3000, 3000, 3)
    monkeypatch.setattr(cv2, "imdecode", None)
    data = resized(encoded(".jpg"), 7900, 7900)
    with pytest.raises(DataError, match=f"damaged: {len(data)} bytes cannot hold the 7900x7900 pixels"):
        decode_image(data, "pic")


def test_what_stands_between_the_segments_of_a_jpeg_hides_nothing() -> None:
    plain = encoded(".jpg")
    for noise in (b"\0\0", b"\xff\x00ab", b"\xff\xff\xff", b"\xff\x01"):
        data = plain[:2] + noise + plain[2:]
        assert image_size(data) == (90, 60)


def test_the_size_of_a_large_tiff_is_read(tmp_path: Path) -> None:
    entries = struct.pack("<HHQQ", 256, 3, 1, 90) + struct.pack("<HHQQ", 257, 16, 1, 60)
    assert image_size(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2) + entries) == (90, 60)
    tiles = struct.pack(">HHIHH", 256, 3, 1, 90, 0) + struct.pack(">HHIHH", 257, 3, 1, 60, 0)
    tiles += struct.pack(">HHII", 322, 4, 1, 1 << 20) + struct.pack(">HHII", 323, 4, 1, 1 << 20)
    assert image_size(b"MM\0*" + struct.pack(">IH", 8, 4) + tiles) == (1 << 20, 1 << 20)


def reaches_the_decoder(data: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What of an image is decoded."""
    reached: list[bytes] = []
    decode = cv2.imdecode

    def spy(array: Frame, flags: int) -> Frame | None:
        reached.append(array.tobytes())
        return decode(array, flags)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imdecode", spy)
        assert np.array_equal(decode_image(data, "x"), SCENE)
    return reached[0]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"sPLT", b"acTL", b"fcTL", b"fdAT", b"prVt"])
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "after them"])
def test_what_a_png_has_beside_its_pixels_is_not_decoded(
    kind: bytes, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of some kilobytes may unpack to megabytes, and there may be hundreds of them."""
    plain = encoded(".png")
    text = chunk(kind, b"k\0\0" + zlib.compress(bytes(100_000)))
    assert reaches_the_decoder(plain[:place] + text * 3 + plain[place:], monkeypatch) == plain


def test_an_ordinary_png_is_decoded_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encoded(".png")
    data = plain[:33] + chunk(b"gAMA", bytes(3) + b"\1") + chunk(b"pHYs", bytes(9)) + plain[33:] + b"trailer"
    assert reaches_the_decoder(data, monkeypatch) == data


def test_a_png_is_turned_upright_by_its_exif_unless_that_is_large() -> None:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    plain = encoded(".png")
    turned = plain[:33] + chunk(b"eXIf", tiff) + chunk(b"zTXt", b"k\0\0") + plain[33:]
    assert np.array_equal(decode_image(turned, "x"), cv2.rotate(SCENE, cv2.ROTATE_90_CLOCKWISE))
    assert np.array_equal(decode_image(plain[:33] + chunk(b"eXIf", tiff + bytes(70_000)) + plain[33:], "x"), SCENE)


def png_with(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
LARGE = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))


@pytest.mark.parametrize(
    "data",
    [
        png_with(HEADER, LARGE, chunk(b"IDAT", b""), chunk(b"IEND", b"")),
        png_with(chunk(b"tEXt", struct.pack(">II", 8, 8)), LARGE, chunk(b"IDAT", b""), chunk(b"IEND", b"")),
        png_with(HEADER, struct.pack(">I", 0x7FFFFFFF) + b"tEXt", chunk(b"IEND", b"")),
        png_with(HEADER, chunk(b"tEXt", chunk(b"IEND", b""))),
    ],
    ids=["two headers", "a header that is not the first", "a chunk beyond the end", "an end within a chunk"],
)
def test_a_png_whose_chunks_are_not_in_order_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(DataError, match=r"^pic: the PNG is damaged or truncated"):
        decode_image(data, "pic")


@pytest.mark.parametrize(
    "first", [(9, 1, 20000), (3, 1, 20000), (4, 1, 20000), (8, 1, 20000), (6, 1, 200), (3, 2, 8), (12, 1, 8), (3, 1, 0)]
)
@pytest.mark.parametrize("again", [True, False])
def test_a_tiff_gives_its_size_once_and_as_tiff_does(first: tuple[int, int, int], again: bool) -> None:
    """libtiff takes the first of two, and knows more types than a size may have."""
    entries = [(256, *first), (256, 3, 1, 8), (257, 3, 1, 8)] if again else [(256, *first), (257, 3, 1, 8)]
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries)
    ordinary = first in ((3, 1, 20000), (4, 1, 20000)) and not again
    assert image_size(data) == ((20000, 8) if ordinary else None)
