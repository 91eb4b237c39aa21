"""Bias correction: rounded weights shift a layer's mean output, and its bias can compensate for the shift."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converters.quantize.calibrate import Activation
from converters.tflite.layers import Network


def correct_biases(content: bytes, activations: dict[str, Activation], fully_connected: str) -> tuple[bytes, int]:
    """Correct the biases of a float model for the int8 weights that it will get. Returns it with the number of layers.

    The expected shift is the weights' rounding error times the mean of the inputs (Nagel et al. 2019, "Data-Free
    Quantization", section 4.2, with means measured on the calibration images). As a float model the result is worse: it
    is made to be quantized.

    fully_connected: `per_channel` or `per_tensor` weight scales of fully-connected layers.
    """
    network = Network(content)
    changed = 0
    for layer in network.layers():
        activation = activations.get(network.name(layer.input))
        weights = network.values(layer.weights)
        if layer.bias is None or activation is None or len(activation.channel_mean) != weights.shape[-1]:
            continue
        per_tensor = weights.ndim == 2 and fully_connected == "per_tensor"
        error = rounded(weights, layer.depthwise, per_tensor) - weights
        if layer.depthwise:
            shift = error.reshape(-1, error.shape[-1]).sum(axis=0) * activation.channel_mean
        else:
            shift = error.reshape(len(error), -1, error.shape[-1]).sum(axis=1) @ activation.channel_mean
        network.replace(layer.bias, network.values(layer.bias) - shift)
        changed += 1
    return (network.pack() if changed else content), changed


def rounded(weights: NDArray[np.float32], depthwise: bool, per_tensor: bool) -> NDArray[np.float32]:
    """The weights after int8 rounding: symmetric, -127..127, one scale per output channel, or one for all."""
    flat = weights.reshape(-1, weights.shape[-1]) if depthwise else weights.reshape(len(weights), -1).T
    largest = np.abs(flat).max(axis=0)
    if per_tensor:
        largest = np.full_like(largest, largest.max())
    step = np.where(largest > 0, largest / 127, 1)
    step = step if depthwise else step.reshape(-1, *(1,) * (weights.ndim - 1))
    return np.asarray(np.clip(np.round(weights / step), -127, 127) * step, np.float32)
