"""The figures of `inspect_model`, each against a source of its own."""

from __future__ import annotations

import io
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from converters.inspect.memory import plan_memory
from converters.inspect.model import inspect_model
from converters.inspect.probe import run_probe
from converters.tflite.graph import pack, read_graph, unpack
from sightline.bundle import read_bundle
from sightline.errors import ModelError
from tests.conftest import SIZE
from tests.conversion.conftest import MobileNet

CONCATENATION = schema.BuiltinOptions.ConcatenationOptions


OWN = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


def opened(content: bytes, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = litert.Interpreter(model_content=content, num_threads=1, **options)
    interpreter.allocate_tensors()
    return interpreter


def test_macs_are_those_that_one_counts_by_hand(bundle: Path) -> None:
    i = inspect_model(read_bundle(bundle).variant("static_int8")[1], "colours")
    half = SIZE // 2
    by_hand = {"CONV_2D": half * half * 8 * (3 * 3 * 3) + half * half * 8 * 8, "FULLY_CONNECTED": 8 * 3}
    assert {op.name for op in i.ops if op.macs} == set(by_hand)
    for name, expected in by_hand.items():
        assert sum(op.macs for op in i.ops if op.name == name) == expected
    assert i.macs == sum(by_hand.values())


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_model_that_does_not_end_is_reported(mobile: dict[str, bytes]) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ModelError, match=r"lamp: LiteRT did not finish within 0\.2 s"):
        run_probe(mobile["static_int8"], "xnnpack", "lamp", command=sleep, timeout_s=0.2)


def test_a_model_that_crashes_when_it_runs_is_reported(mobile: dict[str, bytes]) -> None:
    crash = 'import os; print(\'{"load_error": ""}\', flush=True); os.abort()'
    with pytest.raises(ModelError, match=r"lamp: crashes LiteRT when it runs \(SIGABRT"):
        run_probe(mobile["static_int8"], "xnnpack", "lamp", command=[sys.executable, "-c", crash])
