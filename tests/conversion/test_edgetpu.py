"""Graphs for the Edge TPU: what its compiler takes, what is rewritten so that it does, and the compiler itself."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from converters.convert import ConvertOptions, convert
from converters.edgetpu.compiler import compile_model
from converters.edgetpu.lowering import lower
from converters.edgetpu.rules import map_ops, problems
from converters.edgetpu.versions import needed_version
from converters.tflite.graph import Node, Operand, pack, read_graph, unpack
from edge.inference.model import open_model
from sightline.bundle import Bundle, read_bundle, write_bundle
from sightline.device import load_device
from sightline.errors import InterpreterError, ModelError
from sightline.interpreter import Interpreter
from tests.conftest import Sightline

FRAME = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
NO_DATA = np.empty(0, np.uint8)


def raising(error: Exception) -> Any:
    def call(*_: object) -> None:
        raise error

    return call


def nodes(content: bytes) -> tuple[Node, ...]:
    return read_graph(unpack(content)).nodes


def versions(content: bytes) -> dict[str, int]:
    return {n.name: n.version for n in nodes(content)}


# --- rewriting


@pytest.mark.parametrize("delegate", ["none", "xnnpack"])
@pytest.mark.parametrize("scheme", ["static_int8", "static_int8_float_io", "per_channel"])
def test_a_lowered_graph_computes_the_same_to_the_last_bit(
    mobile: dict[str, bytes], scheme: str, delegate: Any
) -> None:
    plain, lowered = mobile[scheme], lower(mobile[scheme])
    assert plain != lowered
    actual = Interpreter(lowered, delegate=delegate)(FRAME)[0]
    assert np.array_equal(actual, Interpreter(plain, delegate=delegate)(FRAME)[0])
    assert not np.array_equal(actual, Interpreter(lowered, delegate=delegate)(255 - FRAME)[0])


def test_versions_are_those_that_tensorflow_2_5_gave_int8(mobile: dict[str, bytes]) -> None:
    assert versions(mobile["static_int8"])["CONV_2D"] == 1, (
        "the quantizer writes them right now: lower() needs no versions"
    )
    assert versions(lower(mobile["static_int8"])) == {
        "ADD": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "MEAN": 2, "MUL": 2, "PAD": 2, "SUB": 2,
        "TRANSPOSE": 2,
    }  # fmt: skip


def test_newer_versions_come_down_and_uint8_has_its_own(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    for code in model.operatorCodes:
        code.version += 5
    newer = pack(model)
    assert versions(newer)["CONV_2D"] == 6
    assert map_ops(nodes(newer)).first_unmapped == 0
    assert versions(lower(newer)) == versions(lower(mobile["static_int8"]))
    conv = next(n for n in nodes(mobile["static_int8"]) if n.name == "CONV_2D")
    unsigned = replace(conv, inputs=tuple(replace(t, dtype="uint8") for t in conv.inputs if t is not None))
    assert (needed_version(conv), needed_version(unsigned)) == (3, 1)


def test_a_missing_bias_becomes_zeros_in_the_scale_of_the_products(mobile: dict[str, bytes]) -> None:
    before = next(n for n in nodes(mobile["static_int8"]) if n.name == "FULLY_CONNECTED")
    after = next(n for n in nodes(lower(mobile["static_int8"])) if n.name == "FULLY_CONNECTED")
    data, weights, bias = after.inputs
    assert before.input(2) is None
    assert data is not None and weights is not None and bias is not None
    assert (bias.dtype, bias.shape, set(bias.numbers)) == ("int32", (5,), {0})
    assert bias.scales == pytest.approx([data.scales[0] * weights.scales[0]])
    assert not after.option("keepNumDims")


def test_sizes_are_fixed_and_nothing_is_left_over(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    model.subgraphs[0].tensors[0].shapeSignature = np.asarray([-1, 32, 32, 3], np.int32)
    unused = schema.OperatorCodeT()
    unused.builtinCode = unused.deprecatedBuiltinCode = schema.BuiltinOperator.ARG_MAX
    model.operatorCodes.append(unused)
    dynamic = pack(model)
    assert not nodes(dynamic)[0].inputs[0].fixed  # type: ignore[union-attr]
    lowered = unpack(lower(dynamic))
    assert all(t.shapeSignature is None for t in lowered.subgraphs[0].tensors)
    assert len(lowered.operatorCodes) == len(versions(lower(dynamic)))


def test_lowering_twice_changes_nothing(mobile: dict[str, bytes]) -> None:
    assert lower(lower(mobile["static_int8"])) == lower(mobile["static_int8"])


# --- what the compiler takes


def test_the_compiler_would_take_all_of_a_lowered_model(mobile: dict[str, bytes]) -> None:
    before, after = map_ops(nodes(mobile["static_int8"])), map_ops(nodes(lower(mobile["static_int8"])))
    assert (before.first_unmapped, before.unmapped_name, before.problem and before.problem.reason) == (
        16,
        "FULLY_CONNECTED",
        "no bias",
    )
    assert (after.mapped_ops, after.ops, after.complete, after.first_unmapped) == (17, 17, True, None)
    assert after.uncertain_kinds == ("TRANSPOSE",)


def test_per_channel_weights_of_a_fully_connected_layer_stop_it_there(mobile: dict[str, bytes]) -> None:
    m = map_ops(nodes(lower(mobile["per_channel"])))
    assert (m.mapped_ops, m.first_unmapped, m.unmapped_name, m.complete) == (16, 16, "FULLY_CONNECTED", False)
    assert m.problem is not None
    assert m.problem.reason == "per-channel weights"
    assert "--device coral_usb" in m.problem.fix


def test_float_ends_stay_on_the_cpu_and_stop_nothing(mobile: dict[str, bytes]) -> None:
    m = map_ops(nodes(lower(mobile["static_int8_float_io"])))
    assert (m.cpu_ops_before, m.mapped_ops, m.cpu_ops_after, m.ops, m.complete) == (1, 17, 1, 19, True)


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic_int8"])
def test_a_model_that_computes_in_float_maps_nothing(mobile: dict[str, bytes], scheme: str) -> None:
    m = map_ops(nodes(mobile[scheme]))
    assert (m.mapped_ops, m.complete) == (0, False)
    assert m.problem is not None
    assert "--scheme static_int8" in m.problem.fix


def operand(shape: tuple[int, ...], dtype: str = "int8", numbers: Any = None, scales: int = 1) -> Operand:
    data = NO_DATA if numbers is None else np.asarray(numbers, dtype).reshape(-1).view(np.uint8)
    return Operand(0, "t", shape, True, dtype, (0.5,) * scales, (0,) * scales, 0, data)


def node(name: str, *inputs: Operand, out: tuple[int, ...] = (1, 4, 4, 8), version: int = 1, **options: Any) -> Node:
    table = type("Options", (), options)()
    return Node(0, name, version, inputs, (operand(out),), table)


X = operand((1, 4, 4, 8))
WEIGHTS, BIAS = operand((8, 1, 1, 8), numbers=np.ones((8, 1, 1, 8))), operand((8,), "int32", np.zeros(8))

ZEROS = operand((1, 4), numbers=[0] * 4)


def axes(*values: int) -> Operand:
    return operand((len(values),), "int32", values)


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (node("MAX_POOL_2D", X), node("MAX_POOL_2D", X, fusedActivationFunction=1), "a fused activation"),
        (node("MEAN", X, axes(1, 2)), node("MEAN", X, axes(0, 1)), "a reduction over the batch"),
        (node("MEAN", X, axes(-1)), node("MEAN", operand((1, 4, 4, 6)), axes(3)), "a mean over 6 channels"),
        (node("SUM", X, axes(1)), node("SUM", X, axes(-4)), "a reduction over the batch"),
        (node("SUM", X, axes(1)), node("SUM", X, operand((1,), "int8")), "axes that are not constant"),
        (node("PAD", X, axes(0, 0, 1, 1)), node("PAD", X, axes(1, 0, 0, 0)), "padding of the batch"),
        (node("SOFTMAX", X, out=(1, 16_000)), node("SOFTMAX", X, out=(1, 16_001)), "a softmax over"),
        (node("SOFTMAX", X, out=(1, 10)), node("SOFTMAX", X, out=(1, 4, 10)), "a softmax over"),
        (node("PACK", X, axis=1), node("PACK", X, axis=0), "packing along the batch"),
        (node("SPLIT", axes(3), X), node("SPLIT", axes(0), X), "splitting along the batch"),
        (
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1, 1)),
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1, 2)),
            "strides other than 1",
        ),
        (
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1)),
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1), newAxisMask=1),
            "an ellipsis or a new axis",
        ),
        (
            node("CONV_2D", X, WEIGHTS, BIAS, dilationWFactor=2, dilationHFactor=2),
            node("CONV_2D", X, WEIGHTS, BIAS, dilationWFactor=2, dilationHFactor=1),
            "different dilations in x and y",
        ),
        (node("CONV_2D", X, WEIGHTS, BIAS), node("CONV_2D", X, X, BIAS), "weights that are not constant"),
        (node("CONV_2D", X, WEIGHTS, BIAS), node("CONV_2D", X, WEIGHTS), "no bias"),
        (node("CONV_2D", X, WEIGHTS, BIAS, version=5), node("CONV_2D", X, WEIGHTS, BIAS, version=6), "version 6"),
        (
            node("QUANTIZE", X, version=2),
            node("QUANTIZE", X, version=3),
            "version 3; the compiler knows versions up to 2",
        ),
        (node("CONCATENATION", X, ZEROS), node("CONCATENATION", X, WEIGHTS), "a constant input that is not zero"),
        (node("PRELU", X, operand((1, 1, 8))), node("PRELU", X, operand((4, 4, 8))), "an alpha with more than one"),
        (
            node("FULLY_CONNECTED", X, WEIGHTS, BIAS, out=(1, 8)),
            node("FULLY_CONNECTED", X, WEIGHTS, BIAS, out=(4, 8)),
            r"an output of \[4, 8\]",
        ),
        (node("ADD", X, X), node("ADD", X, operand((2, 4, 4, 8))), "a batch of more than 1"),
        (node("ADD", X, X), node("ADD", X, operand((1, 8), "int16")), "its type is int16; int8 or uint8 is needed"),
        (node("ADD", X, X), node("ADD", X, operand((1, 8), "float32", [1.0])), "its type is float32; int8"),
        (node("ADD", X, X), node("ADD", X, replace(X, fixed=False)), "a size that is not fixed"),
        (node("RELU6", X), node("HARD_SWISH", X), "not an op of the Edge TPU"),
    ],
)
def test_a_limit_of_the_edge_tpu(good: Node, bad: Node, reason: str) -> None:
    assert problems([good]) == [None]
    (problem,) = problems([bad])
    assert problem is not None
    assert re.match(reason, problem.reason), problem.reason


# --- the compiler

LOG = """Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 11 ms.

