"""Running a model on many pictures, on all cores."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.evaluate.divergence import Outputs
from converters.evaluate.metrics import Metrics
from sightline.images import read_image
from sightline.interpreter import Interpreter
from sightline.preprocess import Frame, InputSpec, Preprocessor

Progress = Callable[[int, int], None]
Answer = TypeVar("Answer")


def read_all(paths: Sequence[Path], spec: InputSpec, rules: Metrics, progress: Progress) -> Frame:
    """uint8 [n, height, width, 3], as the model takes them, in a file without a name: 2,000 pictures of 224x224 are
    300 MB, which the system may keep in memory or not. Raises DataError."""
    with tempfile.TemporaryFile() as f:
        frames: Frame = np.memmap(f, np.uint8, "w+", shape=(len(paths), spec.height, spec.width, 3))
    preprocess = Preprocessor(spec)
    for i, path in enumerate(paths):
        frame = read_image(path)
        rules.prepare(i, (frame.shape[1], frame.shape[0]))
        preprocess(frame, out=frames[i])
        progress(i + 1, len(paths))
    return frames


def run_all(content: bytes, frames: Frame, spec: InputSpec, name: str) -> Outputs:
    """float32 [n, values]: all outputs, one after the other, for each of uint8 [n, height, width, 3], as the device
    will run them."""
    return np.stack(each(content, frames, spec, name, _flat))


def _flat(interpreter: Interpreter, k: int) -> Outputs:
    return np.concatenate([output.reshape(-1) for output in interpreter.results()])


def each(
    content: bytes, frames: Frame, spec: InputSpec, name: str, look: Callable[[Interpreter, int], Answer]
) -> list[Answer]:
    """What `look` makes of the interpreter after each frame, given the frame's index.

    On all cores, each with an interpreter of its own: every picture's outputs are the same as alone.
    """
    parts = np.array_split(np.arange(len(frames)), min(len(frames), os.cpu_count() or 1))
    # loaded one after the other: loading redirects the process's stderr
    interpreters = [Interpreter(content, spec, name=name) for _ in parts]

    def run(interpreter: Interpreter, part: NDArray[np.int64]) -> list[Answer]:
        found = []
        for k in part.tolist():
            interpreter.fill(frames[k])
            interpreter.invoke()
            found.append(look(interpreter, k))
        return found

    with ThreadPoolExecutor(len(parts)) as pool:
        return [answer for found in pool.map(run, interpreters, parts) for answer in found]
