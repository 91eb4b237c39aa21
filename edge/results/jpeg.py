"""The JPEG encoder of all outputs: the page, MQTT and snapshots."""

from __future__ import annotations

import cv2

from sightline.errors import DeviceError, reason
from sightline.preprocess import Frame


def encode_jpeg(frame: Frame, quality: int) -> bytes:
    """A JPEG of a uint8 [height, width, 3] BGR frame. Raises DeviceError: a JPEG has at most 65,500 pixels a side.

    quality: 0..100.
    """
    size = f"{frame.shape[1]}x{frame.shape[0]}"
    try:
        done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as e:
        raise DeviceError(f"cannot encode {size} pixels as JPEG: {reason(e)}") from None
    if not done:
        raise DeviceError(f"cannot encode {size} pixels as JPEG")
    return data.tobytes()
