"""torch.export programs to float TFLite (litert-torch). The only file that knows it."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.noise import to_log
from sightline.errors import ModelError, reason
from sightline.preprocess import Frame


def open_program(content: bytes, name: str) -> torch.export.ExportedProgram:
    """A .pt2 file's program. Raises ModelError."""
    try:
        return torch.export.load(io.BytesIO(content))
    except Exception as e:  # zipfile's, json's, torch's own
        raise ModelError(f"{name}: not a program that torch.export saved: {reason(e)}") from None


def input_size(program: torch.export.ExportedProgram, name: str) -> tuple[int, int]:
    """(width, height) of the one input, float32 [1, height, width, 3]. Raises ModelError for any other."""
    names = set(program.graph_signature.user_inputs)
    inputs = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    shapes = ", ".join(f"{list(v.shape)} {str(v.dtype).removeprefix('torch.')}" for v in inputs)
    wanted = "float32 [1, height, width, 3]: one picture, RGB 0..255, normalisation inside the program"
    if len(inputs) != 1 or inputs[0].dtype != torch.float32 or inputs[0].dim() != 4:
        raise ModelError(f"{name}: takes {shapes or 'nothing'}; needed is {wanted}")
    shape = inputs[0].shape
    if not all(isinstance(n, int) for n in shape):
        raise ModelError(f"{name}: takes {shapes}, a size that is not fixed; export it without dynamic shapes")
    if shape[0] != 1 or shape[3] != 3:
        hint = "; wrap it in a module that permutes NHWC to NCHW" if shape[1] == 3 else ""
        raise ModelError(f"{name}: takes {shapes}; needed is {wanted}{hint}")
    return int(shape[2]), int(shape[1])


def run_program(program: torch.export.ExportedProgram, frames: Frame, name: str) -> NDArray[np.float32]:
    """The scores that the program gives for uint8 [n, height, width, 3], a picture at a time: float32 [n, classes].

    Raises ModelError for a program that gives anything else.
    """
    module = program.module()
    found = []
    with torch.no_grad():
        for frame in frames:
            output = module(torch.from_numpy(frame[None].astype(np.float32)))
            if not isinstance(output, torch.Tensor) or output.dtype != torch.float32 or output.dim() != 2:
                shape = f"{output.dtype} {list(output.shape)}" if isinstance(output, torch.Tensor) else type(output)
                raise ModelError(f"{name}: gives {shape}; needed is one tensor, float32 [1, classes]")
            found.append(output.numpy())
    return np.concatenate(found)


def to_tflite(program: torch.export.ExportedProgram, name: str) -> bytes:
    """Float32 TFLite of a program. Raises ModelError, which names the log of the libraries."""
    width, height = input_size(program, name)
    sample = (torch.zeros(1, height, width, 3),)
    log = Path()
    try:
        with tempfile.TemporaryDirectory() as folder, to_log() as log:
            import litert_torch

            path = Path(folder) / "float.tflite"
            module = program.module()
            # litert-torch 0.10 knows a constant by its address, and copies one that is not contiguous to an address
            # that it frees: the next of the same shape got the first one's weights, silently
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data = tensor.data.contiguous()
            litert_torch.convert(module, sample).export(str(path))
            return path.read_bytes()
    except Exception as e:  # its errors have no common class
        raise ModelError(f"{name}: litert-torch cannot convert it: {reason(e)} (everything it said: {log})") from e
