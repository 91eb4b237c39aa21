"""Reading pictures from files: decoded once, the same way everywhere, and never half."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from sightline.errors import DataError
from sightline.preprocess import Frame

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def decode_image(data: bytes, name: str) -> Frame:
    """uint8 [height, width, 3] in BGR, turned upright by its EXIF orientation. Raises DataError, which names `name`.

    OpenCV fills the missing half of a truncated JPEG with grey and says nothing, so the end mark is looked for first.
    """
    if not data:
        raise DataError(f"{name}: the file is empty")
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]:
        raise DataError(f"{name}: the JPEG is cut off before its end")
    if data[:8] == b"\x89PNG\r\n\x1a\n" and b"IEND" not in data[-4096:]:
        raise DataError(f"{name}: the PNG is cut off before its end")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:  # sizes beyond OpenCV's limits
        raise DataError(f"{name}: OpenCV cannot decode it: {e.err}") from None
    if image is None:
        raise DataError(f"{name}: not a picture that can be decoded")
    return np.asarray(image, np.uint8)


def read_image(path: Path) -> Frame:
    """`decode_image` of a file."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    return decode_image(data, str(path))
