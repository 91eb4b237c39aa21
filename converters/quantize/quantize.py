"""Quantize a float TFLite to each scheme with ai-edge-quantizer. This is the only file that calls it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from ai_edge_quantizer import qtyping, recipe
from ai_edge_quantizer import quantizer as aeq

from converters.log_capture import capture_output
from converters.quantize.calibrate import Ranges
from converters.tflite.edits import finite_pads
from converters.tflite.ops import output_names
from sightline.device_config import Scheme
from sightline.errors import ModelError, reason


class Quantizer(Protocol):
    """The signature of `quantize`."""

    def __call__(
        self, content: bytes, scheme: Scheme, ranges: Ranges, fully_connected: str, float_ops: Sequence[str] = ()
    ) -> bytes: ...


def quantize(
    content: bytes, scheme: Scheme, ranges: Ranges, fully_connected: str, float_ops: Sequence[str] = ()
) -> bytes:
    """Quantize a float32 .tflite.

    - float32: no change.
    - float16: weights in float16.
    - dynamic_int8: weights in int8, activations while the model runs.
    - static_int8: everything in int8, inputs and outputs too.
    - static_int8_float_io: the same with float32 inputs and outputs, for browsers and MediaPipe.

    ranges: of the activations, for the static schemes.
    fully_connected: `per_channel` or `per_tensor` weight scales of fully-connected layers.
    float_ops: first outputs of the ops that a static scheme leaves in float. If the model's output is among them, it
        stays float32.
    Raises ModelError.
    """
    if scheme == "float32":
        return content
    try:
        with capture_output() as log:
            if scheme.startswith("static"):
                content = finite_pads(content, {name: float(r["min"].item()) for name, r in ranges.items()})
            quantizer = aeq.Quantizer(content)
            if scheme == "float16":
                quantizer.add_weight_only_config(
                    ".*", qtyping.TFLOperationName.ALL_SUPPORTED, 16, algorithm_key=aeq.AlgorithmName.FLOAT_CASTING
                )
            elif scheme == "dynamic_int8":
                quantizer.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            else:
                _configure_static(quantizer, content, scheme, fully_connected, float_ops)
            calibration = ranges if quantizer.need_calibration else None
            result = quantizer.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
            return bytes(result.quantized_model)
    except (ValueError, RuntimeError, KeyError, TypeError) as e:
        raise ModelError(f"ai-edge-quantizer cannot make {scheme}: {reason(e)} (full output: {log})") from e


def _configure_static(
    quantizer: aeq.Quantizer, content: bytes, scheme: Scheme, fully_connected: str, float_ops: Sequence[str]
) -> None:
    quantizer.load_quantization_recipe(recipe.static_wi8_ai8())
    if fully_connected == "per_tensor":
        quantizer.add_static_config(
            ".*", qtyping.TFLOperationName.FULLY_CONNECTED, 8, 8, qtyping.QuantGranularity.TENSORWISE
        )
    for output in float_ops:  # a scope is an op's outputs, joined by semicolons
        scope = f"^{re.escape(output)}(;.*)?$"
        quantizer.update_quantization_recipe(
            scope, qtyping.TFLOperationName.ALL_SUPPORTED, algorithm_key=aeq.AlgorithmName.NO_QUANTIZE
        )
    ends = []
    if scheme == "static_int8_float_io":
        ends = [qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT]
    elif set(output_names(content)) & set(float_ops):
        ends = [qtyping.TFLOperationName.OUTPUT]
    for end in ends:
        quantizer.update_quantization_recipe(".*", end, algorithm_key=aeq.AlgorithmName.NO_QUANTIZE)
