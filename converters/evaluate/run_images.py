"""Run a model on many images, on all cores."""

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

Progress = Callable[[int, int], None]  # called with (images done, images in all)
Answer = TypeVar("Answer")


def no_progress(done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def read_all(paths: Sequence[Path], spec: InputSpec, metrics: Metrics, progress: Progress) -> Frame:
    """Read and preprocess images: uint8 [n, height, width, 3].

    The array is a memory map of an unnamed temporary file: 2,000 images of 224x224 are 300 MB, and the system decides
    how much of it stays in memory. Raises DataError, which names an image that cannot be read.
    """
    with tempfile.TemporaryFile() as f:
        frames: Frame = np.memmap(f, np.uint8, "w+", shape=(len(paths), spec.height, spec.width, 3))
    preprocess = Preprocessor(spec)
    for i, path in enumerate(paths):
        frame = read_image(path)
        metrics.set_image_size(i, (frame.shape[1], frame.shape[0]))
        preprocess(frame, out=frames[i])
        progress(i + 1, len(paths))
    return frames


def run_all(content: bytes, frames: Frame, spec: InputSpec, name: str) -> Outputs:
    """Run a model as the device does. Returns float32 [n, values]: all outputs of each frame, one after the other.

    frames: uint8 [n, height, width, 3].
    """
    return np.stack(map_frames(content, frames, spec, name, _flat))


def _flat(interpreter: Interpreter, k: int) -> Outputs:
    return np.concatenate([output.reshape(-1) for output in interpreter.results()])


def map_frames(
    content: bytes, frames: Frame, spec: InputSpec, name: str, read: Callable[[Interpreter, int], Answer]
) -> list[Answer]:
    """Run a model on each frame. Returns what `read` makes of the interpreter and the frame's index.

    It uses all cores, each with an interpreter of its own: an image's outputs are the same as when it runs alone.
    """
    parts = np.array_split(np.arange(len(frames)), min(len(frames), os.cpu_count() or 1))
    # loaded one after the other: loading redirects the process's stderr
    interpreters = [Interpreter(content, spec, name=name) for _ in parts]

    def run(interpreter: Interpreter, part: NDArray[np.int64]) -> list[Answer]:
        answers = []
        for k in part.tolist():
            interpreter.fill(frames[k])
            interpreter.invoke()
            answers.append(read(interpreter, k))
        return answers

    with ThreadPoolExecutor(len(parts)) as pool:
        return [answer for answers in pool.map(run, interpreters, parts) for answer in answers]
