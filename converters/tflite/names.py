"""The names of TFLite's op codes and tensor types. The only tables of them in the converters."""

from __future__ import annotations

from ai_edge_litert import schema_py_generated as schema

_OP_NAMES: dict[int, str] = {v: k for k, v in vars(schema.BuiltinOperator).items() if not k.startswith("_")}
_DTYPE_NAMES: dict[int, str] = {v: k.lower() for k, v in vars(schema.TensorType).items() if not k.startswith("_")}

# ops with a weight tensor and an optional bias
WEIGHTED_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def builtin_code(code: schema.OperatorCodeT) -> int:
    """The number of an op's kind. Files from before 2020 have it in the deprecated field alone."""
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def op_name(code: schema.OperatorCodeT) -> str:
    """TFLite's name of an op's kind, such as CONV_2D. A custom op has its own name."""
    if code.customCode:
        return str(code.customCode.decode(errors="replace"))
    number = builtin_code(code)
    return _OP_NAMES.get(number, f"BUILTIN_{number}")


def dtype_name(tensor_type: int) -> str:
    """numpy's name of a tensor's type, such as int8."""
    return _DTYPE_NAMES.get(tensor_type, f"type {tensor_type}")
