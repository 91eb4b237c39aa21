"""Bytes into tensors and back, against LiteRT fed by hand; and what is no model, or none for this device."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from sightline.bundle import read_bundle
from sightline.data.classification import read_class_folders
from sightline.data.dataset import read_frames
from sightline.errors import ConfigError, InterpreterError, ModelError
from sightline.interpreter import Interpreter, capture_stderr
from sightline.preprocess import InputSpec
from tests.conftest import SIZE


@pytest.fixture(scope="module")
def int8(bundle: Path) -> bytes:
    return read_bundle(bundle).variant("static_int8")[1]


@pytest.fixture(scope="module")
def float32(bundle: Path) -> bytes:
    return read_bundle(bundle).variant("float32")[1]


def every_byte() -> np.ndarray[Any, Any]:
    """uint8 [SIZE, SIZE, 3] in which each channel has every value."""
    return np.random.default_rng(0).permuted(np.arange(SIZE * SIZE * 3) % 256).reshape(SIZE, SIZE, 3).astype(np.uint8)


def by_hand(content: bytes, tensor: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], tuple[float, int]]:
    """(the stored output, its scale and zero point) of LiteRT itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runtime = litert.Interpreter(model_content=content, num_threads=1)
    runtime.allocate_tensors()
    (entry,), (end,) = runtime.get_input_details(), runtime.get_output_details()
    runtime.set_tensor(entry["index"], tensor)
    runtime.invoke()
    return runtime.get_tensor(end["index"]), end["quantization"]


def patched(content: bytes, **changes: Any) -> bytes:
    """A model with another input tensor: scale, zero_point, or shape."""
    data = bytearray(content)
    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    entry = graph.Tensors(graph.Inputs(0))
    if "scale" in changes:
        entry.Quantization().ScaleAsNumpy()[:] = changes["scale"]
        entry.Quantization().ZeroPointAsNumpy()[:] = changes["zero_point"]
    if "shape" in changes:
        entry.ShapeAsNumpy()[:] = changes["shape"]
    return bytes(data)


def test_int8_bytes_arrive_exactly_and_come_back_dequantized(int8: bytes) -> None:
    image = every_byte()
    interpreter = Interpreter(int8)
    assert (interpreter.input.dtype, interpreter.input.scale, interpreter.input.zero_point) == ("int8", 1.0, -128)
    stored, (scale, zero_point) = by_hand(int8, (image[None].astype(np.int16) - 128).astype(np.int8))
    (given,) = interpreter(image)
    assert given.dtype == np.float32
    assert np.array_equal(given, (stored.astype(np.float32) - zero_point) * np.float32(scale))


def test_float_bytes_arrive_as_0_to_255(float32: bytes) -> None:
    image = every_byte()
    stored, _ = by_hand(float32, image[None].astype(np.float32))
    assert np.array_equal(Interpreter(float32)(image)[0], stored)


def test_int8_is_float_within_its_quantization(int8: bytes, float32: bytes, pictures: Path) -> None:
    quantized, reference = Interpreter(int8), Interpreter(float32)
    data = read_class_folders(pictures)
    frames = read_frames(pictures, data.val, InputSpec(SIZE, SIZE))
    expected = np.concatenate([reference(frame)[0] for frame in frames])
    given = np.concatenate([quantized(frame)[0] for frame in frames])
    step = quantized.outputs[0].scale
    assert np.abs(given - expected).max() <= 4 * step
    assert np.ptp(expected) > 50 * step, "outputs that hardly differ show nothing"
    assert np.abs(np.roll(given, 1, axis=1) - expected).max() > 50 * step


@pytest.mark.parametrize(
    ("mean", "std", "scale", "zero_point"),
    [
        (0.0, 255.0, 1 / 255, -128),
        (127.5, 127.5, 1 / 127.5, 0),
        (127.5, 127.5, 1 / 127.5, -1),
        (128.0, 64.0, 1 / 64, 0),
    ],
)
def test_each_byte_of_a_normalised_picture_is_a_value_of_its_own(
    int8: bytes, mean: float, std: float, scale: float, zero_point: int
) -> None:
    """Rounding to the nearest even number would give every other pair of bytes the same one at -1..1."""
    spec = InputSpec(SIZE, SIZE, mean=(mean,) * 3, std=(std,) * 3)
    table = Interpreter(patched(int8, scale=scale, zero_point=zero_point), spec).table
    assert len(np.unique(table)) >= 255
    meant = (table.astype(np.float64) - zero_point) * scale
    assert np.abs(meant - (np.arange(256) - mean) / std).max() <= 1.01 * scale


def test_a_float_model_takes_the_values_that_its_spec_says(float32: bytes) -> None:
    spec = InputSpec(SIZE, SIZE, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0))
    image = every_byte()
    plain = Interpreter(float32)
    plain.feed(((image - np.float32(spec.mean)) / np.float32(spec.std))[None])
    plain.invoke()
    given = Interpreter(float32, spec)(image)[0]
    assert np.allclose(given, plain.results()[0], atol=1e-5)
    assert not np.allclose(given, Interpreter(float32)(image)[0], atol=1)
    with pytest.raises(ModelError, match=r"its input is \[1, 32, 32, 3\], but should be 16x16"):
        Interpreter(float32, InputSpec(16, 16))


