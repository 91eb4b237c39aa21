"""Cross-layer equalization: one layer divides a channel by what the next multiplies it with; int8 suits it better."""

from __future__ import annotations

import itertools

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.quantize.calibrate import Activation
from converters.tflite.layers import Layer, Network

_OP = schema.BuiltinOperator
_ACTIVATION = schema.ActivationFunctionType
# they give c * x for c * x, a channel at a time
_HOMOGENEOUS = (_OP.PAD, _OP.MAX_POOL_2D, _OP.AVERAGE_POOL_2D, _OP.MEAN, _OP.RELU)
# how far a channel's scale goes from its activation's range (0 = not at all) and from the weights' that read it
STRENGTHS = tuple(itertools.product((0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5)))
# a channel that is nearly silent on the calibration pictures is not blown up without end
SMALLEST = 1e-4


def equalize(content: bytes, found: dict[str, Activation]) -> tuple[bytes, int]:
    """(a float model that computes the same, number of pairs of layers that were changed).

    A channel may be scaled between two layers where only what is positively homogeneous lies between them (Nagel et
    al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1). With one scale a
    weight channel it is the activation that gains, so the scales are chosen as Xiao et al. 2022, "SmoothQuant", do:
    from the ranges of both, with the strengths at which the noise that is expected of both is least.
    """
    network = Network(content)
    changed = 0
    for layer in list(network.layers()):
        readers = _readers(network, layer.output)
        activation = found.get(network.name(layer.output))
        if not readers or activation is None or layer.activation not in (_ACTIVATION.NONE, _ACTIVATION.RELU):
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
    """The layers that read a tensor, through what is homogeneous; none where anything else reads it as well."""
    if tensor in network.outputs or tensor not in network.consumers:
        return []
    readers: list[Layer] = []
    for op in network.consumers[tensor]:
        layer = network.layer(op)
        if layer is not None and layer.input == tensor:
            readers.append(layer)
        elif network.kind(op) in _HOMOGENEOUS and int(op.inputs[0]) == tensor and _keeps_channels(op):
            further = _readers(network, int(op.outputs[0]))
            if not further:
                return []
            readers += further
        else:
            return []
    return readers


def _keeps_channels(op: schema.OperatorT) -> bool:
    fused = getattr(op.builtinOptions, "fusedActivationFunction", _ACTIVATION.NONE)
    return fused in (_ACTIVATION.NONE, _ACTIVATION.RELU)


def _scales(a: Activation, readers: list[tuple[NDArray[np.float32], bool]]) -> NDArray[np.float32] | None:
    """[channels]: what each channel is to be divided by; None where nothing is won."""
    reach = np.maximum(np.abs(a.channel_low), np.abs(a.channel_high))
    largest = np.max([np.abs(w).reshape(-1, w.shape[-1]).max(axis=0) for w, _ in readers], axis=0)
    if not reach.max() > 0 or not largest.max() > 0 or len(reach) != len(largest):
        return None
    reach = np.maximum(reach / reach.max(), SMALLEST)
    largest = np.maximum(largest / largest.max(), SMALLEST)
    tried = [np.ones_like(reach)]
    for of_reach, of_weights in STRENGTHS:
        scales = reach**of_reach / largest**of_weights
        tried.append(scales / np.exp(np.log(scales).mean()))  # around 1: what is common to all channels buys nothing
    noise = [_noise(a, readers, scales) for scales in tried]
    best = int(np.argmin(noise))
    return tried[best] if noise[best] < 0.9 * noise[0] else None


def _noise(a: Activation, readers: list[tuple[NDArray[np.float32], bool]], scales: NDArray[np.float32]) -> float:
    """Mean square that rounding the scaled activation, and the weights that read it, is expected to add."""
    step = (max(float((a.channel_high / scales).max()), 0.0) - min(float((a.channel_low / scales).min()), 0.0)) / 255
    total = 0.0
    for weights, depthwise in readers:
        power = np.square(weights).reshape(-1, weights.shape[-1]).sum(axis=0)
        total += float((step**2 / 12 * scales**2 * power).sum())
        if not depthwise:  # whose weights' step is each channel's own, and grows as the channel shrinks
            steps = np.abs(weights * scales).reshape(len(weights), -1).max(axis=1) / 127
            taps = weights.reshape(len(weights), -1, weights.shape[-1]).shape[1]
            total += float((steps**2 / 12).sum() * taps * (a.channel_power / scales**2).sum())
    return total
