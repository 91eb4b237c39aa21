"""What every reader of a model format gives and takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sightline.output_spec import OutputSpec
from sightline.preprocess import Frame, InputSpec, Resize

# what a model makes of a byte before it looks: (mean, std) of each channel, in grey levels
NORMALIZATIONS = {
    "0..255": ((0.0,) * 3, (1.0,) * 3),
    "0..1": ((0.0,) * 3, (255.0,) * 3),
    "-1..1": ((127.5,) * 3, (127.5,) * 3),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
Say = Callable[[str], None]


def silent(line: str) -> None:
    """Says nothing."""


class Reader(Protocol):
    """A module that reads one format of models."""

    TITLE: str  # whose runtime computes the outputs that the TFLite has to give

    def to_tflite(self, path: Path, say: Say = silent) -> bytes:
        """Its float32 TFLite, [1, height, width, 3] in. say: told what takes long. Raises ModelError."""

    def outputs(self, path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [n, classes]: what the original gives for float32 [n, height, width, 3], in its own runtime."""


@dataclass(frozen=True)
class ModelOptions:
    """What the user says of a model. For a run only data and calibration may be said: it knows the rest.

    data: class folders; for a run, where its data set is now, if it moved. calibration: pictures, or an .npz with
    `frames`, that decide the ranges. labels: file of one label a line, in the order of the model's outputs.
    normalization: a name of `NORMALIZATIONS`, or 'MEAN/STD', each one number or three with commas, in grey levels.
    """

    data: Path | None = None
    calibration: Path | None = None
    labels: Path | None = None
    normalization: str | None = None
    resize: Resize | None = None


DEFAULTS = ModelOptions()


@dataclass(frozen=True)
class Source:
    """origin: where `expected` was computed. float_model: a .tflite. calibration, golden: uint8 [n, height, width, 3].
    expected: float32 [n, values], the origin's outputs for golden, one after the other; shapes: of each output of one
    picture. heldout: (picture, class or boxes) that neither training nor calibration saw; None where nobody labelled
    it."""

    name: str
    version: str
    origin: str
    float_model: bytes
    input: InputSpec
    output: OutputSpec
    calibration: Frame
    golden: Frame
    expected: NDArray[np.float32]
    heldout: list[tuple[Path, Any]]
    provenance: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
