"""Programs that a benchmark or a test needs and that may not be installed."""

from __future__ import annotations

import os
import unittest


def need(condition: bool, message: str) -> None:
    """Check that something is installed.

    message: what is missing, and how to install it.
    Raises SkipTest, which pytest reports as a skipped test. Under CI it raises RuntimeError, because there everything
    has to be installed.
    """
    if condition:
        return
    if os.environ.get("CI"):
        raise RuntimeError(f"CI must have everything: {message}")
    raise unittest.SkipTest(message)
