"""What the libraries underneath print goes to a file, for those who have to know."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def to_log() -> Iterator[Path]:
    """Send everything that this process prints, C++ included, to a log file; kept where an error leaves the block."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle, name = tempfile.mkstemp(prefix="sightline-convert-", suffix=".log")
    saved = os.dup(1), os.dup(2)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations among themselves
            yield Path(name)
        Path(name).unlink()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for fd in (handle, *saved):
            os.close(fd)
