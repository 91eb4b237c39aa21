"""The layers with weights of a float model as numpy arrays, for the methods that rewrite weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.tflite.graph import Node, pack, read_graph, stored_bytes, unpack
from converters.tflite.names import WEIGHTED_OPS


@dataclass(frozen=True)
class Layer:
    """A convolution or fully-connected layer. Tensors are indices into the graph.

    kind: TFLite's name of the op.
    weights: [out, height, width, in], depthwise [1, height, width, channels], fully connected [out, in].
    bias: None where the layer has none.
    activation: a number of schema.ActivationFunctionType, fused into the op.
    """

    kind: str
    input: int
    weights: int
    bias: int | None
    output: int
    activation: int

    @property
    def depthwise(self) -> bool:
        return self.kind == "DEPTHWISE_CONV_2D"


class Network:
    """A float model's main graph, in which weights can be replaced.

    outputs: indices of the graph's output tensors.
    consumers: {tensor: the ops that read it}.
    """

    def __init__(self, content: bytes) -> None:
        self._model = unpack(content)
        self._graph = read_graph(self._model)
        self.outputs = {t.index for t in self._graph.outputs}
        self.consumers: dict[int, list[Node]] = {}
        for node in self._graph.nodes:
            for t in node.inputs:
                if t is not None:
                    self.consumers.setdefault(t.index, []).append(node)
        owners = Counter(t.buffer for t in self._graph.operands)
        # weights that several tensors share, or several layers use, are left alone
        self._exclusive = {
            t.index for t in self._graph.operands if owners[t.buffer] == 1 and len(self.consumers.get(t.index, [])) == 1
        }

    def name(self, tensor: int) -> str:
        return self._graph.operands[tensor].name

    def values(self, tensor: int) -> NDArray[np.float32]:
        """A constant's values, as they are now."""
        return stored_bytes(self._model, tensor).view(np.float32).reshape(self._graph.operands[tensor].shape)

    def replace(self, tensor: int, values: NDArray[np.float32]) -> None:
        buffer = self._model.buffers[self._graph.operands[tensor].buffer]
        buffer.data = np.frombuffer(np.ascontiguousarray(values, np.float32).tobytes(), np.uint8)

    def layer(self, node: Node) -> Layer | None:
        """The layer of an op that alone uses its float weights; None for any other op."""
        data, weights, bias = node.input(0), node.input(1), node.input(2)
        if node.name not in WEIGHTED_OPS or data is None or weights is None:
            return None
        if weights.index not in self._exclusive or not weights.constant:
            return None
        if node.name == "DEPTHWISE_CONV_2D" and weights.shape[3] != data.shape[-1]:
            return None  # several outputs of one channel
        if bias is not None and bias.index not in self._exclusive:
            return None
        return Layer(
            kind=node.name,
            input=data.index,
            weights=weights.index,
            bias=None if bias is None else bias.index,
            output=node.outputs[0].index,
            activation=int(node.option("fusedActivationFunction")),
        )

    def layers(self) -> Iterator[Layer]:
        for node in self._graph.nodes:
            layer = self.layer(node)
            if layer is not None:
                yield layer

    def pack(self) -> bytes:
        return pack(self._model)
