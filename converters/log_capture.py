"""Messages for the user, and a log file for everything that the libraries below print."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Log = Callable[[str], object]


def silent(line: str) -> None:
    """A `Log` that drops every line."""


@contextmanager
def capture_output() -> Iterator[Path]:
    """Send everything that this process prints, C++ included, to a log file. Yields its path.

    The file is deleted at the end of the block. It stays if an error leaves the block.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    handle, name = tempfile.mkstemp(prefix="sightline-convert-", suffix=".log")
    saved = os.dup(1), os.dup(2)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries' deprecation warnings about each other
            yield Path(name)
        Path(name).unlink()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in (handle, *saved):
            os.close(fd)
