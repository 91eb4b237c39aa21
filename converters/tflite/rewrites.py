"""Ops that the quantizer does not know, replaced by ops that it knows and that compute the same numbers.

ai-edge-quantizer 0.10 leaves an unknown op in float, and a graph with a float op is no integer graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.tflite.graph import pack, stored_bytes, unpack
from converters.tflite.names import builtin_code, op_name

_NONE, _RELU6 = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU6
_LOWEST_FLOAT = np.finfo(np.float32).min


def rewrite_for_quantizer(content: bytes) -> bytes:
    """The same float model in ops that the quantizer knows; the bytes themselves where nothing changes.

    - relu6(x) becomes the activation of x * 1.
    - relu_0_to_1(x), the end of a hard sigmoid, becomes relu6(6 x) / 6.
    - leaky_relu(x) and prelu(x) of slopes from 0 to 1 become the larger of x and slope * x.
    - The border value of a padding becomes a number instead of a list of one. The lowest float becomes minus infinity,
      which is what onnx2tf means by it (see `edits.finite_pads`).
    """
    model = unpack(content)
    graph = _GraphEditor(model)
    changed = False
    operators = []
    for op in model.subgraphs[0].operators:
        kind = graph.kind(op)
        if kind == "RELU6":
            new = [graph.multiply(op.inputs[0], graph.constant(1.0), _RELU6, op.outputs[0])]
        elif kind == "RELU_0_TO_1":
            six = graph.like(op.outputs[0], "times_6")
            new = [
                graph.multiply(op.inputs[0], graph.constant(6.0), _RELU6, six),
                graph.multiply(six, graph.constant(1 / 6), _NONE, op.outputs[0]),
            ]
        elif (slope := graph.slope(op)) is not None:
            below = graph.like(op.outputs[0], "below_zero")
            new = [
                graph.multiply(op.inputs[0], slope, _NONE, below),
                graph.maximum(op.inputs[0], below, op.outputs[0]),
            ]
        else:
            new = [op]
            changed |= kind == "PADV2" and graph.tidy_border(op)
        changed |= new[0] is not op
        operators += new
    model.subgraphs[0].operators = operators
    return pack(model) if changed else content


class _GraphEditor:
    """A model's main graph, to which tensors and ops can be added."""

    def __init__(self, model: schema.ModelT) -> None:
        self.model = model
        self.tensors = model.subgraphs[0].tensors

    def kind(self, op: schema.OperatorT) -> str:
        return op_name(self.model.operatorCodes[op.opcodeIndex])

    def like(self, tensor: int, suffix: str) -> int:
        """Add a tensor of the same shape. Returns its index."""
        original = self.tensors[tensor]
        return self._tensor(original.name + f"/{suffix}".encode(), original.shape, original.shapeSignature, 0)

    def slope(self, op: schema.OperatorT) -> int | None:
        """The constant tensor by which an op multiplies values below zero, where all slopes are in 0..1; else None."""
        kind = self.kind(op)
        if kind == "LEAKY_RELU" and 0 <= op.builtinOptions.alpha <= 1:
            return self.constant(op.builtinOptions.alpha)
        if kind == "PRELU":
            slopes = stored_bytes(self.model, op.inputs[1]).view(np.float32)
            if len(slopes) and slopes.min() >= 0 and slopes.max() <= 1:
                return int(op.inputs[1])
        return None

    def tidy_border(self, op: schema.OperatorT) -> bool:
        """Make the border value of a PADV2 a number. Returns whether anything changed."""
        border = self.tensors[op.inputs[2]]
        number = stored_bytes(self.model, op.inputs[2]).view(np.float32)
        list_of_one = border.shape is not None and len(border.shape)
        if len(number) != 1 or (not list_of_one and number[0] != _LOWEST_FLOAT):
            return False
        border.shape = np.zeros(0, np.int32)
        if number[0] == _LOWEST_FLOAT:
            self.model.buffers[border.buffer].data = np.frombuffer(np.float32(-np.inf).tobytes(), np.uint8)
        return True

    def constant(self, value: float) -> int:
        """Add a tensor of one number. Returns its index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        name = f"constant_{len(self.tensors)}".encode()
        return self._tensor(name, np.zeros(0, np.int32), None, len(self.model.buffers) - 1)

    def multiply(self, x: int, factor: int, activation: int, y: int) -> schema.OperatorT:
        options = schema.MulOptionsT()
        options.fusedActivationFunction = activation
        return self._op(schema.BuiltinOperator.MUL, [x, factor], y, schema.BuiltinOptions.MulOptions, options)

    def maximum(self, a: int, b: int, y: int) -> schema.OperatorT:
        options = schema.MaximumMinimumOptionsT()
        kind = schema.BuiltinOptions.MaximumMinimumOptions
        return self._op(schema.BuiltinOperator.MAXIMUM, [a, b], y, kind, options)

    def _op(self, builtin: int, inputs: list[int], output: int, kind: int, options: Any) -> schema.OperatorT:
        op = schema.OperatorT()
        op.opcodeIndex = self._opcode(builtin)
        op.inputs, op.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        op.builtinOptionsType, op.builtinOptions = kind, options
        return op

    def _opcode(self, builtin: int) -> int:
        codes = self.model.operatorCodes
        for i, code in enumerate(codes):
            if builtin_code(code) == builtin:
                return i
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        code.version = 1
        codes.append(code)
        return len(codes) - 1

    def _tensor(self, name: bytes, shape: Any, signature: Any, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, shape, signature
        tensor.type, tensor.buffer = schema.TensorType.FLOAT32, buffer
        self.tensors.append(tensor)
        return len(self.tensors) - 1
