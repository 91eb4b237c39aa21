"""A .tflite's main graph as values to reason about: each op with its options, and its tensors with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.tflite.graph import builtin_of

_OPS = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
_BITS = {"bool": 8, "float16": 16, "bfloat16": 16, "resource": 0, "variant": 0, "string": 0, "complex64": 64}
_NO_DATA = np.empty(0, np.uint8)


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor. shape: a size that is not fixed counts as 1. scales, zero_points: none, one, or one a channel; real
    value = scale * (stored - zero point). data: uint8, the bytes of a constant; empty for a tensor that flows.
    buffer: which of the file's buffers holds them; several tensors may share one."""

    index: int
    name: str
    shape: tuple[int, ...]
    fixed: bool
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    buffer: int
    data: NDArray[np.uint8]

    @property
    def constant(self) -> bool:
        return bool(len(self.data))

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        digits = "".join(c for c in self.dtype if c.isdigit())
        return (self.elements * _BITS.get(self.dtype, int(digits or 0)) + 7) // 8

    @property
    def numbers(self) -> list[int]:
        """Of a constant int32 or int64: axes, sizes, paddings."""
        return [int(n) for n in self.data.view(self.dtype)]


@dataclass(frozen=True, eq=False)
class Node:
    """An op. inputs: None where an optional one is absent. options: the schema's table of its kind, or None."""

    index: int
    name: str
    version: int
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand, ...]
    options: Any

    @property
    def flowing(self) -> list[Operand]:
        """The activations in and out of it."""
        return [t for t in (*self.inputs, *self.outputs) if t is not None and not t.constant]

    @property
    def constants(self) -> list[Operand]:
        return [t for t in self.inputs if t is not None and t.constant]

    def input(self, position: int) -> Operand | None:
        return self.inputs[position] if position < len(self.inputs) else None

    def option(self, name: str, default: Any = 0) -> Any:
        return getattr(self.options, name, default)


@dataclass(frozen=True, eq=False)
class Graph:
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    nodes: tuple[Node, ...]
    operands: tuple[Operand, ...]


def macs(node: Node) -> int:
    """Multiply-accumulates of one inference; 0 for ops that are none of them."""
    weights = node.input(1)
    if weights is None or not node.outputs:
        return 0
    output = node.outputs[0].elements
    match node.name:
        case "CONV_2D" | "CONV_3D":
            # a grouped convolution's filter has the channels of one group; a 3-D one's is [d, h, w, in, out]
            return output * prod(weights.shape[1:] if node.name == "CONV_2D" else weights.shape[:4])
        case "DEPTHWISE_CONV_2D":
            return output * prod(weights.shape[1:3])
        case "FULLY_CONNECTED":
            return output * weights.shape[-1]
        case "TRANSPOSE_CONV":
            data = node.input(2)
            return 0 if data is None else data.elements * prod(weights.shape[:3])
        case "BATCH_MATMUL":
            left = node.input(0)
            return 0 if left is None else output * left.shape[-2 if node.option("adjX", False) else -1]
    return 0


def code_name(code: schema.OperatorCodeT) -> str:
    """TFLite's name of an op's kind; a custom op's own."""
    if code.customCode:
        return str(code.customCode.decode(errors="replace"))
    number = builtin_of(code)
    return _OPS.get(number, f"BUILTIN_{number}")


def read_graph(model: schema.ModelT) -> Graph:
    """The main graph of `graph.unpack(content)`. Raises IndexError, TypeError or ValueError for one that does not fit
    together."""
    graph = model.subgraphs[0]
    operands = tuple(_operand(i, t, model.buffers) for i, t in enumerate(graph.tensors))

    def at(indices: Any) -> tuple[Operand, ...]:
        return tuple(operands[i] for i in _list(indices))

    nodes = []
    for i, op in enumerate(graph.operators):
        code = model.operatorCodes[op.opcodeIndex]
        inputs = tuple(operands[k] if k >= 0 else None for k in _list(op.inputs))
        options = op.builtinOptions if op.builtinOptions is not None else op.builtinOptions2
        nodes.append(Node(i, code_name(code), code.version, inputs, at(op.outputs), options))
    return Graph(at(graph.inputs), at(graph.outputs), tuple(nodes), operands)


def _operand(index: int, tensor: schema.TensorT, buffers: list[schema.BufferT]) -> Operand:
    quantization = tensor.quantization
    data = buffers[tensor.buffer].data
    return Operand(
        index=index,
        name=(tensor.name or b"").decode(errors="replace"),
        shape=tuple(_list(tensor.shape)),
        fixed=-1 not in _list(tensor.shapeSignature),
        dtype=_TYPES.get(tensor.type, f"type {tensor.type}"),
        scales=() if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale)),
        zero_points=() if quantization is None else tuple(_list(quantization.zeroPoint)),
        buffer=tensor.buffer,
        data=_NO_DATA if data is None else np.asarray(data, np.uint8),
    )


def _list(numbers: Any) -> list[int]:
    return [] if numbers is None else [int(n) for n in numbers]
