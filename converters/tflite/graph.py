"""Looking into a .tflite file: its ops, the tensors that flow, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OPS = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
_WEIGHT_DTYPES = {"int8": np.int8, "float16": np.float16, "float32": np.float32}

# they move data or change its type: what they do in float costs no accuracy and little time
_NOT_COMPUTE = {"QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "CAST"}


@dataclass(frozen=True)
class Op:
    """name: TFLite's. output: name of its first output tensor. activations: dtypes of what flows in and out of it."""

    name: str
    output: str
    activations: tuple[str, ...]

    @property
    def computes_in_float(self) -> bool:
        return self.name not in _NOT_COMPUTE and any(t.startswith("float") for t in self.activations)


def ops(content: bytes) -> list[Op]:
    """The main graph's ops, in the order in which they run."""
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    found = []
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        code = model.OperatorCodes(op.OpcodeIndex())
        # files from before 2020 have the code in the deprecated field alone
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = code.CustomCode().decode() if code.CustomCode() else _OPS[builtin]
        tensors = [op.Inputs(k) for k in range(op.InputsLength())] + [op.Outputs(k) for k in range(op.OutputsLength())]
        flowing = [graph.Tensors(t) for t in tensors if t >= 0 and not _constant(model, graph.Tensors(t))]
        output = graph.Tensors(op.Outputs(0)).Name().decode()
        found.append(Op(name, output, tuple(_TYPES[t.Type()] for t in flowing)))
    return found


def activations(content: bytes) -> dict[str, int]:
    """{name: number of dimensions} of the tensors that flow: the inputs and every op's outputs."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    indices = [graph.Inputs(i) for i in range(graph.InputsLength())]
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        indices += [op.Outputs(k) for k in range(op.OutputsLength())]
    return {graph.Tensors(i).Name().decode(): graph.Tensors(i).ShapeLength() for i in indices}


def outputs(content: bytes) -> list[str]:
    """Names of the main graph's outputs."""
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    return [graph.Tensors(graph.Outputs(i)).Name().decode() for i in range(graph.OutputsLength())]


def runnable(content: bytes) -> bool:
    """Whether XNNPACK survives it: an int8 layer that would have to multiply its sums by 256 or more, which ranges of
    very different channels may ask for, makes it free memory twice and abort the process (ai-edge-litert 2.3)."""
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    for i, op in enumerate(ops(content)):
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and not op.computes_in_float:
            tensors = graph.Operators(i)
            wanted = (tensors.Inputs(0), tensors.Inputs(1), tensors.Outputs(0))
            scales = [np.float64(graph.Tensors(t).Quantization().ScaleAsNumpy()) for t in wanted]
            if float(scales[0].max() * scales[1].max() / scales[2].min()) >= 256:
                return False
    return True


def builtin_of(code: schema.OperatorCodeT) -> int:
    """Files from before 2020 have the code in the deprecated field alone."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def unpack(content: bytes) -> schema.ModelT:
    """The file as objects that can be changed; `pack` writes them."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def pack(model: schema.ModelT) -> bytes:
    """A .tflite of the objects; the same objects give the same bytes."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def finite_pads(content: bytes, lowest: Mapping[str, float]) -> bytes:
    """The same graph with each border of minus infinity, as PyTorch's max-pooling has it, at the `lowest` value of the
    tensor that it surrounds: in integers, which know no infinity and nothing below that value, the same maximum."""
    changed = bytearray(content)
    model = schema.Model.GetRootAs(changed, 0)
    graph = model.Subgraphs(0)
    floors: dict[int, float] = {}  # of each buffer: several ops may share one
    for i in range(graph.OperatorsLength()):
        op = graph.Operators(i)
        if model.OperatorCodes(op.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.PADV2:
            border, name = graph.Tensors(op.Inputs(2)), graph.Tensors(op.Inputs(0)).Name().decode()
            if border.Type() == schema.TensorType.FLOAT32 and _constant(model, border):
                floors[border.Buffer()] = min(lowest[name], floors.get(border.Buffer(), np.inf))
    for buffer, floor in floors.items():
        value = model.Buffers(buffer).DataAsNumpy().view(np.float32)
        value[value == -np.inf] = floor
    return bytes(changed)


def shuffle_weights(content: bytes) -> bytes:
    """The same graph with every weight tensor turned by half its length: loads, runs, and knows nothing.

    What a verification says of it shows whether that verification could have said no.
    """
    broken = bytearray(content)
    model = schema.Model.GetRootAs(broken, 0)
    graph = model.Subgraphs(0)
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        dtype = _WEIGHT_DTYPES.get(_TYPES[tensor.Type()])
        buffer = model.Buffers(tensor.Buffer())
        if dtype is None or not _constant(model, tensor):
            continue
        if buffer.Offset() > 1:
            stored = np.frombuffer(broken, np.uint8, buffer.Size(), buffer.Offset())
        else:
            stored = buffer.DataAsNumpy()
        weights = stored.view(dtype)
        weights[:] = np.roll(weights, len(weights) // 2)
    return bytes(broken)


def _constant(model: schema.Model, tensor: schema.Tensor) -> bool:
    """from 256 KiB on ai-edge-quantizer keeps weights after the FlatBuffer, at an offset of the file."""
    buffer = model.Buffers(tensor.Buffer())
    return bool(buffer.DataLength()) or buffer.Offset() > 1
