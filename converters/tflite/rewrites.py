"""What the quantizer does not know, said in what it does: the same numbers from other ops.

ai-edge-quantizer 0.10 leaves an op that it does not know in float, and a graph with one is not integer any more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.tflite.graph import builtin_of, pack, unpack

_NONE, _RELU6 = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU6
_Builtin = schema.BuiltinOperator


def rewritten(content: bytes) -> bytes:
    """The same float model, for the quantizer; the file itself where there is nothing to say otherwise.

    relu6(x) becomes the activation of x * 1; relu_0_to_1(x), a hard sigmoid's end, relu6(6 x) / 6; leaky_relu(x) and
    prelu(x) of slopes from 0 to 1 the larger of x and slope * x. The value of a border becomes a number instead of a
    list of one, and minus infinity where it is the lowest float, as onnx2tf writes it (see `graph.finite_pads`).
    """
    model = unpack(content)
    graph = _Graph(model)
    changed = False
    operators = []
    for op in model.subgraphs[0].operators:
        code = graph.code(op)
        if code == _Builtin.RELU6:
            new = [graph.multiply(op.inputs[0], graph.constant(1.0), _RELU6, op.outputs[0])]
        elif code == _Builtin.RELU_0_TO_1:
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
            changed |= code == _Builtin.PADV2 and graph.tidy_border(op)
        changed |= new[0] is not op
        operators += new
    model.subgraphs[0].operators = operators
    return pack(model) if changed else content


class _Graph:
    """A model's main graph, to which tensors and ops can be added."""

    def __init__(self, model: schema.ModelT) -> None:
        self.model = model
        self.tensors = model.subgraphs[0].tensors

    def code(self, op: schema.OperatorT) -> int:
        return builtin_of(self.model.operatorCodes[op.opcodeIndex])

    def like(self, tensor: int, suffix: str) -> int:
        """A new tensor of the same shape. Returns its index."""
        original = self.tensors[tensor]
        return self._tensor(original.name + f"/{suffix}".encode(), original.shape, original.shapeSignature, 0)

    def slope(self, op: schema.OperatorT) -> int | None:
        """The constant by which an op multiplies what is below zero, if that is all it does, and nothing steeper."""
        if self.code(op) == _Builtin.LEAKY_RELU and 0 <= op.builtinOptions.alpha <= 1:
            return self.constant(op.builtinOptions.alpha)
        if self.code(op) == _Builtin.PRELU:
            slopes = self.model.buffers[self.tensors[op.inputs[1]].buffer].data
            values = np.zeros(0) if slopes is None else np.asarray(slopes, np.uint8).view(np.float32)
            if len(values) and values.min() >= 0 and values.max() <= 1:
                return int(op.inputs[1])
        return None

    def tidy_border(self, op: schema.OperatorT) -> bool:
        """Returns whether there was anything to do."""
        value = self.tensors[op.inputs[2]]
        buffer = self.model.buffers[value.buffer]
        number = np.zeros(0) if buffer.data is None else np.asarray(buffer.data, np.uint8).view(np.float32)
        list_of_one = value.shape is not None and len(value.shape)
        if len(number) != 1 or (not list_of_one and number[0] != np.finfo(np.float32).min):
            return False
        value.shape = np.zeros(0, np.int32)
        if number[0] == np.finfo(np.float32).min:
            buffer.data = np.frombuffer(np.float32(-np.inf).tobytes(), np.uint8)
        return True

    def constant(self, value: float) -> int:
        """A new tensor of one number. Returns its index."""
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        name = f"constant_{len(self.tensors)}".encode()
        return self._tensor(name, np.zeros(0, np.int32), None, len(self.model.buffers) - 1)

    def multiply(self, x: int, factor: int, activation: int, y: int) -> schema.OperatorT:
        options = schema.MulOptionsT()
        options.fusedActivationFunction = activation
        return self._op(_Builtin.MUL, [x, factor], y, schema.BuiltinOptions.MulOptions, options)

    def maximum(self, a: int, b: int, y: int) -> schema.OperatorT:
        options = schema.MaximumMinimumOptionsT()
        return self._op(_Builtin.MAXIMUM, [a, b], y, schema.BuiltinOptions.MaximumMinimumOptions, options)

    def _op(self, builtin: int, inputs: list[int], output: int, kind: int, options: Any) -> schema.OperatorT:
        op = schema.OperatorT()
        op.opcodeIndex = self._opcode(builtin)
        op.inputs, op.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        op.builtinOptionsType, op.builtinOptions = kind, options
        return op

    def _opcode(self, builtin: int) -> int:
        codes = self.model.operatorCodes
        for i, code in enumerate(codes):
            if builtin_of(code) == builtin:
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
