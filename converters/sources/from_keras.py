"""Keras files and TensorFlow SavedModels to float TFLite, with TensorFlow's own converter in a child process."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.log_capture import Log, silent
from converters.sources.child_process import run_child
from converters.sources.from_tflite import check_float
from sightline.errors import ConfigError, ModelError

TITLE = "TensorFlow"
_TIMEOUT_S = 900.0
_MAGIC = {".keras": (b"PK", "zip file"), ".h5": (b"\x89HDF", "HDF5 file"), ".hdf5": (b"\x89HDF", "HDF5 file")}


def to_tflite(path: Path, log: Log = silent) -> bytes:
    """Float32 TFLite of a .keras or .h5 file, or of a SavedModel's `serving_default`. A dynamic batch becomes 1."""
    with tempfile.TemporaryDirectory() as folder:
        _run("convert", path, Path(folder))
        content = Path(folder, "float.tflite").read_bytes()
    return check_float(content, str(path))


def outputs(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run TensorFlow on float32 [n, height, width, 3], one image at a time. Returns float32 [n, classes]."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "inputs.npy"), inputs)
        _run("outputs", path, Path(folder))
        scores: NDArray[np.float32] = np.load(Path(folder, "outputs.npy"))
        return scores


def _run(task: str, path: Path, folder: Path) -> None:
    if find_spec("tensorflow") is None:
        raise ConfigError(f"{path}: needs tensorflow, which is not installed: pip install 'sightline[keras]'")
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
    }
    if not path.is_dir():
        magic, kind = _MAGIC[path.suffix.lower()]
        with path.open("rb") as f:
            if f.read(len(magic)) != magic:
                raise ModelError(f"{path}: not a Keras model: the file is no {kind}, or is damaged")
    script = str(Path(__file__).with_name("keras_child.py"))
    run_child(
        [sys.executable, script, task, str(path.resolve()), str(folder)],
        folder, name=str(path), timeout_s=_TIMEOUT_S, env=environment,
    )  # fmt: skip
