"""Cross-layer equalization: one layer divides a channel by a factor and the next multiplies by it, which suits int8."""

from __future__ import annotations

import itertools

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.quantize.calibrate import Activation
from converters.tflite.graph import Node
from converters.tflite.layers import Layer, Network

_SCALABLE_ACTIVATIONS = (schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU)
# ops that give c * y for c * x, channel by channel
_HOMOGENEOUS = ("PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "MEAN", "RELU")
# exponents of a channel's scale: (of its activation's range, of the range of the weights that read it)
STRENGTHS = tuple(itertools.product((0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5)))
# smallest range relative to the largest channel's: a nearly silent channel is not amplified without limit
MIN_RELATIVE_RANGE = 1e-4
MAX_NOISE_RATIO = 0.9  # expected noise after over before; a smaller gain is not worth a change

WeightReaders = list[tuple[NDArray[np.float32], bool]]  # (weights, depthwise) of the layers that read an activation


def equalize(content: bytes, activations: dict[str, Activation]) -> tuple[bytes, int]:
    """Equalize a float model. Returns one that computes the same, with the number of pairs of layers that changed.

    A channel may be scaled between two layers where only positively homogeneous ops lie between them (Nagel et al.
    2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1). Weights have one scale
    per channel, so the activation gains. The scales are therefore chosen as in Xiao et al. 2022, "SmoothQuant": from
    the ranges of both, with the strengths at which the expected noise of both is least.
    """
    network = Network(content)
    changed = 0
    for layer in list(network.layers()):
        readers = _readers(network, layer.output)
        activation = activations.get(network.name(layer.output))
        if not readers or activation is None or layer.activation not in _SCALABLE_ACTIVATIONS:
            continue
        scales = _scales(activation, [(network.values(r.weights), r.depthwise) for r in readers])
        if scales is None:
            continue
        weights = network.values(layer.weights)
        by_output = scales if layer.depthwise else scales.reshape(-1, *(1,) * (weights.ndim - 1))
        network.replace(layer.weights, weights / by_output)
        if layer.bias is not None:
            network.replace(layer.bias, network.values(layer.bias) / scales)
        for reader in readers:
            network.replace(reader.weights, network.values(reader.weights) * scales)
        changed += 1
    return (network.pack() if changed else content), changed


def _readers(network: Network, tensor: int) -> list[Layer]:
    """The layers that read a tensor, through homogeneous ops; none if anything else reads it too."""
    if tensor in network.outputs or tensor not in network.consumers:
        return []
    readers: list[Layer] = []
    for node in network.consumers[tensor]:
        layer, data = network.layer(node), node.input(0)
        if layer is not None and layer.input == tensor:
            readers.append(layer)
        elif node.name in _HOMOGENEOUS and data is not None and data.index == tensor and _scalable(node):
            further = _readers(network, node.outputs[0].index)
            if not further:
                return []
            readers += further
        else:
            return []
    return readers


def _scalable(node: Node) -> bool:
    return node.option("fusedActivationFunction", schema.ActivationFunctionType.NONE) in _SCALABLE_ACTIVATIONS


def _scales(a: Activation, readers: WeightReaders) -> NDArray[np.float32] | None:
    """[channels]: the divisor of each channel; None where equalization gains nothing."""
    reach = np.maximum(np.abs(a.channel_low), np.abs(a.channel_high))
    largest = np.max([np.abs(w).reshape(-1, w.shape[-1]).max(axis=0) for w, _ in readers], axis=0)
    if not reach.max() > 0 or not largest.max() > 0 or len(reach) != len(largest):
        return None
    reach = np.maximum(reach / reach.max(), MIN_RELATIVE_RANGE)
    largest = np.maximum(largest / largest.max(), MIN_RELATIVE_RANGE)
    candidates = [np.ones_like(reach)]
    for reach_strength, weight_strength in STRENGTHS:
        scales = reach**reach_strength / largest**weight_strength
        candidates.append(scales / np.exp(np.log(scales).mean()))  # around 1: a factor of all channels gains nothing
    noise = [_noise(a, readers, scales) for scales in candidates]
    best = int(np.argmin(noise))
    return candidates[best] if noise[best] < MAX_NOISE_RATIO * noise[0] else None


def _noise(a: Activation, readers: WeightReaders, scales: NDArray[np.float32]) -> float:
    """Expected mean square error from rounding the scaled activation, and the weights that read it."""
    step = (max(float((a.channel_high / scales).max()), 0.0) - min(float((a.channel_low / scales).min()), 0.0)) / 255
    total = 0.0
    for weights, depthwise in readers:
        power = np.square(weights).reshape(-1, weights.shape[-1]).sum(axis=0)
        total += float((step**2 / 12 * scales**2 * power).sum())
        if not depthwise:  # a depthwise weight's step is its channel's own, and grows as the channel shrinks
            steps = np.abs(weights * scales).reshape(len(weights), -1).max(axis=1) / 127
            taps = weights.reshape(len(weights), -1, weights.shape[-1]).shape[1]
            total += float((steps**2 / 12).sum() * taps * (a.channel_power / scales**2).sum())
    return total
