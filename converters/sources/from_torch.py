"""torch.export programs to float TFLite with litert-torch. This is the only file that calls it."""

from __future__ import annotations

import io
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.log_capture import Log, capture_output, silent
from converters.sources.diagnose import alternative, author_line, diagnose, saved_op, training_op
from converters.tflite.rewrites import rewrite_for_quantizer
from sightline.errors import ModelError, reason
from sightline.program_file import UnlistedOpError, checked_program, unlisted

TITLE = "PyTorch"


class _Nhwc(nn.Module):
    """Wraps a program that takes NCHW into one that takes NHWC."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x.permute(0, 3, 1, 2))
        return output


def to_tflite(path: Path, log: Log = silent) -> bytes:
    """Float32 TFLite of a .pt2 file, [1, height, width, 3] or [1, 3, height, width] in."""
    return convert_program(open_program(path.read_bytes(), str(path)), str(path))


def outputs(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a .pt2 on float32 [n, height, width, 3], one image at a time. Returns float32 [n, classes].

    Raises ModelError for a program with other outputs.
    """
    program = open_program(path.read_bytes(), str(path))
    module = _module(program, str(path))
    scores = []
    with torch.no_grad():
        for image in inputs:
            try:
                output = module(torch.tensor(image[None]))  # a copy: the program may write into its input
            except Exception as e:  # its errors have no common class
                raise ModelError(f"{path}: does not run on an image: {reason(e)}") from None
            if not isinstance(output, Tensor) or output.dtype != torch.float32 or output.dim() != 2:
                shape = f"{output.dtype} {list(output.shape)}" if isinstance(output, Tensor) else type(output)
                raise ModelError(f"{path}: gives {shape}. It must give one tensor, float32 [1, classes].")
            scores.append(output.numpy())
    return np.concatenate(scores)


def is_module(value: object) -> bool:
    return isinstance(value, nn.Module)


def save_module(module: nn.Module, path: Path, height: int, width: int) -> None:
    """Export a module that takes [1, 3, height, width] to a .pt2 file. Raises ModelError."""
    name = type(module).__name__
    if module.training:
        raise ModelError(f"{name}: is in training mode, with dropout and batch statistics. Call .eval() first.")
    devices = {str(t.device) for t in (*module.parameters(), *module.buffers())} - {"cpu"}
    if devices:
        raise ModelError(f"{name}: is on {', '.join(sorted(devices))}. Call .cpu() first.")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
            torch.export.save(torch.export.export(module, (torch.zeros(1, 3, height, width),)), path)
    except Exception as e:  # its errors have no common class
        where = author_line(str(e)) or author_line("".join(traceback.format_exception(e)))
        raise ModelError(
            f"{name}: torch.export cannot export it with an image [1, 3, {height}, {width}]: {reason(e)} ({where})"
        ) from e


def open_program(content: bytes, name: str) -> torch.export.ExportedProgram:
    """The program of a .pt2 file, opened as data: no code in it runs. Raises ModelError."""
    try:
        content = checked_program(content, name)
    except UnlistedOpError as e:
        op = saved_op(e.target, e.metadata)
        raise ModelError("; ".join(filter(None, (unlisted(name, str(op)), alternative(e.target))))) from None
    try:
        with capture_output():
            return torch.export.load(io.BytesIO(content))
    except Exception as e:  # zipfile's, json's, torch's own
        raise ModelError(f"{name}: not a program that torch.export saved: {reason(e)}") from None


def input_size(program: torch.export.ExportedProgram, name: str) -> tuple[int, int]:
    """(width, height) of the one input, float32 [1, height, width, 3] or [1, 3, height, width]. Raises ModelError."""
    shape = _input_shape(program, name)
    return (shape[2], shape[1]) if shape[3] == 3 else (shape[3], shape[2])


def convert_program(program: torch.export.ExportedProgram, name: str) -> bytes:
    """Float32 TFLite of a program. Raises ModelError, which names the libraries' log file."""
    width, height = input_size(program, name)
    training = training_op(program)
    if training:
        raise ModelError(f"{name}: was exported in training mode ({training}). Call .eval() before exporting.")
    sample = (torch.zeros(1, height, width, 3),)
    log = Path()
    try:
        with tempfile.TemporaryDirectory() as folder, capture_output() as log:
            import litert_torch

            path = Path(folder) / "float.tflite"
            module = _module(program, name)
            # litert-torch 0.10 identifies a constant by its address. It copies one that is not contiguous to an address
            # that it frees, so the next one of the same shape silently gets the first one's weights.
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data = tensor.data.contiguous()
            litert_torch.convert(module, sample).export(str(path))
            return rewrite_for_quantizer(path.read_bytes())
    except Exception as e:  # its errors have no common class
        why = diagnose(e, program)
        raise ModelError(f"{name}: {why} (full output: {log})") from e


def _module(program: torch.export.ExportedProgram, name: str) -> nn.Module:
    module = program.module()
    if _input_shape(program, name)[3] == 3:
        return module
    wrapped = _Nhwc(module)
    wrapped.training = False  # a program's module refuses `eval()`
    return wrapped


def _input_shape(program: torch.export.ExportedProgram, name: str) -> tuple[int, ...]:
    names = set(program.graph_signature.user_inputs)
    inputs = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    shapes = ", ".join(f"{list(v.shape)} {str(v.dtype).removeprefix('torch.')}" for v in inputs)
    expected = "It must take one RGB image, float32 [1, height, width, 3] or [1, 3, height, width]."
    if len(inputs) != 1 or inputs[0].dtype != torch.float32 or inputs[0].dim() != 4:
        raise ModelError(f"{name}: takes {shapes or 'nothing'}. {expected}")
    shape = inputs[0].shape
    if not all(isinstance(n, int) for n in shape):
        raise ModelError(f"{name}: takes {shapes}, a size that is not fixed. Export it without dynamic shapes.")
    if shape[0] != 1 or 3 not in (shape[1], shape[3]):
        raise ModelError(f"{name}: takes {shapes}. {expected}")
    return tuple(int(n) for n in shape)
