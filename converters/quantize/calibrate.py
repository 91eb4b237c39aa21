"""The range of each activation on the calibration images, from which its int8 scale is made."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from converters.tflite.ops import activation_ranks
from converters.tflite.reference import reference_interpreter
from sightline.preprocess import Frame, InputSpec

Ranges = dict[str, dict[str, NDArray[np.float32]]]
Method = Literal["min_max", "percentile_99.999", "percentile_99.99", "mse"]
METHODS: tuple[Method, ...] = get_args(Method)

# samples of each tensor and frame: 256 frames give half a million, enough for the 99.999th percentile
SAMPLES = 2048
BINS = 4096  # of the histogram for least squares
# fractions of the range that are tried: no clipping below 0.4 ever won
CLIPS = np.linspace(1.0, 0.4, 25)


@dataclass(frozen=True)
class Activation:
    """The statistics of one tensor over all calibration frames.

    low, high: its smallest and largest finite value.
    samples: float32 [n], values at random places.
    channel_low, channel_high, channel_mean: float32 [channels], along the last axis.
    channel_power: float32 [channels], the mean square.
    dimensions: of the tensor.
    pinned: whether the range is known and not estimated, as that of the input is.
    """

    low: float
    high: float
    samples: NDArray[np.float32]
    channel_low: NDArray[np.float32]
    channel_high: NDArray[np.float32]
    channel_mean: NDArray[np.float32]
    channel_power: NDArray[np.float32]
    dimensions: int
    pinned: bool = False


def observe(content: bytes, frames: Frame, spec: InputSpec, workers: int | None = None) -> dict[str, Activation]:
    """Measure every activation of a float32 model: {tensor name: Activation}.

    True minima and maxima: ai-edge-quantizer's own calibration keeps a moving average of them, which cost 1.1 points of
    agreement on a MobileNetV2, and lets the input's range drift from that of bytes. Here the input's range is pinned.

    frames: uint8 [n, height, width, 3].
    workers: number of threads; None means one per core. The result does not depend on it.
    """
    parts = np.array_split(np.arange(len(frames)), min(len(frames), workers or os.cpu_count() or 1))
    interpreters = [reference_interpreter(content) for _ in parts]
    ranks = activation_ranks(content)
    index = {d["name"]: d["index"] for d in interpreters[0].get_tensor_details() if d["name"] in ranks}
    (input_details,) = interpreters[0].get_input_details()

    def run(interpreter: Any, part: NDArray[np.int64]) -> list[dict[str, Activation]]:
        results = []
        for i in part:
            interpreter.set_tensor(input_details["index"], spec.normalize(frames[i : i + 1]))
            interpreter.invoke()
            rng = np.random.default_rng(int(i))  # seeded by the frame: any number of threads gives the same samples
            results.append({name: _measure(interpreter.get_tensor(k), rng) for name, k in index.items()})
        return results

    with ThreadPoolExecutor(len(parts)) as pool:
        by_frame = [frame for part in pool.map(run, interpreters, parts) for frame in part]
    merged = {name: _merge([frame[name] for frame in by_frame], ranks[name]) for name in index}
    name, values = input_details["name"], spec.values
    merged[name] = replace(merged[name], low=float(values.min()), high=float(values.max()), pinned=True)
    return merged


def ranges(activations: dict[str, Activation], method: Method) -> Ranges:
    """The range of each tensor by one method: {tensor: {"min", "max"}}, each of shape [1, ...]."""
    limits = {name: _limits(a, method) for name, a in activations.items()}
    return {
        name: {
            "min": np.full((1,) * activations[name].dimensions, low, np.float32),
            "max": np.full((1,) * activations[name].dimensions, high, np.float32),
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
    """The clipping of both ends with the least error of rounding and clipping together, by trying all `CLIPS`.

    Method: Choukroun et al. 2019, "Low-bit Quantization of Neural Networks for Efficient Inference", section 3.
    """
    low, high = min(a.low, 0.0), max(a.high, 0.0)
    counts, edges = np.histogram(a.samples, BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    # the error of one end depends on the other only through the step; below[i] and above[i] are those of CLIPS[i]
    below = np.asarray([(np.square(np.minimum(centres - low * c, 0)) * counts).sum() for c in CLIPS])
    above = np.asarray([(np.square(np.maximum(centres - high * c, 0)) * counts).sum() for c in CLIPS])
    steps = (high * CLIPS[None, :] - low * CLIPS[:, None]) / 255
    error = below[:, None] + above[None, :] + np.square(steps) / 12 * counts.sum()
    i, k = np.unravel_index(int(np.argmin(error)), error.shape)
    return low * float(CLIPS[i]), high * float(CLIPS[k])


def _measure(values: NDArray[Any], rng: np.random.Generator) -> Activation:
    """The statistics of one tensor in one frame."""
    flat = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    low = flat.min(axis=0)
    if low.min() == -np.inf:  # the border around a max-pooling; see `edits.finite_pads`
        low = np.where(np.isfinite(flat), flat, np.inf).min(axis=0)
        flat = np.maximum(flat, low.min())
    every = flat.reshape(-1)
    samples = every if every.size <= SAMPLES else every[rng.integers(0, every.size, SAMPLES)]
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
