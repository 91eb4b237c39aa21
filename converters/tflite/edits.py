"""Constants of a .tflite changed in place: the file keeps its length and everything else in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.tflite.graph import read_graph

_WEIGHT_DTYPES = {"int8": np.int8, "float16": np.float16, "float32": np.float32}


def finite_pads(content: bytes, lowest: Mapping[str, float]) -> bytes:
    """The same graph with finite borders, as int8 needs them.

    PyTorch's max-pooling pads with minus infinity, which integers do not have. The border becomes the `lowest` value of
    the tensor that it surrounds, so the maximum stays the same.
    """
    changed = bytearray(content)
    model = schema.Model.GetRootAs(changed, 0)
    floors: dict[int, float] = {}  # by buffer: several ops may share one
    for node in read_graph(content).nodes:
        data, border = node.input(0), node.input(2)
        if node.name != "PADV2" or data is None or border is None:
            continue
        if border.constant and border.dtype == "float32":
            floors[border.buffer] = min(lowest[data.name], floors.get(border.buffer, np.inf))
    for buffer, floor in floors.items():
        value = _stored(changed, model, buffer).view(np.float32)
        value[value == -np.inf] = floor
    return bytes(changed)


def shuffle_weights(content: bytes) -> bytes:
    """The same graph with every weight tensor rotated by half its length: it loads and runs, and knows nothing.

    It is the negative control of an evaluation: an evaluation that accepts it could not have failed.
    """
    broken = bytearray(content)
    model = schema.Model.GetRootAs(broken, 0)
    for tensor in read_graph(content).operands:
        dtype = _WEIGHT_DTYPES.get(tensor.dtype)
        if dtype is not None and tensor.constant:
            weights = _stored(broken, model, tensor.buffer).view(dtype)
            weights[:] = np.roll(weights, len(weights) // 2)
    return bytes(broken)


def _stored(content: bytearray, model: schema.Model, buffer: int) -> NDArray[np.uint8]:
    """A writable view of a buffer's bytes, which are in the FlatBuffer or after it."""
    table = model.Buffers(buffer)
    if table.Offset() > 1:
        return np.frombuffer(content, np.uint8, table.Size(), table.Offset())
    data: NDArray[np.uint8] = table.DataAsNumpy()
    return data
