"""What a camera's pictures say without a model: that nothing moves, or that it is always the very same one."""

from __future__ import annotations

import cv2
import numpy as np

from sightline.preprocess import Frame

# levels by which a pixel must differ: sensors' noise and compression stay below
PIXEL_LEVELS = 20
# with motion gating, look at least so often: dusk is no motion
REFRESH_S = 10.0


class FreezeDetector:
    """Notices a camera that gives the same picture again and again: a real one has noise in every frame."""

    def __init__(self) -> None:
        self._last: Frame = np.empty((0, 0, 3), np.uint8)
        self._since_ns = 0

    def seconds(self, image: Frame, now_ns: int) -> float:
        """For how long it has been byte for byte this picture. image: uint8 [height, width, 3], of the model's size."""
        if image.shape != self._last.shape:
            self._last, self._since_ns = image.copy(), now_ns
        elif not np.array_equal(image, self._last):
            self._last[:] = image
            self._since_ns = now_ns
        return (now_ns - self._since_ns) / 1e9


class MotionDetector:
    """Says which pictures are worth an inference: those that differ from the last one that was."""

    def __init__(self, percent: float) -> None:
        """percent: of the pixels, that must have changed."""
        self._percent = percent
        self._last: Frame = np.empty((0, 0, 3), np.uint8)
        self._difference: Frame = self._last
        self._looked_ns = 0

    def moved(self, image: Frame, now_ns: int) -> bool:
        """Whether to look at `image`, uint8 [height, width, 3]; if so, it is what the next ones are compared with."""
        if image.shape == self._last.shape and now_ns - self._looked_ns < REFRESH_S * 1e9:
            cv2.absdiff(image, self._last, dst=self._difference)
            changed = np.count_nonzero(self._difference.max(axis=2) > PIXEL_LEVELS)
            if 100 * changed < self._percent * image.shape[0] * image.shape[1]:
                return False
        else:
            self._last, self._difference = np.empty_like(image), np.empty_like(image)
        self._last[:] = image
        self._looked_ns = now_ns
        return True
