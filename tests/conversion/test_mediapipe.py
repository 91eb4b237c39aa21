"""MediaPipe opens what Sightline converted, finds labels and normalisation in it, and gives the same answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.convert import ConvertOptions, convert
from converters.sources.base import DEFAULTS
from converters.sources.open import open_source
from converters.tflite.metadata_writer import with_metadata
from sightline.bundle import Bundle, read_bundle
from sightline.device_config import Scheme
from sightline.interpreter import Interpreter
from sightline.output_spec import OutputSpec, decode
from sightline.preprocess import Frame, InputSpec
from tests.conftest import LABELS, SIZE, coloured, need

pytestmark = pytest.mark.slow

MEDIAPIPE = "1.2.3"
SCHEMES: tuple[Scheme, ...] = ("static_int8", "static_int8_float_io", "dynamic_int8", "float16", "float32")
# between its LiteRT and ours. Equal to the bit where this was written; int8 kernels may differ by a step of the output
FLOAT_TOLERANCE = 1e-3
INT8_TOLERANCE = 0.02
Answers = list[list[tuple[str, float]]]
Classify = Callable[[bytes], Any]


@pytest.fixture(scope="session")
def mediapipe(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment that has MediaPipe: it brings an OpenCV that breaks ours. Kept between runs."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    need(uv is not None, "uv makes the environment of MediaPipe: pip install uv")
    folder = request.config.cache.mkdir(
        f"mediapipe-{MEDIAPIPE}-python{sys.version_info.major}.{sys.version_info.minor}"
    )
    python, complete = folder / "venv" / "bin" / "python", folder / "complete"
    if complete.exists() and python.exists():
        return python
    for arguments in (
        ["venv", "--clear", "--python", sys.executable, folder / "venv"],
        ["pip", "install", "--python", python, f"mediapipe=={MEDIAPIPE}"],
    ):
        done = subprocess.run([str(uv), "--quiet", *map(str, arguments)], capture_output=True, text=True, timeout=600)
        need(not done.returncode, f"mediapipe {MEDIAPIPE} cannot be installed here: {' '.join(done.stderr.split())}")
    complete.touch()
    return python


@pytest.fixture(scope="module")
def frames() -> Frame:
    """Two images of each class in the model's own size and RGB: nothing is left to resize."""
    rng = np.random.default_rng(3)
    return np.stack([coloured(label, rng, SIZE, SIZE)[:, :, ::-1] for label in (*LABELS, *LABELS)])


@pytest.fixture
def classify(mediapipe: Path, frames: Frame, tmp_path: Path) -> Classify:
    def call(content: bytes) -> Any:
        (tmp_path / "model.tflite").write_bytes(content)
        np.save(tmp_path / "frames.npy", frames)
        script = Path(__file__).parents[1] / "support" / "mediapipe_classify.py"
        # it asks for play.googleapis.com otherwise: a test stays on its own machine
        nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
        environment = {**os.environ, **nowhere, "no_proxy": "", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [mediapipe, "-I", script, tmp_path / "model.tflite", tmp_path / "frames.npy"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return call


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Bundle:
    """A bundle of all schemes."""
    path = tmp_path_factory.mktemp("every") / "colours.bundle"
    convert(run_folder, path, ConvertOptions("desktop", schemes=SCHEMES))
    return read_bundle(path)


@pytest.fixture(scope="module")
def float_model(run_folder: Path) -> bytes:
    return open_source(run_folder, DEFAULTS).float_model


def check_same(
    answers: Answers, content: bytes, frames: Frame, input: InputSpec, output: OutputSpec, tolerance: float
) -> None:
    """MediaPipe's answers against those of our own interpreter and decoding: labels, order and scores.

    MediaPipe applies no softmax: its scores are the model's own outputs.
    """
    assert len(answers) == len(frames)
    interpreter = Interpreter(content, input)
    for frame, answer in zip(frames, answers, strict=True):
        outputs = interpreter(frame)
        ours = dict(zip(output.labels, outputs[0].reshape(-1).tolist(), strict=True))
        assert [label for label, _ in answer] == [c.label for c in decode(outputs, output, top=len(output.labels))]
        assert dict(answer) == pytest.approx(ours, abs=tolerance)


@pytest.mark.parametrize("scheme", ["static_int8_float_io", "dynamic_int8", "float16", "float32"])
def test_mediapipe_gives_our_answers(classify: Classify, every: Bundle, frames: Frame, scheme: Scheme) -> None:
    content = every.variant(scheme)[1]
    answers = classify(content)
    tolerance = INT8_TOLERANCE if "int8" in scheme else FLOAT_TOLERANCE
    check_same(answers, content, frames, every.manifest.input, every.manifest.output, tolerance)
    assert [answer[0][0] for answer in answers] == [*LABELS, *LABELS], "the pictures' own colours"


def test_mediapipe_refuses_int8_inputs(classify: Classify, every: Bundle) -> None:
    """Therefore the scheme static_int8_float_io."""
    answer = classify(every.variant("static_int8")[1])
    assert "Requested one of these types: uint8/float32, got INT8" in answer["error"]


def test_mediapipe_refuses_a_float_model_without_metadata(classify: Classify, float_model: bytes) -> None:
    assert "it requires specifying NormalizationOptions metadata" in classify(float_model)["error"]


def test_mediapipe_normalizes_by_the_metadata_and_reads_any_label(
    classify: Classify, float_model: bytes, frames: Frame
) -> None:
    """A model whose input is (byte - mean) / std: one that took bytes as they are would get other numbers."""
    spec = InputSpec(SIZE, SIZE, mean=(-60.0,) * 3, std=(1.5,) * 3)
    output = OutputSpec("classify", "softmax", ("grün, hell", "日本語", "PK\x05\x06"))
    content = with_metadata(float_model, name="n", version="1", input=spec, output=output)
    check_same(classify(content), content, frames, spec, output, FLOAT_TOLERANCE)


def test_mediapipe_cannot_normalize_each_channel_by_itself(classify: Classify, float_model: bytes) -> None:
    spec = InputSpec(SIZE, SIZE, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    output = OutputSpec("classify", "softmax", LABELS)
    answer = classify(with_metadata(float_model, name="n", version="1", input=spec, output=output))
    assert "Per-channel image normalization is not available" in answer["error"]
