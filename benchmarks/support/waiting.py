"""Wait for something that another thread or process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.05  # between two calls of the condition; each pause is longer than the last


def wait_until(
    condition: Callable[[], Value],
    timeout_s: float = 10.0,
    message: str | Callable[[], object] = "",
    *,
    process: subprocess.Popen[Any] | None = None,
) -> Value:
    """Call `condition` until its value is true, and return that value.

    message: what is waited for, or a function that describes the state after a failure.
    process: must run until then.
    Raises AssertionError after `timeout_s` seconds, or as soon as the process has exited.
    """
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while not (value := condition()):
        reason = ""
        if process is not None and process.poll() is not None:
            reason = f"the process exited with {process.returncode}"
        elif time.monotonic() > deadline:
            reason = f"not within {timeout_s:g} s"
        if reason:
            raise AssertionError(f"{reason}: {message() if callable(message) else message or 'the condition is false'}")
        time.sleep(pause_s)
        pause_s = min(LONGEST_PAUSE_S, 1.3 * pause_s)
    return value
