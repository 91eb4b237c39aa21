"""Finds the library that runs a .tflite. All three have the same interpreter, but wheels for different machines.

Sightline installs ai-edge-litert, and is measured with it. tflite-runtime has wheels for 32-bit Raspberry Pi OS, up to
Python 3.11. TensorFlow is used if it is the only one that is installed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from sightline.errors import InterpreterError

# (package, module)
_RUNTIMES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
    ("tensorflow", "tensorflow"),
)


@dataclass(frozen=True)
class Runtime:
    """A library that runs .tflite files.

    name: of the package.
    lite: module that has `Interpreter`.
    more: module that has `load_delegate` and `OpResolverType`.
    """

    name: str
    lite: Any
    more: Any


@cache
def find_runtime() -> Runtime:
    """The first library that is installed. Raises InterpreterError if there is none, with install instructions."""
    for package, module in _RUNTIMES:
        try:
            lite = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except ImportError as e:  # a wheel for another numpy, or another machine
            raise InterpreterError(f"{package} is installed, but cannot be imported: {e}") from None
        if package == "tensorflow":
            return Runtime(package, lite.lite, lite.lite.experimental)
        return Runtime(package, lite, lite)
    raise InterpreterError(
        "no library for .tflite files is installed: pip install ai-edge-litert. On 32-bit Raspberry Pi OS (bookworm): "
        "pip install tflite-runtime, with numpy below 2."
    )
