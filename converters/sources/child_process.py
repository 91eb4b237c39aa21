"""Run a library that cannot share this process in a process of its own. It leaves files in a folder, or an error."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.errors import ModelError


def run_child(command: Sequence[str], folder: Path, *, name: str, timeout_s: float, env: Mapping[str, str]) -> None:
    """Run a program to its end. Its output goes to a log file, which stays if the program fails.

    A refusal is a text in `folder`/error.txt with exit code 2.

    name: of the model, for the message.
    Raises ModelError with the refusal, or with the path of the log if the program fails otherwise or times out.
    """
    handle, log = tempfile.mkstemp(prefix="sightline-convert-", suffix=".log")
    with os.fdopen(handle, "wb") as output:
        process = subprocess.Popen(
            [*command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(env), start_new_session=True
        )
        try:
            code = process.wait(timeout_s)
        except BaseException as e:
            os.killpg(process.pid, signal.SIGKILL)  # its children, too
            process.wait()
            if isinstance(e, subprocess.TimeoutExpired):
                raise ModelError(f"{name}: not converted after {timeout_s:.0f} s (full output: {log})") from None
            raise
    error = folder / "error.txt"
    reason = error.read_text(encoding="utf-8") if error.is_file() else ""
    if code and not (code == 2 and reason):
        end = (
            f"the converter was ended by signal {-code}" if code < 0 else f"the converter failed with exit code {code}"
        )
        raise ModelError(f"{name}: {reason or end} (full output: {log})")
    Path(log).unlink()
    if code:
        raise ModelError(f"{name}: {reason}")