@pytest.mark.parametrize(("scale", "zero_point"), [(2.0, -100), (0.5, -128), (4.0, -64), (1.0, -127)])
def test_a_third_partys_scale_maps_each_byte_to_the_nearest_stored_value(
    int8: bytes, scale: float, zero_point: int
) -> None:
    content = patched(int8, scale=scale, zero_point=zero_point)
    image = every_byte()
    nearest = np.ceil(image / np.float64(scale) - 0.501)  # of two that are equally near the lower one
    stored = np.clip(nearest + zero_point, -128, 127).astype(np.int8)
    expected, (out_scale, out_zero) = by_hand(content, stored[None])
    given = Interpreter(content)(image)[0]
    assert np.array_equal(given, (expected.astype(np.float32) - out_zero) * np.float32(out_scale))
    flipped, _ = by_hand(content, (image[None] ^ 0x80).view(np.int8))
    assert not np.array_equal(flipped, expected), "with these numbers a wrong path would pass as well"


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_threads_nor_kernels_change_the_answer(int8: bytes, threads: int) -> None:
    image = every_byte()
    one = Interpreter(int8)(image)[0]
    step = Interpreter(int8).outputs[0].scale
    assert np.array_equal(Interpreter(int8, threads=threads)(image)[0], one)
    assert np.abs(Interpreter(int8, threads=threads, delegate="none")(image)[0] - one).max() <= step


def test_one_picture_after_another_leaves_nothing_behind(int8: bytes) -> None:
    interpreter = Interpreter(int8)
    first = interpreter(every_byte())[0].copy()
    interpreter(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert np.array_equal(interpreter(every_byte())[0], first)


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (SIZE, SIZE + 1, 3), (1, SIZE, SIZE, 3), (SIZE, SIZE, 1)])
def test_a_picture_of_another_shape_is_refused(int8: bytes, float32: bytes, shape: tuple[int, ...]) -> None:
    for content in (int8, float32):
        with pytest.raises(ValueError, match=r"the model takes images of \[32, 32, 3\]"):
            Interpreter(content)(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    "content", [b"", b"garbage", bytes(2000), np.random.default_rng(0).bytes(5000)], ids=["empty", "text", "0", "noise"]
)
def test_garbage_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"lamp\.tflite: LiteRT cannot load it: ."):
        Interpreter(content, name="lamp.tflite")


def test_a_cut_model_is_refused_and_not_a_crash(int8: bytes, tmp_path: Path) -> None:
    """In a process of its own: what LiteRT does with half a file is its affair until proven."""
    (tmp_path / "model").write_bytes(int8)
    program = """
import pathlib, sys
from sightline.errors import ModelError
from sightline.interpreter import Interpreter
whole = pathlib.Path(sys.argv[1]).read_bytes()
for tenths in range(10):
    try:
        Interpreter(whole[: len(whole) * tenths // 10])
    except ModelError:
        continue
    sys.exit(f"{tenths} tenths of a model were taken for one")
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "model"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(2, SIZE, SIZE, 3), (1, SIZE, SIZE * 3, 1)])
def test_a_model_that_takes_something_else_is_refused(float32: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"lamp: (must have one input \[1, height, width, 3\]|LiteRT cannot load it)"):
        Interpreter(patched(float32, shape=shape), name="lamp")


def test_a_plain_model_is_not_given_to_an_edge_tpu(int8: bytes) -> None:
    with pytest.raises(ConfigError, match=r"lamp: is not compiled for the Edge TPU.*--device desktop"):
        Interpreter(int8, delegate="edgetpu", name="lamp")


@pytest.mark.parametrize("delegate", ["xnnpack", "none"])
def test_a_compiled_model_is_not_given_to_the_cpu(int8: bytes, delegate: Any) -> None:
    with pytest.raises(ConfigError, match="lamp: is compiled for the Edge TPU"):
        Interpreter(int8 + b"edgetpu-custom-op", delegate=delegate, name="lamp")


@pytest.mark.parametrize(
    ("failure", "message"),
    [(OSError("no such library"), "libedgetpu1-std"), (ValueError("no device"), "no Edge TPU answers")],
)
def test_an_edge_tpu_that_is_not_there_is_the_devices_failure(
    int8: bytes, monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def load(*_: object) -> None:
        raise failure

    monkeypatch.setattr(litert, "load_delegate", load)
    with pytest.raises(InterpreterError, match=message) as e:
        Interpreter(int8 + b"edgetpu-custom-op", delegate="edgetpu")
    assert e.value.exit_code == 3


def test_nothing_is_printed_and_stderr_is_given_back(int8: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    Interpreter(int8)
    with pytest.raises(ModelError):
        Interpreter(b"garbage")
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


@pytest.mark.parametrize("zero_point", [0, -1])
def test_each_byte_of_minus_one_to_one_is_another_value(int8: bytes, zero_point: int) -> None:
    """ai-edge-quantizer rounds the zero point of this range to either."""
    spec = InputSpec(SIZE, SIZE, mean=(127.5,) * 3, std=(127.5,) * 3)
    table = Interpreter(patched(int8, scale=2 / 255, zero_point=zero_point), spec).table
    assert [len(np.unique(channel)) for channel in table] == [256, 256, 256]


def test_what_other_threads_write_while_a_model_loads_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    errors: list[str] = []
    with capture_stderr(errors):
        os.write(2, b"INFO: Created a delegate\nthe camera is away\nERROR: no such op\nand back\n")
    assert errors == ["no such op"]
    assert capfd.readouterr().err == "the camera is away\nand back\n"
