"""A .tflite's main graph as values: each op with its options, and its tensors with their scales.

`unpack` and `pack` turn a file into objects that can be changed, and back. `read_graph` is the one way to read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.tflite.names import dtype_name, op_name

_BITS = {"bool": 8, "float16": 16, "bfloat16": 16, "resource": 0, "variant": 0, "string": 0, "complex64": 64}
_NO_DATA = np.empty(0, np.uint8)


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor of the graph.

    shape: a size that is not fixed counts as 1.
    fixed: whether all sizes are fixed.
    scales, zero_points: none, one, or one a channel; real value = scale * (stored value - zero point).
    buffer: index of the file's buffer that holds the data; several tensors may share one.
    data: uint8, the bytes of a constant; empty for an activation.
    """

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
        """The values of a constant int32 or int64: axes, sizes, paddings."""
        return [int(n) for n in self.data.view(self.dtype)]


@dataclass(frozen=True, eq=False)
class Node:
    """An op of the graph.

    inputs: None where an optional input is absent.
    options: the schema's table for this kind of op, or None.
    """

    index: int
    name: str
    version: int
    inputs: tuple[Operand | None, ...]
    outputs: tuple[Operand, ...]
    options: Any

    @property
    def activations(self) -> list[Operand]:
        """The inputs and outputs that are no constants."""
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
    """The main graph. operands: all of its tensors, by index."""

    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    nodes: tuple[Node, ...]
    operands: tuple[Operand, ...]


def unpack(content: bytes) -> schema.ModelT:
    """The file as objects that can be changed; `pack` writes them."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        # from 256 KiB on ai-edge-quantizer keeps weights after the FlatBuffer, at an offset of the file
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack(model: schema.ModelT) -> bytes:
    """A .tflite of the objects. The same objects give the same bytes."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def read_graph(model: schema.ModelT | bytes) -> Graph:
    """The main graph of a .tflite, or of what `unpack` made of one.

    Raises IndexError, TypeError or ValueError for a graph whose parts do not fit together.
    """
    if isinstance(model, bytes):
        model = unpack(model)
    graph = model.subgraphs[0]
    operands = tuple(_operand(i, t, model.buffers) for i, t in enumerate(graph.tensors))

    def at(indices: Any) -> tuple[Operand, ...]:
        return tuple(operands[i] for i in _integers(indices))

    nodes = []
    for i, op in enumerate(graph.operators):
        code = model.operatorCodes[op.opcodeIndex]
        inputs = tuple(operands[k] if k >= 0 else None for k in _integers(op.inputs))
        options = op.builtinOptions if op.builtinOptions is not None else op.builtinOptions2
        nodes.append(Node(i, op_name(code), int(code.version), inputs, at(op.outputs), options))
    return Graph(at(graph.inputs), at(graph.outputs), tuple(nodes), operands)


def stored_bytes(model: schema.ModelT, tensor: int) -> NDArray[np.uint8]:
    """The bytes of a constant of the main graph, as they are now; empty for an activation."""
    data = model.buffers[model.subgraphs[0].tensors[tensor].buffer].data
    return _NO_DATA if data is None else np.asarray(data, np.uint8)


def _operand(index: int, tensor: schema.TensorT, buffers: list[schema.BufferT]) -> Operand:
    quantization = tensor.quantization
    data = buffers[tensor.buffer].data
    return Operand(
        index=index,
        name=(tensor.name or b"").decode(errors="replace"),
        shape=tuple(_integers(tensor.shape)),
        fixed=-1 not in _integers(tensor.shapeSignature),
        dtype=dtype_name(tensor.type),
        scales=() if quantization is None or quantization.scale is None else tuple(map(float, quantization.scale)),
        zero_points=() if quantization is None else tuple(_integers(quantization.zeroPoint)),
        buffer=tensor.buffer,
        data=_NO_DATA if data is None else np.asarray(data, np.uint8),
    )


def _integers(numbers: Any) -> list[int]:
    return [] if numbers is None else [int(n) for n in numbers]
