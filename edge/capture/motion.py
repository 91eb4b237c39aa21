"""Compares a camera's images without a model: does anything move, and is it the same image again and again?"""

from __future__ import annotations

import cv2
import numpy as np

from sightline.preprocess import Frame

# a pixel counts as changed if one channel differs by more levels than this: sensor noise and compression stay below
PIXEL_LEVELS = 20
# seconds after which a frame gets an inference without motion: dusk is too slow to count as motion
REFRESH_S = 10.0


class FreezeDetector:
    """Detects a camera that repeats one image: a working camera has noise in every frame.

    Only the camera's capture thread uses it.
    """

    def __init__(self) -> None:
        self._last: Frame = np.empty((0, 0, 3), np.uint8)
        self._since_ns = 0

    def seconds(self, image: Frame, now_ns: int) -> float:
        """Seconds since the first of the identical images in a row, 0 for a new one.

        image: uint8 [height, width, 3] in the model's size. It is copied.
        now_ns: monotonic.
        """
        if image.shape != self._last.shape:
            self._last, self._since_ns = image.copy(), now_ns
        elif not np.array_equal(image, self._last):
            self._last[:] = image
            self._since_ns = now_ns
        return (now_ns - self._since_ns) / 1e9


class MotionDetector:
    """Selects the frames that differ enough from the last selected one.

    Only the camera's capture thread uses it.
    """

    def __init__(self, percent: float) -> None:
        """percent: minimum percentage of changed pixels."""
        self._percent = percent
        self._last: Frame = np.empty((0, 0, 3), np.uint8)
        self._difference: Frame = self._last
        self._selected_ns = 0

    def moved(self, image: Frame, now_ns: int) -> bool:
        """Whether to run inference on `image`. If so, later images are compared with this one.

        True also for a new size, and `REFRESH_S` after the last selected image.
        image: uint8 [height, width, 3]. It is copied.
        now_ns: monotonic.
        """
        if image.shape == self._last.shape and now_ns - self._selected_ns < REFRESH_S * 1e9:
            cv2.absdiff(image, self._last, dst=self._difference)
            changed = np.count_nonzero(self._difference.max(axis=2) > PIXEL_LEVELS)
            if 100 * changed < self._percent * image.shape[0] * image.shape[1]:
                return False
        else:
            self._last, self._difference = np.empty_like(image), np.empty_like(image)
        self._last[:] = image
        self._selected_ns = now_ns
        return True
