"""A camera that needs none."""

from __future__ import annotations

import re
import time

import numpy as np

from edge.capture.sources.base import Kind
from sightline.errors import InputError
from sightline.preprocess import Frame


class TestPattern:
    """`test:` or `test:WIDTHxHEIGHT@FPS`: a moving gradient with a bright square, to try an agent with no camera."""

    live = True
    kind: Kind = "test"

    def __init__(self, what: str) -> None:
        match = re.fullmatch(r"(?:(\d+)x(\d+))?(?:@(\d+))?", what)
        if not match:
            raise InputError(f"test:{what}: write test: or test:WIDTHxHEIGHT@FPS, such as test:1280x720@30")
        width, height, self.fps = (int(g) if g else d for g, d in zip(match.groups(), (640, 480, 30), strict=True))
        if not (16 <= width <= 4096 and 16 <= height <= 4096 and 1 <= self.fps <= 240):
            raise InputError(f"test:{what}: 16 to 4096 pixels a side, at 1 to 240 frames a second")
        self.format = f"{width}x{height}@{self.fps}"
        self.where = self.name = f"test:{self.format}"
        x, y = np.meshgrid(np.arange(2 * width), np.arange(height))
        wave = 127.5 * (1 + np.sin(2 * np.pi * x / width))
        self._wide = np.stack([wave, wave[:, ::-1], y * (255 / height)], axis=2).astype(np.uint8)
        self._width, self._height = width, height

    def open(self) -> None:
        self._given = 0
        self._started = time.monotonic()

    def read(self, buffer: Frame | None) -> Frame | None:
        wait = self._started + self._given / self.fps - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        if buffer is None or buffer.shape != (self._height, self._width, 3):
            buffer = np.empty((self._height, self._width, 3), np.uint8)
        shift = 4 * self._given % self._width
        buffer[:] = self._wide[:, shift : shift + self._width]
        side = min(self._width, self._height) // 6
        left, top = 3 * self._given % (self._width - side), 2 * self._given % (self._height - side)
        buffer[top : top + side, left : left + side] = 240
        self._given += 1
        return buffer

    def close(self) -> None:
        pass
