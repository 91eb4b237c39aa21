"""Training with int8 rounding, so that the weights learn to tolerate it (Jacob et al. 2018, "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference").

The module becomes a graph of ATen ops, as for conversion, in which each weight and each tensor that TFLite keeps in
int8 passes through a fake quantization: rounded to its 255 or 256 steps, still float32, with the gradient of the
identity (straight-through) inside the range. PyTorch's own pass for this (PT2E) does not work with torch 2.14.

Ops that TFLite splits into several (attention, layer norm, SiLU) are rounded once, at their end. TFLite rounds them
more often.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from sightline.errors import ModelError, reason

aten = torch.ops.aten
CALIBRATION_BATCH = 64  # images
_WEIGHTED = {aten.conv2d.default, aten.linear.default}
_IN_PLACE = {"relu_", "hardtanh_", "hardswish_", "silu_", "add_", "mul_", "sigmoid_", "hardsigmoid_", "relu6_"}
# TFLite computes these in the kernel of the previous op: there is no tensor in between
_FUSED = {aten.batch_norm.default, aten.relu.default, aten.relu6.default, aten.hardtanh.default}
_TAKES_FUSED = {*_WEIGHTED, aten.batch_norm.default, aten.add.Tensor}
# these move or select values, so their outputs lie on the steps of their inputs
_MOVES = {
    aten.permute.default, aten.transpose.int, aten.view.default, aten.reshape.default, aten.flatten.using_ints,
    aten.squeeze.dim, aten.unsqueeze.default, aten.slice.Tensor, aten.select.int, aten.unbind.int, aten.expand.default,
    aten.contiguous.default, aten.clone.default, aten.dropout.default, aten.max_pool2d.default, aten.pad.default,
    aten.constant_pad_nd.default, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default,
    aten.to.dtype, operator.getitem,
}  # fmt: skip


class FakeQuantizedActivation(nn.Module):
    """A tensor in int8 with one scale, asymmetric: 0 is exactly one of its 256 steps, as TFLite's kernels need it.

    observing: whether values pass unchanged and widen the range.
    low, high: the range.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.observing = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            torch.minimum(self.low, x.detach().amin(), out=self.low)
            torch.maximum(self.high, x.detach().amax(), out=self.high)
            return x
        scale = ((self.high - self.low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
        zero_point = (-128 - self.low / scale).round().clamp(-128, 127).to(torch.int32)
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)


class FakeQuantizedWeight(nn.Module):
    """Weights in int8, one scale for each output channel (dimension 0), symmetric: -127..127 times max|w| / 127.

    A batch norm that is folded in later multiplies a whole channel, and with it the channel's scale: the integers stay
    the same.

    observing: whether weights pass unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observing = False

    def forward(self, w: Tensor) -> Tensor:
        if self.observing:
            return w
        scale = w.detach().flatten(1).abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        zero_point = torch.zeros(len(scale), dtype=torch.int32, device=w.device)
        return torch.fake_quantize_per_channel_affine(w, scale, zero_point, 0, -127, 127)


def fake_quantized(model: nn.Module, size: int, device: torch.device) -> fx.GraphModule:
    """`model` with fake quantization. Its input is float32 [n, size, size, 3].

    Both share their parameters: training one trains the other. Batch norms keep their statistics, and dropout is off.
    Call `calibrate` to set the ranges of the activations. Raises ModelError if torch.export does not support the model.
    """
    sample = torch.linspace(0, 255, 2 * size * size * 3, device=device).view(2, size, size, 3)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            program = torch.export.export(model.eval(), (sample,), dynamic_shapes=dynamic)
    except Exception as e:  # its errors have no common class
        raise ModelError(f"torch.export does not support this model in batches: {reason(e)}") from e
    exported = program.module(check_guards=False)
    graph = exported.graph
    _without_in_place(graph)
    net = fx.GraphModule(exported, graph)  # the exported module itself refuses `train()`
    dependent = _input_dependent(graph)
    for i, node in enumerate([n for n in graph.nodes if n.target in _WEIGHTED and n in dependent]):
        _insert(net, node.args[1], f"fake_weight_{i}", FakeQuantizedWeight(), only=node)
    for i, node in enumerate([n for n in graph.nodes if n in dependent and _is_quantized(n)]):
        _insert(net, node, f"fake_activation_{i}", FakeQuantizedActivation())
    net.recompile()
    net.to(device)
    with torch.no_grad(), _in_float(net):
        expected, actual = model(sample), net(sample)
    pairs = [(actual, expected)] if isinstance(expected, Tensor) else list(zip(actual, expected, strict=True))
    if not all(torch.allclose(a, e, rtol=1e-3, atol=1e-3 * max(1.0, float(e.abs().max()))) for a, e in pairs):
        raise ModelError("torch.export made a graph of this model that is not the same function")
    return net


def calibrate(net: nn.Module, frames: NDArray[np.uint8], device: torch.device) -> None:
    """Set each activation's range to its smallest and largest value over `frames` in float, as conversion does.

    frames: uint8 [n, height, width, 3].
    """
    for m in net.modules():
        if isinstance(m, FakeQuantizedActivation):
            m.low.zero_()
            m.high.zero_()
    with torch.no_grad(), _in_float(net):
        for part in np.array_split(frames, -(-len(frames) // CALIBRATION_BATCH)):
            net(torch.from_numpy(part).to(device).float())


@contextmanager
def _in_float(net: nn.Module) -> Iterator[None]:
    """Nothing is rounded, and each activation's range grows to include the values that pass."""
    fakes = [m for m in net.modules() if isinstance(m, FakeQuantizedActivation | FakeQuantizedWeight)]
    for m in fakes:
        m.observing = True
    yield
    for m in fakes:
        m.observing = False


def divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the probabilities from a teacher's (Hinton et al. 2015), in nats per image.

    logits, teacher_logits: [n, classes].
    """
    return nn.functional.kl_div(
        logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="batchmean", log_target=True
    )


def _without_in_place(graph: fx.Graph) -> None:
    """Replace ops that overwrite their input: rounding after them would mix rounded and unrounded values."""
    for node in graph.nodes:
        name = node.target.__name__.partition(".")[0] if node.op == "call_function" else ""
        if name in _IN_PLACE:
            changed = node.args[0]
            node.target = getattr(getattr(aten, name.removesuffix("_")), node.target._overloadname)
            later = {n for n in changed.users if n is not node and n > node}
            changed.replace_all_uses_with(node, delete_user_cb=lambda n, later=later: n in later)


def _input_dependent(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value depends on the image."""
    dependent: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in dependent for n in node.all_input_nodes):
            dependent.add(node)
    return dependent


def _is_quantized(node: fx.Node) -> bool:
    """Whether TFLite stores this value in int8 with its own scale."""
    value: Any = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if node.target in _MOVES:
        return False
    users = list(node.users)
    return not (node.target in _TAKES_FUSED and len(users) == 1 and users[0].target in _FUSED)


def _insert(net: fx.GraphModule, node: fx.Node, name: str, fake: nn.Module, only: fx.Node | None = None) -> None:
    """Put `fake` behind a node. only: the one user that gets the rounded value; None = all of them."""
    net.add_submodule(name, fake)
    with net.graph.inserting_after(node) if only is None else net.graph.inserting_before(only):
        new = net.graph.call_module(name, (node,))
    if only is not None:
        only.replace_input_with(node, new)
    else:
        node.replace_all_uses_with(new, delete_user_cb=lambda n: n is not new)