On-chip memory used for caching model parameters: 3.62MiB
Off-chip memory used for streaming uncached model parameters: 1.00KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 17
"""
SUCCESS = f"""#!/bin/sh
[ "$1 $2" = "-s -o" ] || exit 9
printf edgetpu-custom-op | cat "$4" - > "$3/$(basename "$4" .tflite)_edgetpu.tflite"
cat <<END
{LOG}
END
"""
FAILURE = """#!/bin/sh
echo "Edge TPU Compiler version 16.0.384591198"
echo "ERROR: Didn't find op for builtin opcode 'CONV_2D' version '6'."
echo "Model could not be parsed"
exit 1
"""
HANG = """#!/bin/sh
sleep 60 &
echo $! > "$(dirname "$0")/child"
wait
"""
NOTHING = """#!/bin/sh
cp "$4" "$3/model_edgetpu.tflite"
echo "Number of operations that will run on Edge TPU: 0"
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a script in the compiler's place."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "edgetpu_compiler"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    return install


def test_the_compilers_file_and_output_are_read(compiler: Any) -> None:
    compiler(SUCCESS)
    compiled = compile_model(b"a model", "lamp")
    assert compiled is not None
    assert compiled.content == b"a modeledgetpu-custom-op"
    assert (compiled.mapped_ops, compiled.ops, compiled.version) == (17, 17, "16.0.384591198")
    assert (compiled.on_chip, compiled.streamed) == ("3.62MiB", "1.00KiB")
    compiler(SUCCESS.replace("operations: 17", "operations: 17\nNumber of operations that will run on CPU: 3"))
    assert (partial := compile_model(b"a model", "lamp")) is not None
    assert (partial.mapped_ops, partial.ops) == (14, 17)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_model(b"a model", "lamp") is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (FAILURE, r"lamp: edgetpu_compiler failed \(exit code 1\): ERROR: Didn't find op .*(?s:.)*could not be parsed"),
        ("#!/bin/sh\nexit 0\n", r"lamp: edgetpu_compiler failed \(exit code 0\): no output"),
        (NOTHING, "lamp: edgetpu_compiler maps no op"),
        ("not a program", "lamp: .*edgetpu_compiler cannot be run: Exec format error"),
    ],
)
def test_a_compiler_that_fails_is_reported_with_its_reason(compiler: Any, script: str, message: str) -> None:
    compiler(script)
    with pytest.raises(ModelError, match=message):
        compile_model(b"a model", "lamp")


