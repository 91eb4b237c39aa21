"""`sightline inspect` for models: its text, its JSON, and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.inspect.device_fit import remarks_for
from converters.inspect.model import inspect_model
from converters.report.inspection import InspectedModel, render
from converters.tflite.graph import pack, read_graph, unpack
from sightline.bundle import read_bundle
from sightline.device_config import load_device
from tests.conftest import Sightline


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, mobile: dict[str, bytes]) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "mobile.tflite"
    path.write_bytes(mobile["static_int8"])
    return path


def test_one_model_is_a_page_of_120_columns(sightline: Sightline, file: Path) -> None:
    done = sightline("inspect", file, "--device", "raspberry_pi_5")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 120
    for text in (
        "int8 [1, 32, 32, 3]",
        "scale 1, zero point -128",
        "DEPTHWISE_CONV_2D",
        "int8 per-channel",
        "XNNPACK   runs all 17 ops, in 1 partition",
        "the first 16 of 17 ops would map; stops at op 16, FULLY_CONNECTED: no bias; convert with --device coral_usb",
        "for raspberry_pi_5",
    ):
        assert text in done.stdout, done.stdout


@pytest.mark.slow
def test_a_bundle_shows_its_variants_and_labels(sightline: Sightline, bundle: Path) -> None:
    both = sightline("inspect", bundle).stdout
    assert both.count("labels    3: blue, green, red") == 2
    assert "colours.static_int8.tflite" in both
    assert "colours.float32.tflite" in both
    assert "activations     weights" not in both
    assert sightline("inspect", bundle, "--ops").stdout.count("activations     weights") == 2
    one = sightline("inspect", bundle, "--scheme", "float32").stdout
    assert "colours.static_int8.tflite" not in one
    assert one.count("activations     weights") == 1


def test_json_is_one_object_with_all_of_it(sightline: Sightline, bundle: Path) -> None:
    done = sightline("inspect", bundle, "--json", "--device", "coral_usb")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    document = json.loads(line)
    assert document["labels"] == ["blue", "green", "red"]
    model = document["models"]["colours.static_int8.tflite"]
    assert model["sha256"] == read_bundle(bundle).files["colours.static_int8.tflite"]["sha256"]
    assert model["inputs"][0]["scales"] == [1.0]
    assert model["runtime"]["partitions"] == 1
    assert model["ops"][-1]["edgetpu"]["reason"] == "per-channel weights"
    assert any(not remark["fits"] for remark in model["device"])


def test_it_needs_nothing_but_the_base_install(file: Path) -> None:
    program = """
import sys
for name in ("torch", "torchvision", "timm", "tensorflow", "jax", "litert_torch", "ai_edge_quantizer", "onnx"):
    sys.modules[name] = None
from sightline.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "inspect", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CONV_2D" in done.stdout


def device(tmp_path: Path, base: str, **changes: Any) -> Any:
    text = "".join(f"{k}: {json.dumps(v)}\n" for k, v in {**vars(load_device(base)[1]), **changes}.items())
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return load_device(str(tmp_path / "mine.yaml"))[1]


@pytest.mark.slow
def test_remarks_for_a_device_name_what_to_change(mobile: dict[str, bytes], tmp_path: Path) -> None:
    def changes(scheme: str, config: Any) -> str:
        return " ".join(r.text for r in remarks_for(inspect_model(mobile[scheme], scheme), config) if not r.fits)

    pi = load_device("raspberry_pi_5")[1]
    assert changes("static_int8", pi) == ""
    assert "convert with --scheme static_int8" in changes("dynamic_int8", pi)
    assert "11 ops with weights compute in float" in changes("float32", pi)
    assert "18 KiB of at most 10 KiB" in changes("static_int8", device(tmp_path, "raspberry_pi_5", max_model_kib=10))
    assert changes("static_int8", device(tmp_path, "raspberry_pi_5", delegate="none")) == ""
    assert "not compiled for the Edge TPU" in changes("static_int8", load_device("coral_usb")[1])
    assert "--scheme static_int8_float_io" in changes("static_int8", load_device("browser_phone")[1])
    assert changes("static_int8_float_io", load_device("browser_phone")[1]) == ""


