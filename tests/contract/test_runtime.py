"""Which library runs a model, and how an accelerator's is loaded: with one that a C compiler makes here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need

RUN = """
import sys
for absent in sys.argv[4:]:
    sys.modules[absent] = None
import numpy as np
from pathlib import Path
from sightline.errors import SightlineError
from sightline.interpreter import Interpreter
from sightline.runtime import find_runtime
try:
    interpreter = Interpreter(Path(sys.argv[1]).read_bytes(), delegate=sys.argv[2], name="lamp")
    picture = np.full((*interpreter.size[::-1], 3), int(sys.argv[3]), np.uint8)
    print(find_runtime().name, *np.round(interpreter(picture)[0].reshape(-1), 3).tolist())
except SightlineError as e:
    print(e.exit_code, e)
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A model that says that it was compiled for the Edge TPU, and that a CPU can run."""
    path = tmp_path_factory.mktemp("compiled") / "x_edgetpu.tflite"
    (plain,) = bundle.glob("*.static_int8.tflite")
    path.write_bytes(plain.read_bytes() + b"edgetpu-custom-op")
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libedgetpu.so.1."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    need(compiler is not None, "a C compiler makes the delegate: apt install gcc")
    folder = tmp_path_factory.mktemp("library")
    source = Path(__file__).parents[1] / "support" / "fake_delegate.c"
    command = [str(compiler), "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "libedgetpu.so.1", source]
    subprocess.run(command, check=True, timeout=60)
    return folder


def run(model: Path, delegate: str, *absent: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RUN, model, delegate, "90", *absent],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_each_runtime_gives_the_same(bundle: Path) -> None:
    (plain,) = bundle.glob("*.static_int8.tflite")
    name, *usual = run(plain, "xnnpack").split()
    other, *same = run(plain, "xnnpack", "ai_edge_litert", "tflite_runtime").split()
    assert (name, other) == ("ai-edge-litert", "tensorflow")
    assert [float(v) for v in usual] == pytest.approx([float(v) for v in same], abs=0.2)


def test_without_any_it_says_what_to_install(bundle: Path) -> None:
    (plain,) = bundle.glob("*.static_int8.tflite")
    told = run(plain, "xnnpack", "ai_edge_litert", "tflite_runtime", "tensorflow")
    assert told.startswith("3 no library for .tflite files is installed: pip install ai-edge-litert")


def test_a_delegates_library_is_found_loaded_and_asked(compiled: Path, library: Path) -> None:
    name, *values = run(compiled, "edgetpu", LD_LIBRARY_PATH=str(library)).split()
    assert name == "ai-edge-litert" and len(values) == 3


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("absent", "3 no Edge TPU answers. Is it plugged in"),
        ("other", "2 lamp: LiteRT cannot load it: "),
    ],
)
def test_what_a_delegate_refuses_is_told(compiled: Path, library: Path, mode: str, words: str) -> None:
    assert run(compiled, "edgetpu", LD_LIBRARY_PATH=str(library), FAKE_TPU=mode).startswith(words)


def test_without_its_library_it_says_where_to_get_it(compiled: Path) -> None:
    told = run(compiled, "edgetpu")
    assert told.startswith("3 libedgetpu.so.1 is not installed. Install libedgetpu1-std from Coral's")