def test_a_compiler_that_hangs_is_ended_with_its_children(compiler: Any, tmp_path: Path) -> None:
    compiler(HANG)
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"lamp: edgetpu_compiler did not finish within 0\.5 s"):
        compile_model(b"a model", "lamp", timeout_s=0.5)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "bin" / "child").read_text(encoding="ascii"))
    for _ in range(50):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.1)
    pytest.fail("its child still runs")


# --- a bundle for a Coral


def test_without_a_compiler_the_manifest_says_how_to_continue(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sightline: Sightline
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"), log=lines.append)
    bundle = read_bundle(tmp_path / "coral.bundle")
    assert bundle.manifest.metrics["edgetpu"]["compiled"] is False
    assert "is not installed here" in bundle.manifest.metrics["edgetpu"]["reason"]
    assert bundle.manifest.metrics["edgetpu"]["reason"] in lines
    assert map_ops(nodes(bundle.variant()[1])).complete
    done = sightline("run", bundle.path, "--source", "test:", "--frames", 1, "--no-page")
    assert done.returncode == 2
    assert "is compiled for the Edge TPU; convert with --device coral_usb where edgetpu_compiler" in done.stderr
    assert (
        sightline("run", bundle.path, "--source", "test:", "--frames", 1, "--no-page", "--device", "desktop").returncode
        == 0
    )


def test_a_bundle_has_both_and_the_device_decides(
    run_folder: Path, tmp_path: Path, compiler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(SUCCESS)
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    bundle = read_bundle(tmp_path / "coral.bundle")
    assert list(bundle.manifest.variants) == ["static_int8", "static_int8_edgetpu"]
    assert bundle.manifest.default == "static_int8"
    assert bundle.manifest.metrics["edgetpu"]["static_int8_edgetpu"]["mapped_ops"] == 17
    assert bundle.contents["coral.static_int8_edgetpu.tflite"].endswith(b"edgetpu-custom-op")
    model = open_model(bundle, load_device("desktop")[1])
    assert model.scheme == "static_int8"
    # there is no Edge TPU here, but it was the compiled variant that asked for one
    monkeypatch.setattr(litert, "load_delegate", raising(OSError("no such library")))
    with pytest.raises(InterpreterError, match="libedgetpu1-std"):
        open_model(bundle, load_device("coral_usb")[1])
    assert bundle.fitting("edgetpu") == "static_int8_edgetpu"
    assert bundle.fitting("none") == "static_int8"
    with pytest.raises(Exception, match="is not compiled for the Edge TPU"):
        open_model(bundle, load_device("coral_usb")[1], "static_int8")


def test_a_bundle_of_compiled_variants_alone_is_refused_on_a_cpu(
    run_folder: Path, tmp_path: Path, compiler: Any
) -> None:
    compiler(SUCCESS)
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    both = read_bundle(tmp_path / "coral.bundle")
    only = {"static_int8_edgetpu": "coral.static_int8_edgetpu.tflite"}
    manifest = replace(both.manifest, variants=only, default="static_int8_edgetpu")
    files = {name: both.contents[name] for name in (*only.values(), "golden.npz")}
    write_bundle(tmp_path / "only.bundle", manifest, files)
    bundle: Bundle = read_bundle(tmp_path / "only.bundle")
    with pytest.raises(ModelError, match=r"all of its variants \(static_int8_edgetpu\) are compiled for the Edge TPU"):
        open_model(bundle, load_device("raspberry_pi_5")[1])


def test_a_compiler_that_fails_leaves_no_bundle(run_folder: Path, tmp_path: Path, compiler: Any) -> None:
    compiler(FAILURE)
    with pytest.raises(ModelError, match="static_int8: edgetpu_compiler failed"):
        convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    assert not (tmp_path / "coral.bundle").exists()


def test_only_integer_variants_are_lowered_and_compiled(run_folder: Path, tmp_path: Path, compiler: Any) -> None:
    compiler(SUCCESS)
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb", schemes=("float32",)))
    manifest = json.loads((tmp_path / "coral.bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["variants"]) == ["float32"]
    assert manifest["metrics"]["edgetpu"]["reason"] == "only static_int8 can be compiled, not float32"
