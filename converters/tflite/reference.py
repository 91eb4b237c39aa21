"""TFLite's reference kernels, which keep every tensor of a run."""

from __future__ import annotations

import warnings
from typing import Any

from ai_edge_litert import interpreter as litert


def reference_interpreter(content: bytes) -> Any:
    """A LiteRT interpreter with the kernels that keep every tensor. XNNPACK does not keep them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LiteRT warns that keeping all tensors is for debugging; calibration needs it
        interpreter = litert.Interpreter(
            model_content=content,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    return interpreter
