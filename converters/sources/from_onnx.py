"""ONNX to float TFLite with onnx2tf, in a tool environment of its own. This is the only file that calls uv.

onnx2tf and ai-edge-quantizer pin different versions of ai-edge-litert, so they cannot be installed together. uv keeps
onnx2tf in its cache, with the Python 3.12 or later that it needs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.log_capture import Log, silent
from converters.sources.child_process import run_child
from converters.sources.from_tflite import check_float
from sightline.errors import ConfigError, ModelError

TITLE = "ONNX Runtime"


@dataclass(frozen=True)
class OnnxTool:
    """The tool environment.

    requirement: the package, which brings the versions of onnx and onnxruntime that it was tested with.
    pythons: versions of Python that it runs with, the preferred one first.
    """

    requirement: str = "onnx2tf==2.6.9"
    pythons: tuple[str, ...] = ("3.12", "3.13")
    install_timeout_s: float = 900.0
    run_timeout_s: float = 900.0


DEFAULT_TOOL = OnnxTool()


def to_tflite(path: Path, log: Log = silent, tool: OnnxTool = DEFAULT_TOOL) -> bytes:
    """Float32 TFLite of an .onnx file, [1, 3, height, width] or [1, height, width, 3] in. A dynamic batch becomes 1."""
    with tempfile.TemporaryDirectory() as folder:
        _run("convert", path, Path(folder), log, tool)
        content = Path(folder, "float.tflite").read_bytes()
    return check_float(content, str(path))


def outputs(path: Path, inputs: NDArray[np.float32], tool: OnnxTool = DEFAULT_TOOL) -> NDArray[np.float32]:
    """Run ONNX Runtime on float32 [n, height, width, 3], one image at a time. Returns float32 [n, classes]."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "inputs.npy"), inputs)
        _run("outputs", path, Path(folder), silent, tool)
        scores: NDArray[np.float32] = np.load(Path(folder, "outputs.npy"))
        return scores


def _run(task: str, path: Path, folder: Path, log: Log, tool: OnnxTool) -> None:
    script = str(Path(__file__).with_name("onnx_child.py"))
    run_child(
        [*install(log, tool), "python", script, task, str(path.resolve()), str(folder)],
        folder, name=str(path), timeout_s=tool.run_timeout_s, env=tool_environment(),
    )  # fmt: skip


def install(log: Log = silent, tool: OnnxTool = DEFAULT_TOOL) -> list[str]:
    """Install the tool if it is not installed. Returns the command that runs a program in its environment.

    Raises ConfigError where uv or Python is missing, and ModelError where the installation fails.
    """
    uv = _uv()
    command = [uv, "tool", "run", "--quiet", "--python", _python(uv, tool), "--from", tool.requirement]
    offline = [*command[:3], "--offline", *command[3:]]
    check = subprocess.run([*offline, "python", "-c", ""], capture_output=True, env=tool_environment(), check=False)
    if check.returncode == 0:
        return offline
    log(f"installing {tool.requirement} in an environment of its own, once: about 150 MB")
    try:
        done = subprocess.run(
            [*command, "python", "-c", ""],
            capture_output=True, env=tool_environment(), timeout=tool.install_timeout_s, check=False,
        )  # fmt: skip
        error = "" if done.returncode == 0 else " ".join(done.stderr.decode(errors="replace").split())
    except subprocess.TimeoutExpired:
        error = f"not finished after {tool.install_timeout_s:.0f} s"
    if error:
        raise ModelError(f"ONNX needs {tool.requirement}, which uv cannot install: {error[-500:]}")
    return offline


def tool_environment() -> dict[str, str]:
    """This process's environment without the variables that would lead the tool to our own libraries."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    path = str(beside) if beside.is_file() else shutil.which("uv")
    if path is None:
        raise ConfigError("ONNX needs uv, which is not installed: pip install 'sightline[onnx]'")
    return path


def _python(uv: str, tool: OnnxTool) -> str:
    """A Python that the tool runs with: this one, one on the PATH, pyenv's, or uv's own."""
    for candidate in _pythons(uv, tool):
        # each is run, because pyenv's shims exist and fail
        done = subprocess.run(
            [candidate, "-I", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"],
            capture_output=True, text=True, env=tool_environment(), check=False,
        )  # fmt: skip
        if done.stdout.strip() in tool.pythons:
            return candidate
    first = tool.pythons[0]
    raise ConfigError(
        f"ONNX needs a Python {' or '.join(tool.pythons)} on this machine, beside the one that runs Sightline "
        f"(onnx2tf does not run on {sys.version_info[0]}.{sys.version_info[1]}). Run `{uv} python install {first}`, "
        f"or install your system's package python{first}."
    )


def _pythons(uv: str, tool: OnnxTool) -> Iterator[str]:
    yield sys.executable
    folders = [Path(p) for p in os.environ.get("PATH", "").split(os.pathsep) if p]
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        folders += Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob("versions/*/bin")
    for version in tool.pythons:
        yield from (str(f / f"python{version}") for f in folders if os.access(f / f"python{version}", os.X_OK))
        done = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", "--managed-python", version],
            capture_output=True, text=True, env=tool_environment(), check=False,
        )  # fmt: skip
        if done.returncode == 0:
            yield done.stdout.strip()
