"""Keras files and SavedModels through TensorFlow's converter, which stays out of this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from converters.convert import ConvertOptions, convert
from converters.sources import from_keras as keras_source
from converters.sources.base import ModelOptions
from converters.tflite.ops import list_ops
from sightline.bundle import read_bundle
from sightline.errors import ConfigError, ModelError
from tests.conftest import SIZE, need
from tests.support.fitted import colours

# the answer of `read` to each model, all in one process, and the largest difference between net.keras and net.h5
READ = """
import json, sys
import numpy as np
from pathlib import Path
from converters.sources.keras_child import ModelRefusedError, read
folder, answers = Path(sys.argv[1]), {}
for name in sys.argv[2:]:
    try:
        read(folder / name)
        answers[name] = "read"
    except ModelRefusedError as e:
        answers[name] = str(e)
frames = np.load(folder / "pictures.npz")["frames"][:4].astype(np.float32)
a, b = ([np.asarray(read(folder / n)[0](f[None])) for f in frames] for n in ("net.keras", "net.h5"))
answers["difference"] = float(np.abs(np.array(a) - np.array(b)).max())
Path(sys.argv[1], "answers.json").write_text(json.dumps(answers))
"""
SAVED = r"Save it with `model\.export\(FOLDER\)`"
REFUSED = {
    "lambda.keras": rf"has a Lambda layer, which is code inside the file and is not run\. .*{SAVED}",
    "own.keras": rf"has a custom layer, 'Own', whose code is not in the file\. {SAVED}",
    "two_outputs.keras": r"gives 2 outputs\. It must give one",
    "two_inputs.keras": r"takes 2 inputs \('picture' float32 \[\?, 16, 16, 3\], 'other' .*It must take one RGB image",
    "any_size.keras": r"'picture' float32 \[\?, \?, \?, 3\], a size that is not fixed",
    "first.keras": r"'picture' float32 \[\?, 3, 16, 16\], channels first",
    "grey.keras": r"'picture' float32 \[\?, 16, 16, 1\]\. It must take one RGB image",
    "only.weights.h5": r"holds weights without a model\. Save the whole model",
    "cut.keras": r"not a model that Keras \S+ can load: .",
    "other_signature": r"has no signature 'serving_default' \(it has: go\)",
    "writes": r"reaches files, other machines or Python with TensorFlow's WriteFile .*and is not opened",
    "broken": r"not a SavedModel that TensorFlow can load: .",
}


def child(*command: object) -> None:
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, *map(str, command)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    need(find_spec("tensorflow") is not None, "TensorFlow is not installed: pip install 'sightline[keras]'")
    folder = tmp_path_factory.mktemp("keras")
    frames, classes = colours(pictures, SIZE)
    np.savez(folder / "pictures.npz", frames=frames, classes=classes)
    child(Path(__file__).parents[1] / "support" / "keras_models.py", folder / "pictures.npz", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.keras", "saved"])
def test_a_net_becomes_an_int8_bundle(models: Path, pictures: Path, tmp_path: Path, name: str) -> None:
    done = convert(
        models / name,
        tmp_path / "mine.bundle",
        ConvertOptions(
            "desktop", schemes=("static_int8", "float32"), model=ModelOptions(data=pictures, normalization="0..255")
        ),
    )
    assert done.float_quality == done.variants["static_int8"].quality == 1.0
    contents = read_bundle(tmp_path / "mine.bundle")
    assert contents.manifest.output.activation == "none", "it ends in probabilities"
    assert contents.manifest.metrics["float32"]["parity"] < 1e-4
    kinds = [op.name for op in list_ops(contents.variant("float32")[1])]
    assert kinds[-1] == "SOFTMAX"
    assert kinds.count("DEPTHWISE_CONV_2D") == kinds.count("CONV_2D") == 3
    assert "tensorflow" not in sys.modules


@pytest.fixture(scope="module")
def answers(models: Path) -> dict[str, str]:
    child("-c", READ, models, *REFUSED)
    result: dict[str, str] = json.loads((models / "answers.json").read_text())
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_with_the_reason(answers: dict[str, str], name: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        raise ModelError(answers[name])


def test_loading_a_saved_model_writes_nothing(answers: dict[str, str], models: Path) -> None:
    assert "writes" in answers and not (models / "it-ran").exists()


def test_an_h5_file_is_the_same_model(answers: dict[str, str]) -> None:
    assert float(answers["difference"]) < 1e-6


@pytest.mark.slow
def test_an_op_that_tflite_lacks_is_named_with_its_layer(models: Path) -> None:
    with pytest.raises(ModelError, match=r"fourier: TFLite has no op for TensorFlow's FFT2D \(in '.*spectrum.*'\)"):
        keras_source.to_tflite(models / "fourier")


@pytest.mark.parametrize(("name", "kind"), [("net.keras", "zip file"), ("net.h5", "HDF5 file")])
def test_what_is_no_keras_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ModelError, match=rf"{name}: not a Keras model: the file is no {kind}, or is damaged"):
        keras_source.to_tflite(tmp_path / name)


def test_without_tensorflow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ConfigError, match=r"needs tensorflow, .*pip install 'sightline\[keras\]'"):
        keras_source.to_tflite(tmp_path / "net.keras")
