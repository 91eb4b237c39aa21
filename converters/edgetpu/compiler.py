"""Google's edgetpu_compiler, a separate program. This is the only file that calls it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.edgetpu.rules import CUSTOM_OP
from converters.log_capture import Log
from sightline.errors import ModelError

PROGRAM = "edgetpu_compiler"
TIMEOUT_S = 300.0  # the compiler gives up by itself after 180 s
NOT_INSTALLED = (
    f"{PROGRAM} is not installed here, so no Edge TPU can run this bundle yet. Convert again on an x86-64 Debian or "
    "Ubuntu with edgetpu-compiler from Coral's repository (coral.ai/docs/edgetpu/compiler)."
)


@dataclass(frozen=True)
class CompiledModel:
    """A model that only the Edge TPU runs.

    content: the .tflite.
    version: of the compiler.
    mapped_ops: ops that the Edge TPU runs, out of `ops`; the CPU runs the others.
    on_chip: parameters held in the chip's 8 MB, as the compiler writes it ('3.62MiB').
    streamed: parameters that are sent for each inference.
    """

    content: bytes
    version: str
    mapped_ops: int
    ops: int
    on_chip: str
    streamed: str


def compile_variants(models: Mapping[str, bytes], log: Log) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Compile the integer models of {scheme: .tflite}.

    Returns {SCHEME_edgetpu: .tflite}, empty without a compiler, and the facts for the manifest.
    """
    static = {scheme: content for scheme, content in models.items() if scheme.startswith("static")}
    compiled = {f"{scheme}_edgetpu": compile_model(content, scheme) for scheme, content in static.items()}
    done = {scheme: model for scheme, model in compiled.items() if model}
    if not done:
        reason = NOT_INSTALLED if compiled else f"only static_int8 can be compiled, not {', '.join(models)}"
        log(reason)
        return {}, {"compiled": False, "reason": reason}
    for scheme, m in done.items():
        log(f"{scheme}: {m.mapped_ops} of {m.ops} ops on the Edge TPU, {m.on_chip} of parameters on the chip")
    facts = {
        scheme: {
            "ops": m.ops,
            "mapped_ops": m.mapped_ops,
            "on_chip": m.on_chip,
            "streamed": m.streamed,
            "compiler": m.version,
        }
        for scheme, m in done.items()
    }
    return {scheme: m.content for scheme, m in done.items()}, {"compiled": True, **facts}


def compile_model(content: bytes, name: str, timeout_s: float = TIMEOUT_S) -> CompiledModel | None:
    """Compile an integer .tflite; None where the compiler is not installed.

    Raises ModelError, with the compiler's output, if it fails, hangs, or maps nothing.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="sightline-edgetpu-") as folder:
        source, result = Path(folder) / "model.tflite", Path(folder) / "model_edgetpu.tflite"
        source.write_bytes(content)
        command = [program, "-s", "-o", folder, str(source)]
        code, output = _run(command, Path(folder) / "output.log", name, timeout_s)
        compiled = result.read_bytes() if code == 0 and result.is_file() else b""
    if not compiled:
        raise ModelError(f"{name}: {PROGRAM} failed (exit code {code}): {_reason(output)}. Its output:\n{output}")
    if CUSTOM_OP.encode() not in compiled:
        raise ModelError(f"{name}: {PROGRAM} maps no op. Run `sightline inspect` to see why. Its output:\n{output}")
    ops, on_cpu = (
        int(_field(output, rf"{label}:\s*(\d+)") or 0) for label in ("number of operations", "will run on CPU")
    )
    return CompiledModel(
        content=compiled,
        version=_field(output, r"Compiler version (\S+)"),
        mapped_ops=ops - on_cpu,
        ops=ops,
        on_chip=_field(output, r"On-chip memory used for caching model parameters:\s*(\S+)"),
        streamed=_field(output, r"Off-chip memory used for streaming uncached model parameters:\s*(\S+)"),
    )


def _run(command: list[str], log: Path, name: str, timeout_s: float) -> tuple[int, str]:
    """(exit code, output). The compiler works in a child process of its own, so the whole group is killed."""
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent, start_new_session=True)
        except OSError as e:
            raise ModelError(f"{name}: {command[0]} cannot be run: {e.strerror}") from None
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ModelError(
                f"{name}: {PROGRAM} did not finish within {timeout_s:g} s. Train a smaller --arch."
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return code, log.read_text(encoding="utf-8", errors="replace").strip()


def _field(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match.group(1) if match else ""


def _reason(output: str) -> str:
    """The line of its output that says why: the output begins with a version and ends with advice."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    bad = (line for line in lines if re.search("error|invalid|abort|fail|couldn't", line, re.IGNORECASE))
    return next(bad, lines[-1] if lines else "no output")
