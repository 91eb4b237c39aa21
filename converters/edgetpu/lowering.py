"""Rewrite a graph so that the Edge TPU's compiler maps more of its ops."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.edgetpu.versions import BIASED_OPS, needed_version
from converters.tflite.graph import Node, pack, read_graph, unpack
from converters.tflite.names import op_name


def lower(content: bytes) -> bytes:
    """The same computation, as the compiler's own TensorFlow would have written it.

    - Ops without a bias get a bias of zeros.
    - All sizes are fixed.
    - A fully-connected layer of a matrix does not keep dimensions: there are two in any case.
    - Each op has the version that its 8-bit tensors need. The compiler rejects the whole file for newer versions, and
      ai-edge-quantizer writes 1, which means uint8 in TensorFlow 2.5.

    Files appended to the model, such as labels, are left out: add metadata afterwards.
    """
    model = unpack(content)
    graph = model.subgraphs[0]
    for tensor in graph.tensors:
        tensor.shapeSignature = None  # the interpreter allocates `shape`, and the evaluation ran with it
    for node in read_graph(model).nodes:
        op = graph.operators[node.index]
        if node.name in BIASED_OPS and node.input(BIASED_OPS[node.name][0]) is None and _quantized(node):
            op.inputs = [*op.inputs[:2], _zero_bias(model, node)]
        if node.name == "FULLY_CONNECTED" and node.activations and len(node.activations[0].shape) == 2:
            op.builtinOptions.keepNumDims = False
    _set_versions(model)
    return pack(model)


def _set_versions(model: schema.ModelT) -> None:
    """Rebuild the table of op codes: each code with the version that its ops need, and none that is not used."""
    graph = model.subgraphs[0]
    positions: dict[tuple[str, int], int] = {}
    codes: list[schema.OperatorCodeT] = []
    for node in read_graph(model).nodes:
        version = needed_version(node) or node.version
        if (node.name, version) not in positions:
            old = model.operatorCodes[graph.operators[node.index].opcodeIndex]
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode = old.builtinCode, old.deprecatedBuiltinCode
            code.customCode, code.version = old.customCode, version
            positions[node.name, version] = len(codes)
            codes.append(code)
        graph.operators[node.index].opcodeIndex = positions[node.name, version]
    for other in model.subgraphs[1:]:
        for op in other.operators:
            code = model.operatorCodes[op.opcodeIndex]
            key = (op_name(code), code.version)
            if key not in positions:
                positions[key] = len(codes)
                codes.append(code)
            op.opcodeIndex = positions[key]
    model.operatorCodes = codes


def _quantized(node: Node) -> bool:
    data, weights = node.input(0), node.input(1)
    return data is not None and weights is not None and bool(data.scales and weights.scales)


def _zero_bias(model: schema.ModelT, node: Node) -> int:
    """Add a bias: int32 zeros, one per output channel, in the scale of the products. Returns the tensor's index."""
    data, weights = node.input(0), node.input(1)
    assert data is not None and weights is not None
    channels = weights.shape[BIASED_OPS[node.name][1]]
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
