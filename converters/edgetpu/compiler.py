"""Google's edgetpu_compiler, a program of its own. The only file that knows it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.edgetpu.rules import CUSTOM_OP
from sightline.errors import ModelError

PROGRAM = "edgetpu_compiler"
TIMEOUT_S = 300  # it gives up by itself after 180
HOW = (
    f"{PROGRAM} is not installed here, so no Edge TPU can run this bundle yet: convert again on an x86-64 Debian or "
    "Ubuntu that has edgetpu-compiler from Coral's repository (coral.ai/docs/edgetpu/compiler)"
)


@dataclass(frozen=True)
class Compiled:
    """content: a .tflite that only the Edge TPU runs. mapped: of `ops` ops, those that it runs; the CPU has the rest.
    on_chip, streamed: parameters, as the compiler says it ('3.62MiB'): held in the chip's 8 MB, or sent each time."""

    content: bytes
    version: str
    mapped: int
    ops: int
    on_chip: str
    streamed: str


def compile_variants(
    models: Mapping[str, bytes], say: Callable[[str], object]
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """({SCHEME_edgetpu: .tflite} of the integer models, what a manifest says of it); none without a compiler."""
    compiled = {f"{s}_edgetpu": compile_model(content, s) for s, content in models.items() if s.startswith("static")}
    done = {scheme: c for scheme, c in compiled.items() if c}
    if not done:
        how = HOW if compiled else f"only static_int8 can be compiled, not {', '.join(models)}"
        say(how)
        return {}, {"compiled": False, "how": how}
    for scheme, c in done.items():
        say(f"{scheme}: {c.mapped} of {c.ops} ops on the Edge TPU, {c.on_chip} of parameters on the chip")
    facts = {
        scheme: {"ops": c.ops, "mapped": c.mapped, "on_chip": c.on_chip, "streamed": c.streamed, "compiler": c.version}
        for scheme, c in done.items()
    }
    return {scheme: c.content for scheme, c in done.items()}, {"compiled": True, **facts}


def compile_model(content: bytes, name: str) -> Compiled | None:
    """Compile an integer .tflite; None where the compiler is not installed.

    Raises ModelError, with what the compiler said: it fails, hangs, or maps nothing.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return None
    with tempfile.TemporaryDirectory(prefix="sightline-edgetpu-") as folder:
        source, result = Path(folder) / "model.tflite", Path(folder) / "model_edgetpu.tflite"
        source.write_bytes(content)
        code, said = _run([program, "-s", "-o", folder, str(source)], Path(folder) / "said", name)
        compiled = result.read_bytes() if code == 0 and result.is_file() else b""
    if not compiled:
        raise ModelError(f"{name}: {PROGRAM} failed (exit code {code}): {_reason(said)}; it said:\n{said}")
    if CUSTOM_OP.encode() not in compiled:
        raise ModelError(f"{name}: {PROGRAM} maps no op; see `sightline inspect`; it said:\n{said}")
    ops, on_cpu = (int(_found(said, rf"{what}:\s*(\d+)") or 0) for what in ("number of operations", "will run on CPU"))
    return Compiled(
        content=compiled,
        version=_found(said, r"Compiler version (\S+)"),
        mapped=ops - on_cpu,
        ops=ops,
        on_chip=_found(said, r"On-chip memory used for caching model parameters:\s*(\S+)"),
        streamed=_found(said, r"Off-chip memory used for streaming uncached model parameters:\s*(\S+)"),
    )


def _run(command: list[str], log: Path, name: str) -> tuple[int, str]:
    """(exit code, what it said). It works in a child of its own, so what is ended is the group."""
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent, start_new_session=True)
        except OSError as e:
            raise ModelError(f"{name}: {command[0]} cannot be run: {e.strerror}") from None
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ModelError(f"{name}: {PROGRAM} is not done after {TIMEOUT_S} s; train a smaller --arch") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return code, log.read_text(encoding="utf-8", errors="replace").strip()


def _found(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match.group(1) if match else ""


def _reason(said: str) -> str:
    """Of its log, the line that says why: it begins with its version and ends with advice."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    bad = (line for line in lines if re.search("error|invalid|abort|fail|couldn't", line, re.IGNORECASE))
    return next(bad, lines[-1] if lines else "it said nothing")
