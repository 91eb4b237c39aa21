"""A graph rewritten so that the Edge TPU's compiler takes more of it."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.edgetpu.rules import BIASED, needed_version
from converters.tflite.graph import pack, unpack
from converters.tflite.ops import Node, code_name, read_graph


def lower(content: bytes) -> bytes:
    """The same computation as the compiler's own TensorFlow would have written it.

    Biases of zero where there are none, sizes fixed, dimensions of a matrix not kept where there are two anyway, and
    each op's version the one that its 8-bit tensors need: newer ones are rejected with the whole file, and
    ai-edge-quantizer writes 1, which in TensorFlow 2.5 means uint8. Files that are appended, as metadata has them, are
    left behind: pack them afterwards.
    """
    model = unpack(content)
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        tensor.shapeSignature = None  # `shape` is what the interpreter allocates, and what was measured
    for node in read_graph(model).nodes:
        op = graph.operators[node.index]
        if node.name in BIASED and node.input(BIASED[node.name][0]) is None and _quantized(node):
            op.inputs = [*op.inputs[:2], _zero_bias(model, node)]
        if node.name == "FULLY_CONNECTED" and node.flowing and len(node.flowing[0].shape) == 2:
            op.builtinOptions.keepNumDims = False
    codes: dict[tuple[str, int], int] = {}
    kept = []
    for node in read_graph(model).nodes:
        version = needed_version(node) or node.version
        if (node.name, version) not in codes:
            old = model.operatorCodes[graph.operators[node.index].opcodeIndex]
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode = old.builtinCode, old.deprecatedBuiltinCode
            code.customCode, code.version = old.customCode, version
            codes[node.name, version] = len(kept)
            kept.append(code)
        graph.operators[node.index].opcodeIndex = codes[node.name, version]
    for other in model.subgraphs[1:]:
        for op in other.operators:
            code = model.operatorCodes[op.opcodeIndex]
            key = (code_name(code), code.version)
            if key not in codes:
                codes[key] = len(kept)
                kept.append(code)
            op.opcodeIndex = codes[key]
    model.operatorCodes = kept
    return pack(model)


def _quantized(node: Node) -> bool:
    data, weights = node.input(0), node.input(1)
    return data is not None and weights is not None and bool(data.scales and weights.scales)


def _zero_bias(model: schema.ModelT, node: Node) -> int:
    """Adds int32 zeros, one an output channel, with the scale of the products; returns the tensor's index."""
    data, weights = node.input(0), node.input(1)
    assert data is not None and weights is not None
    channels = weights.shape[BIASED[node.name][1]]
    buffer = schema.BufferT()
    buffer.data = np.zeros(4 * channels, np.uint8)
    model.buffers.append(buffer)
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.asarray([data.scales[0] * s for s in weights.scales], np.float32)
    quantization.zeroPoint = np.zeros(len(weights.scales), np.int64)
    bias = schema.TensorT()
    bias.name = f"{weights.name}/zero_bias".encode()
    bias.shape, bias.type = np.asarray([channels], np.int32), schema.TensorType.INT32
    bias.buffer, bias.quantization = len(model.buffers) - 1, quantization
    model.subgraphs[0].tensors.append(bias)
    return len(model.subgraphs[0].tensors) - 1
