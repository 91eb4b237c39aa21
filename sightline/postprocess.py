"""From a model's raw outputs to predictions, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from sightline.decoders import decode_outputs
from sightline.detection_postprocess import detect
from sightline.interpreter import TensorInfo, dequantize
from sightline.output_spec import OutputSpec, decode
from sightline.predictions import Prediction
from sightline.preprocess import InputSpec, place

MAX_CLASSES = 3  # predictions of a classifier, if the caller sets no limit
MAX_OBJECTS = 100  # predictions of other models, if the caller sets no limit


def postprocess(
    outputs: Sequence[NDArray[Any]],
    tensors: Sequence[TensorInfo],
    input: InputSpec,
    output: OutputSpec,
    size: tuple[int, int],
    threshold: float,
    top: int | None = None,
) -> tuple[Prediction, ...]:
    """The `top` predictions whose score reaches `threshold`, best first, in pixels of the frame.

    outputs: as the model stores them (`Interpreter.raw`).
    tensors: their dtypes and scales.
    input, output: the model's specs.
    size: (width, height) of the frame.
    """
    if output.task == "classify":
        return decode(dequantize(tensors, outputs), output, top or MAX_CLASSES, threshold)
    placement, top = place(*size, input), top or MAX_OBJECTS
    if output.decoder:
        input_size = input.width, input.height
        return decode_outputs(outputs, tensors, output, input_size, placement, threshold, top)
    return detect(outputs, tensors, output, placement, threshold, top)
