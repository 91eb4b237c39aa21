"""Which library runs a .tflite here. All three have the same interpreter; they differ in where their wheels exist.

ai-edge-litert is what Sightline installs and what it was measured with. tflite-runtime has wheels for 32-bit Raspberry
Pi OS, and ended with Python 3.11. TensorFlow is for whoever has it anyway.
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
    """name: of the package. lite: has `Interpreter`. more: has `load_delegate` and `OpResolverType`."""

    name: str
    lite: Any
    more: Any


@cache
def find_runtime() -> Runtime:
    """The first that is installed. Raises InterpreterError where none is, with the way out."""
    for package, module in _RUNTIMES:
        try:
            lite = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        except ImportError as e:  # a wheel for another numpy, or another machine
            raise InterpreterError(f"{package} is installed and cannot be loaded: {e}") from None
        if package == "tensorflow":
            return Runtime(package, lite.lite, lite.lite.experimental)
        return Runtime(package, lite, lite)
    raise InterpreterError(
        "nothing here runs .tflite files: pip install ai-edge-litert; on 32-bit Raspberry Pi OS (bookworm), "
        "pip install tflite-runtime, with numpy below 2"
    )
