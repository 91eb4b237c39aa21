"""Decodes image files: the same way everywhere, never partly, and never larger than memory allows.

The size in the header is checked before memory is allocated.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from sightline.documents import read_bytes
from sightline.errors import DataError
from sightline.preprocess import Frame

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# 192 MB decoded; during decoding OpenCV needs up to 400 MB, and 800 MB for a GIF or a TIFF with 16 bits per sample
MAX_PIXELS = 64_000_000
# a JPEG spends at least one bit on each block of 8x8 pixels, however flat the image is
_JPEG_PIXELS_PER_BYTE = 8 * 64
_PNG_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# each of these is small; texts and profiles are compressed, and may unpack to a thousand times their size
_PNG_SMALL_CHUNKS = (b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"tIME")
_MAX_SMALL_CHUNK = 65_536  # bytes, as JPEG allows for its EXIF


def decode_image(data: bytes | bytearray, name: str, max_pixels: int = MAX_PIXELS) -> Frame:
    """uint8 [height, width, 3] in BGR, upright according to its EXIF orientation. Raises DataError.

    OpenCV silently fills the missing half of a truncated JPEG with grey, so the end mark is checked first.

    name: of the file, for errors.
    max_pixels: a larger image is not decoded.
    """
    if not data:
        raise DataError(f"{name}: the file is empty")
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]:
        raise DataError(f"{name}: the JPEG is truncated")
    if data[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" not in data[-4096:]:
        raise DataError(f"{name}: the PNG is truncated")
    size = image_size(data)
    if size is None:
        raise DataError(f"{name}: not an image that can be decoded")
    if size[0] * size[1] > max_pixels:
        raise DataError(
            f"{name}: {size[0]}x{size[1]} pixels are too many. The limit is {max_pixels / 1e6:.0f} million."
        )
    if data[:2] == b"\xff\xd8" and size[0] * size[1] > _JPEG_PIXELS_PER_BYTE * len(data):
        raise DataError(f"{name}: damaged: {len(data)} bytes cannot hold the {size[0]}x{size[1]} pixels of its header")
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        data = _png_pixels(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:  # sizes beyond OpenCV's limits
        raise DataError(f"{name}: OpenCV cannot decode it: {e.err}") from None
    if image is None:
        raise DataError(f"{name}: not an image that can be decoded")
    return np.asarray(image, np.uint8)


def image_size(data: bytes | bytearray) -> tuple[int, int] | None:
    """(width, height) in pixels according to the header, before the image is turned upright.

    None unless it is a JPEG, PNG, BMP, WebP, TIFF or GIF with a complete header.
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_size(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"BM":
            if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2
                return struct.unpack_from("<HH", data, 18)
            width, height = struct.unpack_from("<ii", data, 18)
            return abs(width), abs(height)  # negative: from top to bottom
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff_size(data)
        if data[:4] == b"GIF8":
            return struct.unpack_from("<HH", data, 6)
    except (struct.error, IndexError):
        pass
    return None


def _png_pixels(data: bytes | bytearray, name: str) -> bytes | bytearray:
    """The PNG without texts, colour profiles, animations and unknown chunks, which the decoder would unpack or keep.

    The same object if there are none. Decoders of other formats skip what they do not know.
    """
    result = bytearray()
    start, at = 0, 8  # start: of the next part that stays; at: position of the chunk
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or (kind == b"IHDR") != (at == 8):
            break
        if kind not in _PNG_PIXEL_CHUNKS and (kind not in _PNG_SMALL_CHUNKS or length > _MAX_SMALL_CHUNK):
            result += data[start:at]
            start = end
        if kind == b"IEND":
            return result + data[start:end] if start else data
        at = end
    raise DataError(f"{name}: the PNG is damaged or truncated: its chunks do not lead from a header to an end")


def _jpeg_size(data: bytes | bytearray) -> tuple[int, int] | None:
    """From the first frame header. Bytes between two segments are skipped, as the decoder does."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # markers without a segment
            continue
        if marker in (0xD9, 0xDA):  # the end, and the pixels: a frame header comes before
            return None
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        at += max(2, struct.unpack_from(">H", data, at)[0])
    return None


def _webp_size(data: bytes | bytearray) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", data, 24)  # 24 bits each
        return (low & 0xFFFFFF) + 1, (low >> 24 | high << 8) + 1
    return None


def _tiff_size(data: bytes | bytearray) -> tuple[int, int] | None:
    """From the first image, or its tiles if they are larger.

    None if a size occurs twice, is not a single number, or has a type that TIFF does not allow: libtiff reads some of
    these, each in its own way.
    """
    order = "<" if data[:2] == b"II" else ">"
    large = b"+" in data[2:4]  # BigTIFF: 8 bytes where TIFF has 4
    if large:
        (at,) = struct.unpack_from(order + "Q", data, 8)
        (count,) = struct.unpack_from(order + "Q", data, at)
    else:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
    entries, step, value = (at + 8, 20, 12) if large else (at + 2, 12, 8)
    sizes: dict[int, int] = {}  # width and height: 256 and 257 of the image, 322 and 323 of a tile
    for entry in range(entries, entries + step * min(count, 4096), step):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257, 322, 323):
            form = {3: "H", 4: "I", 16: "Q" if large else ""}.get(kind)
            (numbers,) = struct.unpack_from(order + ("Q" if large else "I"), data, entry + 4)
            if not form or numbers != 1 or tag in sizes:
                return None
            (sizes[tag],) = struct.unpack_from(order + form, data, entry + value)
    width, height = (max(sizes.get(image, 0), sizes.get(tile, 0)) for image, tile in ((256, 322), (257, 323)))
    return (width, height) if width and height else None


def read_image(path: Path) -> Frame:
    """`decode_image` for a file."""
    return decode_image(read_bytes(path, DataError), str(path))
