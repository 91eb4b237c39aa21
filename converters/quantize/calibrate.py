"""How far each activation goes on calibration pictures, and the ranges that make int8 scales of it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from converters.tflite.graph import activations
from converters.tflite.reference import reference_interpreter
from sightline.preprocess import Frame, InputSpec

Ranges = dict[str, dict[str, NDArray[np.float32]]]
Method = Literal["min_max", "percentile_99.999", "percentile_99.99", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

# values kept of each tensor and frame: 256 frames give half a million, enough for the 99.999th percentile
SAMPLES = 2048
BINS = 4096
# no clipping beyond 0.4 of the range ever won
CLIPS = np.linspace(1.0, 0.4, 25)


@dataclass(frozen=True)
class Activation:
    """One tensor over all frames. low, high: its smallest and largest finite value. samples: float32 [n], values at
    places that are drawn by chance. channel_...: float32 [channels], along the last axis; power is the mean square.
    dimensions: of the tensor. pinned: the range is known, not estimated: it is what bytes are to the model."""

    low: float
    high: float
    samples: NDArray[np.float32]
    channel_low: NDArray[np.float32]
    channel_high: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    channel_power: NDArray[np.float32]
    dimensions: int
    pinned: bool = False


def observe(content: bytes, frames: Frame, spec: InputSpec) -> dict[str, Activation]:
    """{tensor: Activation} over `frames`, uint8 [n, height, width, 3], of a float32 model's every activation.

    True minima and maxima: ai-edge-quantizer's own calibration keeps a moving average of them, which cost 1.1 points of
    agreement on a MobileNetV2, and lets the input's range drift from that of bytes. Here that is pinned.
    """
    parts = np.array_split(np.arange(len(frames)), min(len(frames), os.cpu_count() or 1))
    interpreters = [reference_interpreter(content) for _ in parts]
    dimensions = activations(content)
    index = {d["name"]: d["index"] for d in interpreters[0].get_tensor_details() if d["name"] in dimensions}
    (entry,) = interpreters[0].get_input_details()

    def run(interpreter: Any, part: NDArray[np.int64]) -> list[dict[str, Activation]]:
        seen = []
        for i in part:
            interpreter.set_tensor(entry["index"], spec.normalize(frames[i : i + 1]))
            interpreter.invoke()
            chance = np.random.default_rng(int(i))  # of the frame alone: any number of threads gives the same
            seen.append({name: _look(interpreter.get_tensor(k), chance) for name, k in index.items()})
        return seen

    with ThreadPoolExecutor(len(parts)) as pool:
        seen = [frame for part in pool.map(run, interpreters, parts) for frame in part]
    found = {name: _merge([frame[name] for frame in seen], dimensions[name]) for name in index}
    bytes_range = {"low": float(spec.values.min()), "high": float(spec.values.max()), "pinned": True}
    found[entry["name"]] = Activation(**{**found[entry["name"]].__dict__, **bytes_range})
    return found


def ranges(found: dict[str, Activation], method: Method) -> Ranges:
    """{tensor: {"min", "max"}}, each of shape [1, ...], by one method for all tensors."""
    limits = {name: _limits(a, method) for name, a in found.items()}
    return {
        name: {
            "min": np.full((1,) * found[name].dimensions, low, np.float32),
            "max": np.full((1,) * found[name].dimensions, high, np.float32),
        }
        for name, (low, high) in limits.items()
    }


def _limits(a: Activation, method: Method) -> tuple[float, float]:
    if method == "min_max" or a.pinned or a.low == a.high:
        return a.low, a.high
    if method == "mse":
        return _least_squares(a)
    percent = float(method.removeprefix("percentile_"))
    low, high = np.percentile(a.samples, [100 - percent, percent])
    return max(a.low, float(low)), min(a.high, float(high))


def _least_squares(a: Activation) -> tuple[float, float]:
    """The clipping of both ends at which rounding and clipping together cost least (Choukroun et al. 2019, "Low-bit
    Quantization of Neural Networks for Efficient Inference", section 3), by trying."""
    low, high = min(a.low, 0.0), max(a.high, 0.0)
    counts, edges = np.histogram(a.samples, BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    # the error of one end does not depend on the other but for the step; clipped[i]: of CLIPS[i]
    below = np.asarray([(np.square(np.minimum(centres - low * c, 0)) * counts).sum() for c in CLIPS])
    above = np.asarray([(np.square(np.maximum(centres - high * c, 0)) * counts).sum() for c in CLIPS])
    steps = (high * CLIPS[None, :] - low * CLIPS[:, None]) / 255
    error = below[:, None] + above[None, :] + np.square(steps) / 12 * counts.sum()
    i, k = np.unravel_index(int(np.argmin(error)), error.shape)
    return low * float(CLIPS[i]), high * float(CLIPS[k])


def _look(values: NDArray[Any], chance: np.random.Generator) -> Activation:
    """One tensor in one frame."""
    flat = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    low = flat.min(axis=0)
    if low.min() == -np.inf:  # the border that a max-pooling gets; see `graph.finite_pads`
        low = np.where(np.isfinite(flat), flat, np.inf).min(axis=0)
        flat = np.maximum(flat, low.min())
    every = flat.reshape(-1)
    samples = every if every.size <= SAMPLES else every[chance.integers(0, every.size, SAMPLES)]
    high = flat.max(axis=0)
    power = np.einsum("nc,nc->c", flat, flat) / np.float32(len(flat))
    return Activation(float(low.min()), float(high.max()), samples.copy(), low, high, flat.mean(axis=0), power, 0)


def _merge(frames: list[Activation], dimensions: int) -> Activation:
    return Activation(
        low=min(a.low for a in frames),
        high=max(a.high for a in frames),
        samples=np.concatenate([a.samples for a in frames]),
        channel_low=np.min([a.channel_low for a in frames], axis=0),
        channel_high=np.max([a.channel_high for a in frames], axis=0),
        channel_mean=np.mean([a.channel_mean for a in frames], axis=0),
        channel_power=np.mean([a.channel_power for a in frames], axis=0),
        dimensions=dimensions,
    )
