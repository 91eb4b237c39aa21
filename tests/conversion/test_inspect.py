"""What `sightline inspect` says of a model, each figure against something that does not come from it."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from converters.inspect.device_fit import remarks_for
from converters.inspect.memory import plan_memory
from converters.inspect.model import inspect_model
from converters.inspect.probe import run_probe
from converters.report.inspection import InspectedModel, render
from converters.tflite.graph import pack, read_graph, unpack
from sightline.bundle import read_bundle
from sightline.device import load_device
from sightline.errors import ModelError
from tests.conftest import SIZE, Sightline
from tests.conversion.conftest import MobileNet

CONCATENATION = schema.BuiltinOptions.ConcatenationOptions
OWN = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, mobile: dict[str, bytes]) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "mobile.tflite"
    path.write_bytes(mobile["static_int8"])
    return path


def opened(content: bytes, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = litert.Interpreter(model_content=content, num_threads=1, **options)
    interpreter.allocate_tensors()
    return interpreter


# --- figures


def test_macs_are_those_that_one_counts_by_hand(bundle: Path) -> None:
    i = inspect_model(read_bundle(bundle).variant("static_int8")[1], "colours")
    half = SIZE // 2
    by_hand = {"CONV_2D": half * half * 8 * (3 * 3 * 3) + half * half * 8 * 8, "FULLY_CONNECTED": 8 * 3}
    assert {op.name for op in i.ops if op.macs} == set(by_hand)
    for name, expected in by_hand.items():
        assert sum(op.macs for op in i.ops if op.name == name) == expected
    assert i.macs == sum(by_hand.values())


def test_a_depthwise_convolution_counts_each_channel_once(mobile: dict[str, bytes]) -> None:
    depthwise_macs = [
        op.macs for op in inspect_model(mobile["float32"], "mobile").ops if op.name == "DEPTHWISE_CONV_2D"
    ]
    assert depthwise_macs == [16 * 16 * 16 * 9, 8 * 8 * 32 * 9]


def test_parameters_are_pytorchs_with_the_constants_that_conversion_adds(mobile: dict[str, bytes]) -> None:
    torch_has = sum(p.numel() for p in MobileNet().parameters())
    added = 8 + 16 + 2  # biases of the projections, and 1 / 127.5 and 1 of the normalisation
    (float32,) = inspect_model(mobile["float32"], "mobile").parameters
    assert (float32.dtype, float32.elements, float32.bytes) == ("float32", torch_has + added, 4 * (torch_has + added))
    int8, int32 = inspect_model(mobile["static_int8"], "mobile").parameters
    assert (int8.dtype, int32.dtype) == ("int8", "int32")
    assert int8.elements + int32.elements == torch_has + added


def chain(seed: int, longest: int = 300) -> bytes:
    """A float .tflite of PADs and CONCATENATIONs, which need no scratch, with tensors that live long and short."""
    rng = np.random.default_rng(seed)
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    graph.tensors, graph.operators = [], []
    for kind in (schema.BuiltinOperator.PAD, schema.BuiltinOperator.CONCATENATION):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = kind
        code.version = 1
        model.operatorCodes.append(code)

    def tensor(length: int, data: Any = None) -> int:
        t = schema.TensorT()
        t.name, t.type, t.shape = (
            f"t{len(graph.tensors)}".encode(),
            schema.TensorType.FLOAT32,
            np.asarray([length], np.int32),
        )
        t.buffer = 0
        if data is not None:
            t.type, t.shape, t.buffer = schema.TensorType.INT32, np.asarray([1, 2], np.int32), len(model.buffers)
            buffer = schema.BufferT()
            buffer.data = np.asarray(data, np.int32).view(np.uint8)
            model.buffers.append(buffer)
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    def add(code: int, inputs: list[int], output: int) -> None:
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = code, inputs, [output]
        if code == 1:
            op.builtinOptionsType, op.builtinOptions = CONCATENATION, schema.ConcatenationOptionsT()
        else:
            op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.PadOptions, schema.PadOptionsT()
        graph.operators.append(op)

    lengths = [int(rng.integers(longest // 2, longest))]
    made = [tensor(lengths[0])]
    graph.inputs = [made[0]]
    for _ in range(24):
        a, b = (int(rng.integers(max(0, len(made) - 6), len(made))) for _ in range(2))
        if rng.random() < 0.6:
            more = int(rng.integers(0, longest))
            lengths.append(lengths[a] + more)
            paddings = tensor(0, [more, 0])
            made.append(tensor(lengths[-1]))
            add(0, [made[a], paddings], made[-1])
        else:
            lengths.append(lengths[a] + lengths[b])
            made.append(tensor(lengths[-1]))
            add(1, [made[a], made[b]], made[-1])
    graph.outputs = [made[-1]]
    return pack(model)


@pytest.mark.parametrize("seed", range(8))
def test_the_arena_is_as_large_as_the_one_that_tflite_lays_out(seed: int) -> None:
    content = chain(seed)
    graph = read_graph(unpack(content))
    interpreter = opened(content, experimental_op_resolver_type=OWN)
    spans = []
    for tensor in (*graph.inputs, *(t for n in graph.nodes for t in n.outputs)):
        view = interpreter.tensor(tensor.index)()
        spans.append((view.__array_interface__["data"][0], view.nbytes))
    measured = max(start + size for start, size in spans) - min(start for start, _ in spans)
    computed = plan_memory(graph)
    assert computed.arena_bytes == measured
    assert computed.peak_bytes <= measured < sum(size for _, size in spans)


@pytest.mark.parametrize("scheme", ["static_int8", "dynamic_int8", "float16"])
def test_what_xnnpack_took_has_no_memory_of_tflites(mobile: dict[str, bytes], scheme: str) -> None:
    content = mobile[scheme]
    i = inspect_model(content, scheme)
    interpreter = opened(content)
    interpreter.invoke()
    delegates = [d for d in interpreter._get_ops_details() if d["op_name"] == "DELEGATE"]
    partition_outputs = {int(t) for d in delegates for t in d["outputs"]}
    assert i.runtime.partitions == len(delegates)
    graph = read_graph(unpack(content))
    for op, node in zip(i.ops, graph.nodes, strict=True):
        if op.name == "DEQUANTIZE":  # of a constant: XNNPACK may read the weights before it
            continue
        for tensor in node.outputs:
            if op.xnnpack and tensor.index not in partition_outputs:
                with pytest.raises(ValueError, match="null"):
                    interpreter.get_tensor(tensor.index)
            else:
                interpreter.get_tensor(tensor.index)
    assert {op.name for op in i.not_in_xnnpack} == ({"DEPTHWISE_CONV_2D"} if scheme == "dynamic_int8" else set())


def test_tensors_are_those_that_the_interpreter_has(mobile: dict[str, bytes]) -> None:
    for scheme, content in mobile.items():
        i, interpreter = inspect_model(content, scheme), opened(content)
        for mine, details in (
            (i.inputs, interpreter.get_input_details()),
            (i.outputs, interpreter.get_output_details()),
        ):
            for t, d in zip(mine, details, strict=True):
                assert (t.name, t.shape) == (d["name"].split(":")[0], tuple(d["shape"])) or t.name == d["name"]
                assert (t.dtype, list(t.scales)) == (
                    np.dtype(d["dtype"]).name,
                    list(d["quantization_parameters"]["scales"]),
                )
                assert list(t.zero_points) == list(d["quantization_parameters"]["zero_points"])


def test_weights_say_how_fine_their_scales_are(mobile: dict[str, bytes]) -> None:
    def dense(scheme: str) -> str:
        return next(op.weights for op in inspect_model(mobile[scheme], scheme).ops if op.name == "FULLY_CONNECTED")

    assert (dense("static_int8"), dense("per_channel"), dense("float32")) == (
        "int8 per-tensor",
        "int8 per-channel",
        "float32",
    )


def test_the_process_grows_by_what_a_model_needs(mobile: dict[str, bytes]) -> None:
    small, large = (inspect_model(content, "model") for content in (mobile["float32"], chain(0, 100_000)))
    assert large.memory.arena_bytes > 4 << 20
    assert large.runtime.resident_builtin is not None
    assert small.runtime.resident_builtin is not None
    assert large.runtime.resident_builtin - small.runtime.resident_builtin > large.memory.arena_bytes / 2


def test_files_from_before_2020_have_their_ops_named(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    for code in model.operatorCodes:
        code.builtinCode = 0
    old = inspect_model(pack(model), "old")
    assert [op.name for op in old.ops] == [op.name for op in inspect_model(mobile["static_int8"], "new").ops]


def test_what_travels_inside_the_file_is_listed(mobile: dict[str, bytes]) -> None:
    appended = io.BytesIO(mobile["static_int8"])
    appended.seek(0, io.SEEK_END)
    with zipfile.ZipFile(appended, "a") as archive:
        archive.writestr("labels.txt", "a\nb\n")
    embedded = inspect_model(appended.getvalue(), "with labels").embedded
    assert embedded.files == ("labels.txt",)
    assert "min_runtime_version" in embedded.metadata_names
    assert inspect_model(mobile["static_int8"], "without").embedded.files == ()


# --- the command


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


def test_a_device_says_what_would_have_to_change(mobile: dict[str, bytes], tmp_path: Path) -> None:
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


# --- what is wrong with a file


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
    """An addition whose second input is int8 and says nothing of its scale: LiteRT 2.3 aborts on it."""
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
    assert "it has: static_int8, float32" in sightline("inspect", bundle, "--scheme", "float16").stderr
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


def test_a_compiled_model_is_known_for_one(sightline: Sightline, mobile: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(with_custom_op(mobile["static_int8"], b"edgetpu-custom-op"))
    done = sightline("inspect", tmp_path / "model.tflite", "--device", "coral_usb")
    assert done.returncode == 0, done.stderr
    assert "Edge TPU  compiled for it" in done.stdout
    assert "NO" not in done.stdout
    assert "change" in sightline("inspect", tmp_path / "model.tflite", "--device", "desktop").stdout


def test_a_model_that_does_not_end_is_reported(mobile: dict[str, bytes]) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ModelError, match=r"lamp: LiteRT did not finish within 0\.2 s"):
        run_probe(mobile["static_int8"], "xnnpack", "lamp", command=sleep, timeout_s=0.2)


def test_a_model_that_crashes_when_it_runs_is_reported(mobile: dict[str, bytes]) -> None:
    crash = 'import os; print(\'{"load_error": ""}\', flush=True); os.abort()'
    with pytest.raises(ModelError, match=r"lamp: crashes LiteRT when it runs \(SIGABRT"):
        run_probe(mobile["static_int8"], "xnnpack", "lamp", command=[sys.executable, "-c", crash])


def test_long_names_are_shortened_in_the_table(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    model.subgraphs[0].tensors[0].name = b"very/" * 50
    content = with_custom_op(pack(model), b"ACustomOperationWithAVeryLongNameOfSixtyCharactersAndSomeMore")
    model_info = InspectedModel("x" * 30, "0" * 64, inspect_model(content, "long"), ["label"] * 500)
    lines = render(model_info, None, True).splitlines()
    assert max(map(len, lines)) <= 120
