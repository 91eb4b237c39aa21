"""A synthetic camera, to try an agent without one."""

from __future__ import annotations

import re
import time

import numpy as np

from edge.capture.sources.base import Kind
from sightline.errors import InputError
from sightline.preprocess import Frame

MIN_SIDE, MAX_SIDE, MAX_FPS = 16, 4096, 240  # pixels, pixels, frames a second
DEFAULT_WIDTH, DEFAULT_HEIGHT, DEFAULT_FPS = 640, 480, 30


class TestPattern:
    """`test:` or `test:WIDTHxHEIGHT@FPS`: a moving gradient with a bright moving square."""

    live = True
    kind: Kind = "test"

    def __init__(self, size: str) -> None:
        """size: the text after `test:`."""
        match = re.fullmatch(r"(?:(\d+)x(\d+))?(?:@(\d+))?", size)
        if not match:
            raise InputError(f"test:{size}: write test: or test:WIDTHxHEIGHT@FPS, such as test:1280x720@30")
        defaults = (DEFAULT_WIDTH, DEFAULT_HEIGHT, DEFAULT_FPS)
        width, height, self.fps = (int(g) if g else d for g, d in zip(match.groups(), defaults, strict=True))
        if not (min(width, height) >= MIN_SIDE and max(width, height) <= MAX_SIDE and 1 <= self.fps <= MAX_FPS):
            raise InputError(
                f"test:{size}: use {MIN_SIDE} to {MAX_SIDE} pixels for each side, and 1 to {MAX_FPS} frames a second"
            )
        self.format = f"{width}x{height}@{self.fps}"
        self.where = self.name = f"test:{self.format}"
        x, y = np.meshgrid(np.arange(2 * width), np.arange(height))
        wave = 127.5 * (1 + np.sin(2 * np.pi * x / width))
        self._wide = np.stack([wave, wave[:, ::-1], y * (255 / height)], axis=2).astype(np.uint8)
        self._width, self._height = width, height

    def open(self) -> None:
        self._frames_read = 0
        self._started = time.monotonic()

    def read(self, buffer: Frame | None) -> Frame | None:
        wait = self._started + self._frames_read / self.fps - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        if buffer is None or buffer.shape != (self._height, self._width, 3):
            buffer = np.empty((self._height, self._width, 3), np.uint8)
        shift = 4 * self._frames_read % self._width
        buffer[:] = self._wide[:, shift : shift + self._width]
        side = min(self._width, self._height) // 6
        left = 3 * self._frames_read % (self._width - side)
        top = 2 * self._frames_read % (self._height - side)
        buffer[top : top + side, left : left + side] = 240
        self._frames_read += 1
        return buffer

    def close(self) -> None:
        pass
