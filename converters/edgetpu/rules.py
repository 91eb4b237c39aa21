"""What the Edge TPU's compiler (frozen at 16.0, of 2021) takes.

Sources:
- ops and their limits: Coral, "TensorFlow models on the Edge TPU", tables "Model requirements" and "Supported
  operations" (coral.ai/docs/edgetpu/models-intro); the same table: Axis, "ARTPEC-7, supported ops".
- one contiguous part, everything after the first op that is not supported runs on the CPU: the same page, "Compiling".
- versions: compiler 16.0 goes with TensorFlow 2.5 (google-coral/libedgetpu, workspace.bzl), whose
  lite/tools/versioning/op_version.cc says which version an op of 8-bit tensors gets; compiler 16.0 rejects the whole
  file for CONV_2D 6 and QUANTIZE 3 (google-coral/edgetpu, issues 631 and 879).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from converters.tflite.ops import Node, Operand

CUSTOM_OP = "edgetpu-custom-op"
CONVERT = "convert with --device coral_usb"
_SOFTMAX_ELEMENTS = 16_000
_INT8 = ("int8", "uint8")

# op: where its bias stands among the inputs, and which dimension of the weights are the output channels
BIASED = {"CONV_2D": (2, 0), "DEPTHWISE_CONV_2D": (2, 3), "FULLY_CONNECTED": (2, 0)}

# newer versions than 8-bit tensors need, but which the compiler's TensorFlow knows as well
_KNOWN_VERSIONS = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 9, "QUANTIZE": 2}

# 2 for int8, and 1 for uint8
_INT8_IS_2 = {
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN",
    "MINIMUM", "PACK", "PAD", "REDUCE_MAX", "REDUCE_MIN", "RELU6", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH",
    "SPLIT", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE",
}  # fmt: skip
_ALWAYS_1 = {"EXPAND_DIMS", "PRELU", "RELU_N1_TO_1", "RESHAPE", "SQUEEZE"}

# what takes the place of an op that the compiler does not know
_INSTEAD = {
    "HARD_SWISH": "train with ReLU6 instead of hard-swish",
    "LEAKY_RELU": "train with ReLU or PReLU instead of leaky ReLU",
    "GELU": "train with ReLU6 instead of GELU",
    "ELU": "train with ReLU6 instead of ELU",
    "PADV2": "pad with zeros: PAD is supported",
    "BATCH_MATMUL": "use a fully-connected layer or a 1x1 convolution",
    "DEQUANTIZE": "end the graph before it: --scheme static_int8 has integers in and out",
    "ARG_MAX": "leave it to the host, after the model",
}
_SIZES = "Coral says that some sizes are not mapped, and not which"
_OPEN = dict.fromkeys(("RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE", "TRANSPOSE_CONV"), _SIZES)


@dataclass(frozen=True)
class Problem:
    """what: why an op is not mapped. fix: what would have to change, or ''."""

    what: str
    fix: str = ""


@dataclass(frozen=True)
class EdgeTpuMapping:
    """What the compiler would do with a graph of `ops` ops. compiled: it has done so already. before: QUANTIZE ops at
    the start that read floats and run on the CPU. mapped: ops in one piece after them. stop: index of the first op that
    is not mapped, None where none is. after: DEQUANTIZE ops, where nothing else is left. unsure: kinds that are mapped
    or not by sizes that Coral does not publish."""

    ops: int
    compiled: bool
    before: int
    mapped: int
    stop: int | None
    after: int
    name: str
    problem: Problem | None
    unsure: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return self.before + self.mapped + self.after == self.ops


def map_ops(nodes: Sequence[Node]) -> EdgeTpuMapping:
    """One piece from the start, as the compiler cuts it."""
    found = problems(nodes)
    before = 0
    while before < len(nodes) and nodes[before].name == "QUANTIZE" and _reads_float(nodes[before]):
        before += 1
    stop = next((i for i in range(before, len(nodes)) if found[i]), None)
    end = len(nodes) if stop is None else stop
    rest = nodes[end:]
    after = len(rest) if all(n.name == "DEQUANTIZE" for n in rest) else 0
    return EdgeTpuMapping(
        ops=len(nodes),
        compiled=any(n.name == CUSTOM_OP for n in nodes),
        before=before,
        mapped=end - before,
        stop=stop,
        after=after,
        name="" if stop is None else nodes[stop].name,
        problem=None if stop is None else found[stop],
        unsure=tuple(sorted({n.name for n in nodes[before:end] if n.name in _OPEN})),
    )


def problems(nodes: Sequence[Node]) -> list[Problem | None]:
    """For each op, the first reason for which it could not be mapped."""
    return [_problem(node) for node in nodes]


def _problem(node: Node) -> Problem | None:
    if node.name == CUSTOM_OP:
        return None
    if node.name not in _RULES:
        return Problem("not an op of the Edge TPU", _INSTEAD.get(node.name, ""))
    tensors = [t for t in (*node.inputs, *node.outputs) if t is not None]
    wrong = [t.dtype for t in node.flowing if t.dtype not in _INT8] or [
        t.dtype for t in node.constants if t.dtype.startswith("float")
    ]
    if wrong:
        return Problem(f"{wrong[0]}, where int8 or uint8 is needed", "convert with --scheme static_int8")
    if not all(t.fixed for t in tensors):
        return Problem("a size that is not fixed", f"export it with a fixed size, or {CONVERT}")
    if any(max(t.shape[:-3], default=1) > 1 for t in node.flowing):
        return Problem("more than one picture, or more than 3 dimensions above 1", "export it with a batch of 1")
    newest = max(_KNOWN_VERSIONS.get(node.name, 0), needed_version(node) or 0)
    if newest and node.version > newest:
        return Problem(f"version {node.version}; the compiler knows up to {newest}", CONVERT)
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
    bias_at, _ = BIASED[node.name]
    weights, bias = node.input(1), node.input(bias_at)
    if weights is None or not weights.constant or (bias is not None and not bias.constant):
        return Problem("weights that are computed; they must be constants")
    if bias is None:
        return Problem("no bias", CONVERT)
    return None


def _convolution(node: Node) -> Problem | None:
    if node.option("dilationWFactor", 1) != node.option("dilationHFactor", 1):
        return Problem("another dilation in x than in y")
    return _weighted(node)


def _fully_connected(node: Node) -> Problem | None:
    weights = node.input(1)
    if weights is not None and len(weights.scales) > 1:
        return Problem("per-channel weights", CONVERT)
    if node.option("weightsFormat"):
        return Problem("shuffled weights")
    if max(node.outputs[0].shape[:-1], default=1) > 1:
        return Problem(f"an output of {list(node.outputs[0].shape)}; only one dimension may exceed 1")
    return _weighted(node)


def _concatenation(node: Node) -> Problem | None:
    constants = node.constants
    if constants and (len(node.inputs) > 2 or not _all_zero(constants[0])):
        return Problem("a constant among its inputs that is not zero, or with more than one other")
    return _no_activation(node)


def _all_zero(tensor: Operand) -> bool:
    stored = tensor.data.view(tensor.dtype)
    return bool((stored == (tensor.zero_points or (0,))[0]).all())


def _reduction(node: Node) -> Problem | None:
    data, axes = node.input(0), node.input(1)
    if data is None or axes is None or not axes.constant:
        return Problem("axes that are computed; they must be constants")
    reduced = {axis % max(1, len(data.shape)) for axis in axes.numbers}
    if 0 in reduced:
        return Problem("a reduction over the batch")
    if node.name == "MEAN" and len(data.shape) - 1 in reduced and data.shape[-1] % 4:
        return Problem(f"a mean over {data.shape[-1]} channels; only multiples of 4 are mapped")
    return None


def _pad(node: Node) -> Problem | None:
    paddings = node.input(1)
    if paddings is None or not paddings.constant:
        return Problem("paddings that are computed; they must be constants")
    return Problem("padding of the batch") if any(paddings.numbers[:2]) else None


def _pack(node: Node) -> Problem | None:
    return Problem("packing along the batch") if node.option("axis") == 0 else None


def _split(node: Node) -> Problem | None:
    axis, data = node.input(0), node.input(1)
    if axis is None or data is None or not axis.constant:
        return Problem("an axis that is computed; it must be a constant")
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
            "leave it to the host, after the model",
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


def needed_version(node: Node) -> int | None:
    """The version that TensorFlow 2.5 gives an op of 8-bit tensors; None for ops and dtypes that are not looked into.

    A kernel reads the tensors and not the version, so writing another number changes nothing that is computed.
    """
    data = next((t for t in node.inputs if t is not None and not t.constant), None)
    if data is None or data.dtype not in _INT8:
        return None
    signed = data.dtype == "int8"
    match node.name:
        case name if name in _ALWAYS_1:
            return 1
        case name if name in _INT8_IS_2:
            return 2 if signed else 1
        case "RELU" | "QUANTIZE":
            return 2
        case "CONV_2D":
            return 3 if signed else 1
        case "DEPTHWISE_CONV_2D":
            dilated = node.option("dilationWFactor", 1) != 1 or node.option("dilationHFactor", 1) != 1
            return 3 if signed else 2 if dilated else 1
        case "FULLY_CONNECTED":
            if node.input(2) is None:
                return 6
            return 5 if node.option("keepNumDims", False) else 4 if signed else 1
        case "MUL":
            left, right = (node.input(k) for k in (0, 1))
            scales = [t.scales[0] for t in (left, right, node.outputs[0]) if t is not None and t.scales]
            rescaled = len(scales) == 3 and scales[0] * scales[1] / scales[2] >= 1
            return 3 if rescaled else 2 if signed else 1
        case "RESIZE_BILINEAR" | "RESIZE_NEAREST_NEIGHBOR":
            corners = node.name == "RESIZE_NEAREST_NEIGHBOR" and node.option("alignCorners", False)
            return 3 if node.option("halfPixelCenters", False) or corners else 2 if signed else 1
        case "TRANSPOSE_CONV":
            return 3 if node.input(3) is not None else 2 if signed else 1
    return None
