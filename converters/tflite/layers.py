"""The layers with weights of a float model, as numpy sees them; for the methods that rewrite weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.tflite.graph import builtin_of, pack, unpack

_OP = schema.BuiltinOperator
WEIGHTED = (_OP.CONV_2D, _OP.DEPTHWISE_CONV_2D, _OP.FULLY_CONNECTED)


@dataclass(frozen=True)
class Layer:
    """Tensors by their index. weights: [out, height, width, in], depthwise [1, height, width, channels], fully
    connected [out, in]. bias: None where it has none. activation: schema.ActivationFunctionType, fused."""

    kind: int
    input: int
    weights: int
    bias: int | None
    output: int
    activation: int

    @property
    def depthwise(self) -> bool:
        return self.kind == _OP.DEPTHWISE_CONV_2D


class Network:
    """A float model's first subgraph, in which weights can be exchanged."""

    def __init__(self, content: bytes) -> None:
        self._model = unpack(content)
        self._graph = self._model.subgraphs[0]
        self.outputs = {int(t) for t in self._graph.outputs}
        self.consumers: dict[int, list[schema.OperatorT]] = {}
        for op in self._graph.operators:
            for t in op.inputs:
                self.consumers.setdefault(int(t), []).append(op)
        owners: dict[int, int] = {}
        for tensor in self._graph.tensors:
            owners[tensor.buffer] = owners.get(tensor.buffer, 0) + 1
        # weights that several tensors share, or several layers use, are left alone
        self._own = {
            t for t, tensor in enumerate(self._graph.tensors)
            if owners[tensor.buffer] == 1 and len(self.consumers.get(t, [])) == 1
        }  # fmt: skip

    def kind(self, op: schema.OperatorT) -> int:
        return builtin_of(self._model.operatorCodes[op.opcodeIndex])

    def name(self, tensor: int) -> str:
        return str(self._graph.tensors[tensor].name.decode())

    def values(self, tensor: int) -> NDArray[np.float32]:
        t = self._graph.tensors[tensor]
        data = self._model.buffers[t.buffer].data
        return np.asarray(data, np.uint8).view(np.float32).reshape(t.shape)

    def replace(self, tensor: int, values: NDArray[np.float32]) -> None:
        buffer = self._model.buffers[self._graph.tensors[tensor].buffer]
        buffer.data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)

    def layer(self, op: schema.OperatorT) -> Layer | None:
        """Of an op that has float weights of its own; None for any other."""
        if self.kind(op) not in WEIGHTED or int(op.inputs[1]) not in self._own or not self._constant(op.inputs[1]):
            return None
        options = op.builtinOptions
        if self.kind(op) == _OP.DEPTHWISE_CONV_2D and self.values(op.inputs[1]).shape[3] != self._channels(
            op.inputs[0]
        ):
            return None  # several outputs of one channel
        bias = int(op.inputs[2]) if len(op.inputs) > 2 and op.inputs[2] >= 0 else None
        if bias is not None and bias not in self._own:
            return None
        return Layer(
            self.kind(op), int(op.inputs[0]), int(op.inputs[1]), bias, int(op.outputs[0]),
            int(options.fusedActivationFunction),
        )  # fmt: skip

    def layers(self) -> Iterator[Layer]:
        for op in self._graph.operators:
            layer = self.layer(op)
            if layer is not None:
                yield layer

    def pack(self) -> bytes:
        return pack(self._model)

    def _constant(self, tensor: int) -> bool:
        data = self._model.buffers[self._graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def _channels(self, tensor: int) -> int:
        return int(self._graph.tensors[tensor].shape[-1])
