"""ONNX to float TFLite (onnx2tf), in a tool environment of its own. The only file that knows uv.

onnx2tf pins another ai-edge-litert than ai-edge-quantizer does, so the two cannot be installed together: uv keeps it
apart, in its cache, for the Python 3.12 or later that it needs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.sources.base import Say, silent
from converters.sources.child_process import run_child
from converters.sources.from_tflite import check_float
from sightline.errors import ConfigError, ModelError

TITLE = "ONNX Runtime"
_TOOL = "onnx2tf==2.6.9"  # brings onnx and onnxruntime, each of the version that it was tested with
_PYTHONS = ("3.12", "3.13")
_INSTALL_S = 900.0
_WORK_S = 900.0


def to_tflite(path: Path, say: Say = silent) -> bytes:
    """Float32 TFLite of an .onnx file, [1, 3, height, width] or [1, height, width, 3] in; a dynamic batch becomes 1."""
    with tempfile.TemporaryDirectory() as folder:
        _run("convert", path, Path(folder), say)
        content = Path(folder, "float.tflite").read_bytes()
    return check_float(content, str(path))


def outputs(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime gives for float32 [n, height, width, 3], a picture at a time: float32 [n, classes]."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "inputs.npy"), inputs)
        _run("outputs", path, Path(folder), silent)
        found: NDArray[np.float32] = np.load(Path(folder, "outputs.npy"))
        return found


def _run(task: str, path: Path, folder: Path, say: Say) -> None:
    tool = _installed(say)
    script = str(Path(__file__).with_name("onnx_child.py"))
    run_child(
        [*tool, "python", script, task, str(path.resolve()), str(folder)],
        folder, name=str(path), timeout_s=_WORK_S, env=_environment(),
    )  # fmt: skip


def _installed(say: Say) -> list[str]:
    """The command that runs a program in the tool's environment, which is installed first where it is not yet."""
    uv = _uv()
    tool = [uv, "tool", "run", "--quiet", "--python", _python(uv), "--from", _TOOL]
    offline = [*tool[:3], "--offline", *tool[3:]]
    there = subprocess.run([*offline, "python", "-c", ""], capture_output=True, env=_environment(), check=False)
    if there.returncode == 0:
        return offline
    say(f"installing {_TOOL} in an environment of its own, once: some 150 MB")
    try:
        done = subprocess.run(
            [*tool, "python", "-c", ""], capture_output=True, env=_environment(), timeout=_INSTALL_S, check=False
        )
        error = "" if done.returncode == 0 else " ".join(done.stderr.decode(errors="replace").split())
    except subprocess.TimeoutExpired:
        error = f"not done after {_INSTALL_S:.0f} s"
    if error:
        raise ModelError(f"ONNX needs {_TOOL}, which uv cannot install: {error[-500:]}")
    return offline


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise ConfigError("ONNX needs uv, which is not installed: pip install 'sightline[onnx]'")
    return found


def _python(uv: str) -> str:
    """A Python that the tool runs with: this one, one on the PATH, pyenv's, or uv's own."""
    for candidate in _candidates(uv):
        # asked, not looked at: pyenv's stand-ins are there and fail
        done = subprocess.run(
            [candidate, "-I", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"],
            capture_output=True, text=True, env=_environment(), check=False,
        )  # fmt: skip
        if done.stdout.strip() in _PYTHONS:
            return candidate
    raise ConfigError(
        f"ONNX needs a Python {' or '.join(_PYTHONS)} on this machine, beside the one that runs Sightline "
        f"(onnx2tf does not run on {sys.version_info[0]}.{sys.version_info[1]}): `{uv} python install {_PYTHONS[0]}`, "
        f"or your system's package python{_PYTHONS[0]}"
    )


def _candidates(uv: str) -> Iterator[str]:
    yield sys.executable
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        folders += Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob("versions/*/bin")
    for version in _PYTHONS:
        yield from (str(f / f"python{version}") for f in folders if os.access(f / f"python{version}", os.X_OK))
        done = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", "--managed-python", version],
            capture_output=True, text=True, env=_environment(), check=False,
        )  # fmt: skip
        if done.returncode == 0:
            yield done.stdout.strip()


def _environment() -> dict[str, str]:
    """Ours, without what would lead the tool to our own libraries."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
