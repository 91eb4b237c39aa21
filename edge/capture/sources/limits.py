"""Time and size limits of a network camera."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StreamLimits:
    """Limits of one network camera.

    open_timeout_s: longest wait for a connection, and for a byte of the response's head.
    read_timeout_s: longest wait for a byte of an image.
    transfer_s: longest duration of the whole head, and of one whole image.
    max_image_bytes: largest image, with all bytes around it.
    """

    open_timeout_s: float = 5.0
    read_timeout_s: float = 3.0
    transfer_s: float = 8.0
    max_image_bytes: int = 16 << 20


DEFAULT_LIMITS = StreamLimits()
