"""What the conversion asks of a .tflite: its ops, its activations, its cost, and whether XNNPACK survives it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from converters.tflite.graph import Node, read_graph
from converters.tflite.names import WEIGHTED_OPS

# they move data or change its type: in float they cost no accuracy and little time
_DATA_MOVEMENT = {"QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "CAST"}
_MAX_REQUANTIZATION = 256  # factor between an int8 layer's sums and its output, at which XNNPACK crashes


@dataclass(frozen=True)
class Op:
    """An op of the main graph.

    name: TFLite's name of its kind.
    output: name of its first output tensor.
    activations: dtypes of the activations that it reads and writes.
    """

    name: str
    output: str
    activations: tuple[str, ...]

    @property
    def computes_in_float(self) -> bool:
        return self.name not in _DATA_MOVEMENT and any(t.startswith("float") for t in self.activations)


def list_ops(content: bytes) -> list[Op]:
    """The main graph's ops, in the order in which they run."""
    return [_op(node) for node in read_graph(content).nodes]


def activation_ranks(content: bytes) -> dict[str, int]:
    """{name: number of dimensions} of the activations: the inputs and every op's outputs."""
    graph = read_graph(content)
    tensors = (*graph.inputs, *(t for node in graph.nodes for t in node.outputs))
    return {t.name: len(t.shape) for t in tensors}


def output_names(content: bytes) -> list[str]:
    """Names of the main graph's outputs."""
    return [t.name for t in read_graph(content).outputs]


def xnnpack_survives(content: bytes) -> bool:
    """Whether XNNPACK can run an int8 model.

    An int8 layer that has to multiply its sums by 256 or more makes XNNPACK free memory twice and abort the process
    (ai-edge-litert 2.3). Ranges of very different channels may ask for that.
    """
    for node in read_graph(content).nodes:
        if node.name not in WEIGHTED_OPS or _op(node).computes_in_float:
            continue
        data, weights, output = node.input(0), node.input(1), node.outputs[0]
        if data is None or weights is None or not (data.scales and weights.scales and output.scales):
            continue
        if max(data.scales) * max(weights.scales) / min(output.scales) >= _MAX_REQUANTIZATION:
            return False
    return True


def macs(node: Node) -> int:
    """Multiply-accumulates of one inference; 0 for ops that have none."""
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


def _op(node: Node) -> Op:
    return Op(node.name, node.outputs[0].name, tuple(t.dtype for t in node.activations))
