"""Libraries that cannot share this process work in one of their own: it leaves files in a folder, or says why not."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.errors import ModelError


def run_child(command: Sequence[str], folder: Path, *, name: str, timeout_s: float, env: Mapping[str, str]) -> None:
    """Run a program to its end; what it prints goes to a log, which is kept where it failed.

    A refusal is what the program left in `folder`/error.txt, with exit code 2. Raises ModelError with it, or with the
    log of a program that failed otherwise, or took longer than `timeout_s`. name: of the model.
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
                raise ModelError(f"{name}: not converted after {timeout_s:.0f} s (everything it said: {log})") from None
            raise
    error = folder / "error.txt"
    said = error.read_text(encoding="utf-8") if error.is_file() else ""
    if code and not (code == 2 and said):
        how = f"it was ended by signal {-code}" if code < 0 else f"it ended with {code}"
        raise ModelError(f"{name}: {said or how} (everything it said: {log})")
    Path(log).unlink()
    if code:
        raise ModelError(f"{name}: {said}")
