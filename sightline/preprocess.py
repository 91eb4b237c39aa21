"""From a camera frame to a model's input. Training, verification and devices share this resize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

Resize = Literal["letterbox", "center_crop", "stretch"]
Filter = Literal["pyramid", "linear", "area"]


@dataclass(frozen=True)
class InputSpec:
    """How a frame becomes a model's input. Every run and bundle has one.

    width, height: pixels of the model's input, RGB, NHWC.
    resize: `letterbox` keeps the whole image and its proportions, and pads. `center_crop` keeps the proportions and
        cuts the edges. `stretch` keeps the whole image and changes its proportions.
    filter: `pyramid` halves the image by 2x2 means while it is at least twice too large, then interpolates linearly. It
        does not alias, and costs an eighth of `area` at 720p. `linear` is what most other tools do. `area` averages.
    pad: grey level of the padding, 0..255.
    mean, std: the model takes (byte - mean) / std, for R, G, B. Sightline's own models take raw bytes.
    """

    width: int
    height: int
    resize: Resize = "letterbox"
    filter: Filter = "pyramid"
    pad: int = 114
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 8192 and 1 <= self.height <= 8192):
            raise ValueError(f"input of {self.width}x{self.height}: each side must be 1 to 8192 pixels")
        if not 0 <= self.pad <= 255:
            raise ValueError(f"pad {self.pad} is not a grey level of 0 to 255")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError("mean and std must have three numbers each, for R, G, B")
        if not all(map(math.isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise ValueError("mean and std must be finite numbers, and std above 0")

    @property
    def values(self) -> NDArray[np.float32]:
        """float32 [3, 256]: the normalized value of each byte of each channel."""
        mean, std = np.asarray(self.mean, np.float32)[:, None], np.asarray(self.std, np.float32)[:, None]
        return (np.arange(256, dtype=np.float32) - mean) / std

    def normalize(self, frames: Frame) -> NDArray[np.float32]:
        """uint8 [..., 3] -> float32 [..., 3]: the normalized values that the model takes."""
        return np.stack([table[frames[..., c]] for c, table in enumerate(self.values)], axis=-1)


@dataclass(frozen=True)
class Placement:
    """Where the frame lies in the model's input.

    source: rectangle of the frame, (x, y, width, height) in whole pixels.
    target: rectangle of the input that it fills.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]

    def to_source(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Convert a point of the input, or arrays of them, to pixels of the frame: the inverse of `Preprocessor`."""
        sx, sy, sw, sh = self.source
        tx, ty, tw, th = self.target
        return sx + (x - tx) * sw / tw, sy + (y - ty) * sh / th


def place(width: int, height: int, spec: InputSpec) -> Placement:
    """Where a frame of `width` x `height` pixels lies in the input."""
    whole_input = (0, 0, spec.width, spec.height)
    if spec.resize == "stretch":
        return Placement((0, 0, width, height), whole_input)
    if spec.resize == "center_crop":
        scale = max(spec.width / width, spec.height / height)
        w = min(width, max(1, round(spec.width / scale)))
        h = min(height, max(1, round(spec.height / scale)))
        return Placement(((width - w) // 2, (height - h) // 2, w, h), whole_input)
    scale = min(spec.width / width, spec.height / height)
    w = min(spec.width, max(1, round(width * scale)))
    h = min(spec.height, max(1, round(height * scale)))
    return Placement((0, 0, width, height), ((spec.width - w) // 2, (spec.height - h) // 2, w, h))


class Preprocessor:
    """Converts BGR frames to the RGB bytes of a model's input. It reuses its buffers, so each thread needs its own.

    >>> Preprocessor(InputSpec(2, 2))(np.zeros((8, 4, 3), np.uint8)).shape
    (2, 2, 3)
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self._size: tuple[int, int] = (0, 0)
        self._placement = Placement((0, 0, 0, 0), (0, 0, 0, 0))
        self._halves: list[Frame] = []
        self._bgr: Frame = np.empty((0, 0, 3), np.uint8)

    def empty(self) -> Frame:
        """A new buffer for the result, uint8 [spec.height, spec.width, 3]."""
        return np.empty((self.spec.height, self.spec.width, 3), np.uint8)

    def __call__(self, frame: Frame, out: Frame | None = None) -> Frame:
        """Convert a frame to uint8 [spec.height, spec.width, 3], RGB.

        frame: uint8 [height, width, 3], BGR as OpenCV reads it.
        out: buffer for the result; None = a new one.

        Raises ValueError for any other shape or dtype.
        """
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame must be uint8 [height, width, 3] in BGR, not {frame.dtype} {list(frame.shape)}")
        spec = self.spec
        height, width = frame.shape[:2]
        if (width, height) != self._size:
            self._prepare(width, height)
        if out is None:
            out = self.empty()
        sx, sy, sw, sh = self._placement.source
        tx, ty, tw, th = self._placement.target
        image = frame[sy : sy + sh, sx : sx + sw]
        for half in self._halves:
            cv2.resize(image, (half.shape[1], half.shape[0]), dst=half, interpolation=cv2.INTER_AREA)
            image = half
        last = cv2.INTER_AREA if spec.filter == "area" else cv2.INTER_LINEAR
        cv2.resize(image, (tw, th), dst=self._bgr, interpolation=last)
        if (tw, th) != (spec.width, spec.height):
            out.fill(spec.pad)
        out[ty : ty + th, tx : tx + tw] = self._bgr[:, :, ::-1]
        return out

    def _prepare(self, width: int, height: int) -> None:
        self._size = (width, height)
        self._placement = place(width, height, self.spec)
        w, h = self._placement.source[2:]
        tw, th = self._placement.target[2:]
        self._halves = []
        while self.spec.filter == "pyramid" and w >= 2 * tw and h >= 2 * th:
            w, h = w // 2, h // 2
            self._halves.append(np.empty((h, w, 3), np.uint8))
        self._bgr = np.empty((th, tw, 3), np.uint8)


def preprocess(frame: Frame, spec: InputSpec) -> Frame:
    """One frame through a fresh `Preprocessor`."""
    return Preprocessor(spec)(frame)
