"""From what a model gives to what it says, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from sightline.decoders import read_layout
from sightline.detection_postprocess import detect
from sightline.interpreter import TensorInfo, dequantize
from sightline.output_spec import OutputSpec, decode
from sightline.predictions import Prediction
from sightline.preprocess import InputSpec, place

CLASSES, THINGS = 3, 100  # of a picture, at most, where nobody says another number


def answer(
    outputs: Sequence[NDArray[Any]],
    tensors: Sequence[TensorInfo],
    input: InputSpec,
    output: OutputSpec,
    size: tuple[int, int],
    threshold: float,
    top: int | None = None,
) -> tuple[Prediction, ...]:
    """outputs: as the model stores them (`Interpreter.raw`). tensors: what they are. size: (width, height) of the
    frame, in whose pixels places are. The `top` predictions whose score reaches `threshold`, best first."""
    if output.task == "classify":
        return decode(dequantize(tensors, outputs), output, top or CLASSES, threshold)
    placement = place(*size, input)
    if output.decoder:
        whole = input.width, input.height
        return read_layout(outputs, tensors, output, whole, placement, threshold, top or THINGS)
    return detect(outputs, tensors, output, placement, threshold, top or THINGS)
