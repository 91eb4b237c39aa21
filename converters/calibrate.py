"""How far each activation goes: the ranges from which int8 scales are made."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert
from numpy.typing import NDArray

from converters.graph import activations
from sightline.preprocess import Frame, InputSpec

Ranges = dict[str, dict[str, NDArray[np.float32]]]


def ranges(content: bytes, frames: Frame, spec: InputSpec) -> Ranges:
    """{tensor: {"min", "max"}} over `frames`, uint8 [n, height, width, 3], of a float32 model's every activation.

    True minima and maxima: ai-edge-quantizer's own calibration keeps a moving average of them, which cost 1.1 points of
    agreement on a MobileNetV2, and lets the input's range drift from 0..255. Here that is pinned: it is what bytes are
    to the model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that preserving all tensors is for debugging: it is what calibration needs
        interpreter = litert.Interpreter(
            model_content=content,
            experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    dimensions = activations(content)
    index = {d["name"]: d["index"] for d in interpreter.get_tensor_details() if d["name"] in dimensions}
    low = dict.fromkeys(index, np.inf)
    high = dict.fromkeys(index, -np.inf)
    (entry,) = interpreter.get_input_details()
    for frame in frames:
        interpreter.set_tensor(entry["index"], spec.normalize(frame[None]))
        interpreter.invoke()
        for name, i in index.items():
            values = interpreter.get_tensor(i)
            smallest = float(values.min())
            if smallest == -np.inf:  # the border that a max-pooling gets; see `graph.finite_pads`
                smallest = float(values[np.isfinite(values)].min())
            low[name] = min(low[name], smallest)
            high[name] = max(high[name], float(values.max()))
    low[entry["name"]], high[entry["name"]] = float(spec.values.min()), float(spec.values.max())
    return {
        name: {"min": _as_tensor(low[name], dimensions[name]), "max": _as_tensor(high[name], dimensions[name])}
        for name in index
    }


def _as_tensor(value: float, dimensions: int) -> Any:
    return np.full((1,) * dimensions, value, np.float32)
