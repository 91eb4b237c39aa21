"""What every reader of a model format takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converters.log_capture import Log, silent
from sightline.output_spec import OutputSpec
from sightline.preprocess import Frame, InputSpec, Resize

# (mean, std) of each channel in grey levels: a model's input is (byte - mean) / std
NORMALIZATIONS = {
    "0..255": ((0.0,) * 3, (1.0,) * 3),
    "0..1": ((0.0,) * 3, (255.0,) * 3),
    "-1..1": ((127.5,) * 3, (127.5,) * 3),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


class Reader(Protocol):
    """A module that reads one format of models. TITLE: the runtime whose outputs the TFLite must reproduce."""

    TITLE: str

    def to_tflite(self, path: Path, log: Log = silent) -> bytes:
        """The model as a float32 TFLite with input [1, height, width, 3]. log: receives slow steps.

        Raises ModelError.
        """

    def outputs(self, path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the original in its own runtime on float32 [n, height, width, 3]. Returns float32 [n, classes]."""


@dataclass(frozen=True)
class ModelOptions:
    """What the user states about a model. A run takes only `data` and `calibration`: it states the rest itself.

    data: class folders; for a run, the folder of its data set if that moved.
    calibration: images, or an .npz with `frames`, that set the activation ranges.
    labels: file of one label a line, in the order of the model's outputs.
    normalization: a name of `NORMALIZATIONS`, or 'MEAN/STD', each one number or three with commas, in grey levels.
    resize: how an image becomes the model's input; None means letterbox.
    size: (width, height) of the images that a PyTorch module takes; files state it themselves.
    """

    data: Path | None = None
    calibration: Path | None = None
    labels: Path | None = None
    normalization: str | None = None
    resize: Resize | None = None
    size: tuple[int, int] | None = None


DEFAULTS = ModelOptions()


@dataclass(frozen=True)
class Source:
    """A model that is ready to be quantized.

    origin: the runtime that computed `expected`.
    float_model: a float32 .tflite.
    calibration, golden: uint8 [n, height, width, 3].
    expected: float32 [n, values], the original's outputs for the golden frames, one after the other.
    shapes: of each output of one image.
    heldout: (path, class or boxes) of the images that neither training nor calibration used; None without labels.
    """

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
