"""The noise of each op, and the time of an inference on this machine, for the report."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.evaluate.divergence import snr_db
from converters.tflite.ops import Op, list_ops
from converters.tflite.reference import reference_interpreter
from sightline.interpreter import Interpreter
from sightline.preprocess import Frame, InputSpec
from sightline.timing import durations_ms

NOISE_FRAMES = 8
LATENCY_SECONDS = 0.25
MAX_LATENCY_RUNS = 200


@dataclass(frozen=True)
class OpNoise:
    """snr_db: of the op's first output in the quantized model against the float model's, over some frames."""

    op: Op
    snr_db: float


def op_noise(float_model: bytes, quantized: bytes, frames: Frame, spec: InputSpec) -> list[OpNoise]:
    """The noise of each op of the float model whose output the quantized model has too, in the order of execution.

    frames: uint8 [n, height, width, 3].
    Both models run with the reference kernels: only they keep the tensors between the ops.
    """
    expected, actual = (_tensors(content, frames[:NOISE_FRAMES], spec) for content in (float_model, quantized))
    for name, values in expected.items():
        border = ~np.isfinite(values)  # minus infinity around a max-pooling in float; see `edits.finite_pads`
        if border.any() and name in actual:
            actual[name] = np.where(border, 0, actual[name])
            values[border] = 0
    return [
        OpNoise(op, snr_db(expected[op.output], actual[op.output]))
        for op in list_ops(float_model)
        if op.output in expected and op.output in actual and expected[op.output].shape == actual[op.output].shape
    ]


def latency_ms(content: bytes, spec: InputSpec, frame: Frame) -> float:
    """Median time of one inference in milliseconds, with one thread on this machine."""
    interpreter = Interpreter(content, spec)
    interpreter(frame)
    return statistics.median(durations_ms(interpreter.invoke, LATENCY_SECONDS, max_calls=MAX_LATENCY_RUNS))


def _tensors(content: bytes, frames: Frame, spec: InputSpec) -> dict[str, NDArray[np.float32]]:
    """{name: float32 [frames, values]} of each op's output, dequantized."""
    interpreter = reference_interpreter(content)
    (input_details,) = interpreter.get_input_details()
    table = Interpreter(content, spec).table
    names = {op.output for op in list_ops(content)}
    details = [d for d in interpreter.get_tensor_details() if d["name"] in names]
    tensors: dict[str, list[Any]] = {d["name"]: [] for d in details}
    for frame in frames:
        image = np.stack([table[c][frame[..., c]] for c in range(3)], axis=-1)
        interpreter.set_tensor(input_details["index"], image[None])
        interpreter.invoke()
        for d in details:
            scale, zero_point = d["quantization"]
            values = interpreter.get_tensor(d["index"]).astype(np.float32).reshape(-1)
            tensors[d["name"]].append((values - zero_point) * np.float32(scale) if scale else values)
    return {name: np.stack(values) for name, values in tensors.items()}
