"""Which ops the Edge TPU's compiler (frozen at 16.0, of 2021) maps to the Edge TPU.

Sources:
- Ops and their limits: Coral, "TensorFlow models on the Edge TPU", tables "Model requirements" and "Supported
  operations" (coral.ai/docs/edgetpu/models-intro). The same table: Axis, "ARTPEC-7, supported ops".
- The compiler maps one contiguous part. Everything after the first op that is not supported runs on the CPU: the same
  page, "Compiling".
- Versions: see `converters.edgetpu.versions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from converters.edgetpu.versions import BIASED_OPS, INT8_TYPES, NEWEST_VERSIONS, needed_version
from converters.tflite.graph import Node, Operand

CUSTOM_OP = "edgetpu-custom-op"
CONVERT_FOR_CORAL = "convert with --device coral_usb"
_SOFTMAX_ELEMENTS = 16_000

# what to use instead of an op that the compiler does not know
_ALTERNATIVES = {
    "HARD_SWISH": "train with ReLU6 instead of hard-swish",
    "LEAKY_RELU": "train with ReLU or PReLU instead of leaky ReLU",
    "GELU": "train with ReLU6 instead of GELU",
    "ELU": "train with ReLU6 instead of ELU",
    "PADV2": "pad with zeros: PAD is supported",
    "BATCH_MATMUL": "use a fully-connected layer or a 1x1 convolution",
    "DEQUANTIZE": "end the graph before it; --scheme static_int8 has integer inputs and outputs",
    "ARG_MAX": "compute it on the host, after the model",
}
# Coral documents that some sizes of these ops are not mapped, but not which sizes
_UNCERTAIN_OPS = {"RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "TRANSPOSE_CONV"}


@dataclass(frozen=True)
class Problem:
    """Why the compiler does not map an op.

    reason: what is wrong.
    fix: what to change, or ''.
    """

    reason: str
    fix: str = ""


@dataclass(frozen=True)
class EdgeTpuMapping:
    """What the compiler would do with a graph.

    ops: number of ops.
    compiled: whether the graph is compiled for the Edge TPU already.
    cpu_ops_before: QUANTIZE ops at the start that read floats and run on the CPU.
    mapped_ops: ops in one piece after them, which run on the Edge TPU.
    cpu_ops_after: DEQUANTIZE ops at the end, if nothing else follows the mapped piece.
    first_unmapped: index of the first op that is not mapped; None where all are.
    unmapped_name, problem: its name, and why it is not mapped.
    uncertain_kinds: kinds of mapped ops for which it depends on sizes that Coral does not publish.
    """

    ops: int
    compiled: bool
    cpu_ops_before: int
    mapped_ops: int
    cpu_ops_after: int
    first_unmapped: int | None
    unmapped_name: str
    problem: Problem | None
    uncertain_kinds: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.cpu_ops_before + self.mapped_ops + self.cpu_ops_after == self.ops


def map_ops(nodes: Sequence[Node]) -> EdgeTpuMapping:
    """Cut one piece from the start of a graph, as the compiler does."""
    reasons = problems(nodes)
    before = 0
    while before < len(nodes) and nodes[before].name == "QUANTIZE" and _reads_float(nodes[before]):
        before += 1
    stop = next((i for i in range(before, len(nodes)) if reasons[i]), None)
    end = len(nodes) if stop is None else stop
    rest = nodes[end:]
    after = len(rest) if all(n.name == "DEQUANTIZE" for n in rest) else 0
    return EdgeTpuMapping(
        ops=len(nodes),
        compiled=any(n.name == CUSTOM_OP for n in nodes),
        cpu_ops_before=before,
        mapped_ops=end - before,
        cpu_ops_after=after,
        first_unmapped=stop,
        unmapped_name="" if stop is None else nodes[stop].name,
        problem=None if stop is None else reasons[stop],
        uncertain_kinds=tuple(sorted({n.name for n in nodes[before:end] if n.name in _UNCERTAIN_OPS})),
    )


def problems(nodes: Sequence[Node]) -> list[Problem | None]:
    """For each op, the first reason for which it could not be mapped."""
    return [_problem(node) for node in nodes]


def _problem(node: Node) -> Problem | None:
    if node.name == CUSTOM_OP:
        return None
    if node.name not in _RULES:
        return Problem("not an op of the Edge TPU", _ALTERNATIVES.get(node.name, ""))
    tensors = [t for t in (*node.inputs, *node.outputs) if t is not None]
    wrong = [t.dtype for t in node.activations if t.dtype not in INT8_TYPES] or [
        t.dtype for t in node.constants if t.dtype.startswith("float")
    ]
    if wrong:
        return Problem(f"its type is {wrong[0]}; int8 or uint8 is needed", "convert with --scheme static_int8")
    if not all(t.fixed for t in tensors):
        return Problem("a size that is not fixed", f"export the model with a fixed size, or {CONVERT_FOR_CORAL}")
    if any(max(t.shape[:-3], default=1) > 1 for t in node.activations):
        return Problem(
            "a batch of more than 1, or more than 3 dimensions above 1", "export the model with a batch of 1"
        )
    newest = max(NEWEST_VERSIONS.get(node.name, 0), needed_version(node) or 0)
    if newest and node.version > newest:
        return Problem(f"version {node.version}; the compiler knows versions up to {newest}", CONVERT_FOR_CORAL)
    return _RULES[node.name](node)


def _reads_float(node: Node) -> bool:
    return any(t.dtype.startswith("float") for t in node.inputs if t is not None)


def _any(node: Node) -> Problem | None:
    return None


def _no_activation(node: Node) -> Problem | None:
    if node.option("fusedActivationFunction"):
        return Problem("a fused activation", "make the activation an op of its own")
    return None


def _weighted(node: Node) -> Problem | None:
    bias_at, _ = BIASED_OPS[node.name]
    weights, bias = node.input(1), node.input(bias_at)
    if weights is None or not weights.constant or (bias is not None and not bias.constant):
        return Problem("weights that are not constant")
    if bias is None:
        return Problem("no bias", CONVERT_FOR_CORAL)
    return None


def _convolution(node: Node) -> Problem | None:
    if node.option("dilationWFactor", 1) != node.option("dilationHFactor", 1):
        return Problem("different dilations in x and y")
    return _weighted(node)


def _fully_connected(node: Node) -> Problem | None:
    weights = node.input(1)
    if weights is not None and len(weights.scales) > 1:
        return Problem("per-channel weights", CONVERT_FOR_CORAL)
    if node.option("weightsFormat"):
        return Problem("shuffled weights")
    if max(node.outputs[0].shape[:-1], default=1) > 1:
        return Problem(f"an output of {list(node.outputs[0].shape)}; only one dimension may exceed 1")
    return _weighted(node)


def _concatenation(node: Node) -> Problem | None:
    constants = node.constants
    if constants and (len(node.inputs) > 2 or not _all_zero(constants[0])):
        return Problem("a constant input that is not zero, or a constant with more than one other input")
    return _no_activation(node)


def _all_zero(tensor: Operand) -> bool:
    stored = tensor.data.view(tensor.dtype)
    return bool((stored == (tensor.zero_points or (0,))[0]).all())


def _reduction(node: Node) -> Problem | None:
    data, axes = node.input(0), node.input(1)
    if data is None or axes is None or not axes.constant:
        return Problem("axes that are not constant")
    reduced = {axis % max(1, len(data.shape)) for axis in axes.numbers}
    if 0 in reduced:
        return Problem("a reduction over the batch")
    if node.name == "MEAN" and len(data.shape) - 1 in reduced and data.shape[-1] % 4:
        return Problem(f"a mean over {data.shape[-1]} channels; only multiples of 4 are mapped")
    return None


def _pad(node: Node) -> Problem | None:
    paddings = node.input(1)
    if paddings is None or not paddings.constant:
        return Problem("paddings that are not constant")
    return Problem("padding of the batch") if any(paddings.numbers[:2]) else None


def _pack(node: Node) -> Problem | None:
    return Problem("packing along the batch") if node.option("axis") == 0 else None


def _split(node: Node) -> Problem | None:
    axis, data = node.input(0), node.input(1)
    if axis is None or data is None or not axis.constant:
        return Problem("an axis that is not constant")
    return Problem("splitting along the batch") if axis.numbers[0] % max(1, len(data.shape)) == 0 else None


def _prelu(node: Node) -> Problem | None:
    alpha = node.input(1)
    if alpha is None or max(alpha.shape[:-1], default=1) > 1:
        return Problem("an alpha with more than one dimension", "share alpha over height and width")
    return None


def _softmax(node: Node) -> Problem | None:
    shape = node.outputs[0].shape
    if max(shape[:-1], default=1) > 1 or shape[-1] > _SOFTMAX_ELEMENTS:
        return Problem(
            f"a softmax over {list(shape)}; one dimension of up to {_SOFTMAX_ELEMENTS:,} is supported",
            "compute it on the host, after the model",
        )
    return None


def _strided_slice(node: Node) -> Problem | None:
    strides = node.input(3)
    if strides is None or not strides.constant or set(strides.numbers) != {1}:
        return Problem("strides other than 1")
    if node.option("ellipsisMask") or node.option("newAxisMask"):
        return Problem("an ellipsis or a new axis")
    return None


_RULES: dict[str, Callable[[Node], Problem | None]] = {
    **dict.fromkeys(
        (
            "ADD", "EXPAND_DIMS", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "QUANTIZE", "RELU",
            "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE",
            "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE", "SQUEEZE", "SUB", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
        ),
        _any,
    ),
    "AVERAGE_POOL_2D": _no_activation,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _no_activation,
    "MEAN": _reduction,
    "PACK": _pack,
    "PAD": _pad,
    "PRELU": _prelu,
    "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction,
    "SOFTMAX": _softmax,
    "SPLIT": _split,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _reduction,
}  # fmt: skip
