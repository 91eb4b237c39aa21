"""What the report shows of a model besides its answers: the noise of each op, and how long it takes here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.evaluate.divergence import snr_db
from converters.tflite.graph import Op, ops
from converters.tflite.reference import reference_interpreter
from sightline.interpreter import Interpreter
from sightline.preprocess import Frame, InputSpec
from sightline.timing import durations_ms

NOISE_FRAMES = 8
LATENCY_SECONDS = 0.25
MAX_LATENCY_RUNS = 200


@dataclass(frozen=True)
class OpNoise:
    """snr_db: of the op's first output in the quantized model against the float one's, over some frames."""

    op: Op
    snr_db: float


def op_noise(float_model: bytes, quantized: bytes, frames: Frame, spec: InputSpec) -> list[OpNoise]:
    """Of each op of the float model whose output the quantized one has too, in the order in which they run.

    frames: uint8 [n, height, width, 3]. Both with the reference kernels: only they keep what is in between.
    """
    wanted, given = (_tensors(content, frames[:NOISE_FRAMES], spec) for content in (float_model, quantized))
    for name, values in wanted.items():
        border = ~np.isfinite(values)  # of a max-pooling, minus infinity in float; see `graph.finite_pads`
        if border.any() and name in given:
            given[name] = np.where(border, 0, given[name])
            values[border] = 0
    return [
        OpNoise(op, snr_db(wanted[op.output], given[op.output]))
        for op in ops(float_model)
        if op.output in wanted and op.output in given and wanted[op.output].shape == given[op.output].shape
    ]


def latency_ms(content: bytes, spec: InputSpec, frame: Frame) -> float:
    """Median time of one inference, in milliseconds, with one thread on this machine."""
    interpreter = Interpreter(content, spec)
    interpreter(frame)
    return statistics.median(durations_ms(interpreter.invoke, LATENCY_SECONDS, max_calls=MAX_LATENCY_RUNS))


def _tensors(content: bytes, frames: Frame, spec: InputSpec) -> dict[str, NDArray[np.float32]]:
    """{name: float32 [frames, values]} of what each op gives, dequantized."""
    interpreter = reference_interpreter(content)
    (entry,) = interpreter.get_input_details()
    table = Interpreter(content, spec).table
    wanted = {op.output for op in ops(content)}
    details = [d for d in interpreter.get_tensor_details() if d["name"] in wanted]
    found: dict[str, list[Any]] = {d["name"]: [] for d in details}
    for frame in frames:
        picture = np.stack([table[c][frame[..., c]] for c in range(3)], axis=-1)
        interpreter.set_tensor(entry["index"], picture[None])
        interpreter.invoke()
        for d in details:
            scale, zero = d["quantization"]
            values = interpreter.get_tensor(d["index"]).astype(np.float32).reshape(-1)
            found[d["name"]].append((values - zero) * np.float32(scale) if scale else values)
    return {name: np.stack(values) for name, values in found.items()}
