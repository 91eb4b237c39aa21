"""ONNX through onnx2tf, in a tool environment of its own, checked against ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.convert import ConvertOptions, convert
from converters.evaluate.run_images import run_all
from converters.sources.base import ModelOptions
from converters.sources.from_onnx import OnnxTool, install, outputs, to_tflite, tool_environment
from sightline.bundle import read_bundle
from sightline.errors import ConfigError, ModelError
from sightline.preprocess import InputSpec
from tests.conftest import need
from tests.support.fitted import fitted, save_onnx

HEIGHT, WIDTH = 24, 40
Nodes = list[onnx.NodeProto]


@pytest.fixture(scope="module", autouse=True)
def tool() -> None:
    try:
        install()
    except (ConfigError, ModelError) as e:
        need(False, str(e))


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"my_{output}", **attributes)


def save(
    path: Path,
    nodes: Nodes,
    shape: Sequence[int | str] = (1, 3, HEIGHT, WIDTH),
    *,
    more_inputs: Sequence[str] = (),
    kind: int = TensorProto.FLOAT,
    external: bool = False,
) -> Path:
    """A net whose first node takes 'x' and whose last one gives 'y'."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(0, 0.2, (8, 3, 3, 3)),
        "bias": rng.normal(0, 1, 8),
        "dense": rng.normal(0, 1, (8, 4)),
    }
    entries = [helper.make_tensor_value_info("x", kind, shape)]
    entries += [helper.make_tensor_value_info(name, kind, shape) for name in more_inputs]
    graph = helper.make_graph(
        nodes, "net", entries, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


TAIL = [
    node("Conv", "first kernel bias", "conv", pads=[1, 1, 1, 1], strides=[2, 2]),
    node("HardSigmoid", "conv", "hard", alpha=1 / 6, beta=0.5),
    node("LeakyRelu", "hard", "leaky", alpha=0.1),
    node("GlobalAveragePool", "leaky", "pooled"),
    node("Flatten", "pooled", "flat"),
    node("MatMul", "flat dense", "logits"),
    node("Softmax", "logits", "y"),
]
NCHW = [node("Identity", "x", "first"), *TAIL]
NHWC = [node("Transpose", "x", "first", perm=[0, 3, 1, 2]), *TAIL]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "how"),
    [
        ("mobilenetv3_small_050", {"dynamic_batch": True, "external_data": True}),
        ("resnet10t", {"dynamic_batch": False, "external_data": False}),
    ],
)
def test_what_torch_exports_becomes_an_int8_bundle(
    pictures: Path, tmp_path: Path, arch: str, how: dict[str, bool]
) -> None:
    path = save_onnx(tmp_path / f"{arch}.onnx", fitted(arch, pictures, 64), 64, **how)
    lines: list[str] = []
    done = convert(
        path,
        tmp_path / "mine.bundle",
        ConvertOptions("desktop", model=ModelOptions(data=pictures, normalization="-1..1")),
        log=lines.append,
    )
    assert done.float_quality == done.variants["static_int8"].quality == 1.0
    assert any("of ONNX Runtime" in line for line in lines)
    manifest = read_bundle(tmp_path / "mine.bundle").manifest
    assert (manifest.input.width, manifest.input.height) == (64, 64)
    assert manifest.metrics["float32"]["parity"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "shape"),
    [(NCHW, (1, 3, HEIGHT, WIDTH)), (NHWC, (1, HEIGHT, WIDTH, 3)), (NCHW, ("n", 3, HEIGHT, WIDTH))],
    ids=["NCHW", "NHWC", "dynamic batch"],
)
def test_either_order_of_colours_gives_what_onnx_runtime_gives(
    tmp_path: Path, nodes: Nodes, shape: Sequence[int | str]
) -> None:
    path = save(tmp_path / "net.onnx", nodes, shape)
    frames = np.random.default_rng(0).integers(0, 256, (4, HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames[:2] //= 4
    spec = InputSpec(WIDTH, HEIGHT, mean=(127.5,) * 3, std=(64.0,) * 3)
    expected = outputs(path, spec.normalize(frames))
    actual = run_all(to_tflite(path), frames, spec, "net")
    assert np.ptp(expected, axis=0).max() > 1e-3
    assert np.abs(actual - expected).max() < 1e-6
    assert np.abs(actual - expected[::-1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nodes", "options", "why"),
    [
        (NCHW, {"shape": (1, 3, "height", WIDTH)}, r"'x' float32 \[1, 3, height, 40\], a size that is not fixed"),
        (NCHW, {"shape": (8, 3, HEIGHT, WIDTH)}, r"'x' float32 \[8, 3, 24, 40\], a batch of 8"),
        (NCHW, {"shape": (1, 1, HEIGHT, WIDTH)}, r"'x' float32 \[1, 1, 24, 40\]\. It must take one RGB image"),
        (NCHW, {"kind": TensorProto.UINT8}, r"'x' uint8 \[1, 3, 24, 40\]\. It must take one RGB image"),
        (
            [node("Add", "x z", "first"), *TAIL],
            {"more_inputs": "z"},
            r"takes 2 inputs \('x' .*, 'z' float32 .*It must take",
        ),
        (
            [node("Wobble", "x", "first", domain="mine"), *TAIL],
            {},
            r"has no TFLite for the op Wobble \(node 'my_first'\)\. Express it in other ops",
        ),
        (
            [node("DynamicQuantizeLinear", "x", "q"), *NCHW],
            {},
            r"is quantized already \(DynamicQuantizeLinear, node 'my_q'\)\. Convert the float model",
        ),
    ],
    ids=["dynamic height", "a batch", "grey", "bytes", "two inputs", "an op of one's own", "quantized"],
)
def test_what_cannot_be_converted_is_refused_with_the_reason(
    tmp_path: Path, nodes: Nodes, options: dict[str, Any], why: str
) -> None:
    path = save(tmp_path / "net.onnx", nodes, **options)
    with pytest.raises(ModelError, match=rf"net\.onnx: .*{why}"):
        to_tflite(path)


def missing(data: Path) -> None:
    data.unlink()


def cut(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:100])


@pytest.mark.parametrize(("damage", "why"), [(missing, r"is missing$"), (cut, "which is too short")])
def test_weights_that_are_not_beside_the_model_are_named(
    tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    path = save(tmp_path / "net.onnx", NCHW, external=True)
    damage(tmp_path / "net.onnx.data")
    with pytest.raises(ModelError, match=rf"net\.onnx: its weights are in .*net\.onnx\.data.*{why}"):
        to_tflite(path)


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", b"\x08\x09"], ids=["empty", "text", "no graph"])
def test_what_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx: not an ONNX model: "):
        to_tflite(tmp_path / "net.onnx")


def test_no_uv_and_no_python_are_errors_that_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "net.onnx", NCHW)
    with pytest.raises(ConfigError, match=r"ONNX needs a Python 3\.99 on this machine.* python install 3\.99`"):
        to_tflite(path, tool=OnnxTool(pythons=("3.99",)))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"ONNX needs uv, .*pip install 'sightline\[onnx\]'"):
        to_tflite(path)


def test_an_index_that_does_not_have_the_tool_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", NCHW)
    lines: list[str] = []
    with pytest.raises(ModelError, match=r"needs onnx2tf==0\.0\.0\.dev0, which uv cannot install: .*onnx2tf"):
        to_tflite(path, lines.append, OnnxTool("onnx2tf==0.0.0.dev0"))
    assert lines == ["installing onnx2tf==0.0.0.dev0 in an environment of its own, once: about 150 MB"]


def test_the_tool_does_not_see_our_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parent))
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & set(tool_environment())


def test_a_child_that_takes_too_long_is_ended_and_its_log_named(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", NCHW)
    with pytest.raises(ModelError, match=r"net\.onnx: not converted after 0 s \(full output: .*\.log\)"):
        to_tflite(path, tool=OnnxTool(run_timeout_s=0.01))