def with_custom_op(content: bytes, name: bytes) -> bytes:
    model = unpack(content)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = name, 1
    model.operatorCodes.append(code)
    model.subgraphs[0].operators[2].opcodeIndex = len(model.operatorCodes) - 1
    model.subgraphs[0].operators[2].builtinOptionsType = 0
    model.subgraphs[0].operators[2].builtinOptions = None
    return pack(model)


def without_scales(content: bytes) -> bytes:
    """An addition whose second input is int8 without a scale: LiteRT 2.3 aborts on it."""
    model = unpack(content)
    add = next(n for n in read_graph(model).nodes if n.name == "ADD")
    assert add.inputs[1] is not None
    model.subgraphs[0].tensors[add.inputs[1].index].quantization.scale = np.asarray([], np.float32)
    return pack(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"", "model.tflite: empty"),
        (lambda content: b"a picture, perhaps", "model.tflite: not a .tflite"),
        (lambda content: content[: len(content) // 2], "model.tflite: damaged or cut off"),
        (lambda content: content[:8], "model.tflite: damaged or cut off"),
        (lambda content: content[:4] + b"TFL3" + bytes(5000), "model.tflite: its graph does not fit together"),
        (without_scales, "model.tflite: crashes LiteRT when opened (SIGABRT"),
    ],
    ids=["empty", "text", "half", "head", "zeros", "crash"],
)
def test_a_bad_file_is_an_error_and_not_a_crash(
    sightline: Sightline, mobile: dict[str, bytes], tmp_path: Path, change: Any, message: str
) -> None:
    (tmp_path / "model.tflite").write_bytes(change(mobile["static_int8"]))
    done = sightline("inspect", tmp_path / "model.tflite")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {message}"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_file_that_is_not_there_and_a_folder_that_is_no_bundle(sightline: Sightline, tmp_path: Path) -> None:
    for path, message in ((tmp_path / "absent.tflite", "No such file"), (tmp_path, "manifest.json")):
        done = sightline("inspect", path)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_bundle_with_a_flipped_byte_is_refused(sightline: Sightline, bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "colours.bundle")
    model = tmp_path / "colours.bundle" / "colours.float32.tflite"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    done = sightline("inspect", tmp_path / "colours.bundle")
    assert done.returncode == 2
    assert "colours.float32.tflite" in done.stderr
    assert done.stdout == ""


def test_an_unknown_scheme_names_those_that_there_are(sightline: Sightline, bundle: Path, file: Path) -> None:
    assert "Its variants: static_int8, float32" in sightline("inspect", bundle, "--scheme", "float16").stderr
    done = sightline("inspect", file, "--scheme", "float16")
    assert done.returncode == 2
    assert "--scheme chooses a variant of a bundle" in done.stderr


def test_what_litert_cannot_load_is_still_shown(sightline: Sightline, mobile: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(with_custom_op(mobile["static_int8"], b"FlexErf"))
    done = sightline("inspect", tmp_path / "model.tflite")
    assert done.returncode == 2
    assert "FlexErf" in done.stdout
    assert "not measured: LiteRT does not load the model" in done.stdout
    assert "model.tflite: LiteRT cannot load it" in done.stderr
    assert "FlexErf" in done.stderr


@pytest.mark.slow
def test_a_compiled_model_is_known_for_one(sightline: Sightline, mobile: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(with_custom_op(mobile["static_int8"], b"edgetpu-custom-op"))
    done = sightline("inspect", tmp_path / "model.tflite", "--device", "coral_usb")
    assert done.returncode == 0, done.stderr
    assert "Edge TPU  compiled for it" in done.stdout
    assert "NO" not in done.stdout
    assert "change" in sightline("inspect", tmp_path / "model.tflite", "--device", "desktop").stdout


def test_long_names_are_shortened_in_the_table(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    model.subgraphs[0].tensors[0].name = b"very/" * 50
    content = with_custom_op(pack(model), b"ACustomOperationWithAVeryLongNameOfSixtyCharactersAndSomeMore")
    model_info = InspectedModel("x" * 30, "0" * 64, inspect_model(content, "long"), ["label"] * 500)
    lines = render(model_info, None, True).splitlines()
    assert max(map(len, lines)) <= 120
