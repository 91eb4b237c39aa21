"""Float .tflite files of anybody: what becomes a bundle, and what is refused with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from converters.convert import ConvertOptions, convert
from converters.evaluate.run_images import run_all
from converters.quantize.quantize import quantize
from converters.sources.base import ModelOptions
from converters.sources.from_tflite import check_float, outputs, to_tflite
from converters.tflite.graph import pack, unpack
from converters.tflite.ops import list_ops
from converters.tflite.rewrites import rewrite_for_quantizer
from sightline.bundle import read_bundle
from sightline.errors import ModelError
from sightline.preprocess import Frame, InputSpec
from tests.conftest import SIZE

SPEC = InputSpec(SIZE, SIZE)


@pytest.fixture(scope="module")
def float_model(bundle: Path) -> bytes:
    """The colour model, which knows every image."""
    return read_bundle(bundle).variant("float32")[1]


@pytest.fixture(scope="module")
def frames() -> Frame:
    return np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


def changed(content: bytes, change: Callable[[schema.ModelT], object]) -> bytes:
    model = unpack(content)
    change(model)
    return pack(model)


def flowing(model: schema.ModelT) -> list[schema.TensorT]:
    graph = model.subgraphs[0]
    return [graph.tensors[i] for i in [*graph.inputs, *(o for op in graph.operators for o in op.outputs)]]


def batch(size: int) -> Callable[[schema.ModelT], None]:
    """Every tensor that flows for `size` images; -1: of any number."""

    def change(model: schema.ModelT) -> None:
        for tensor in flowing(model):
            if size < 0:
                tensor.shapeSignature = np.asarray([-1, *tensor.shape[1:]], np.int32)
            else:
                tensor.shape = np.asarray([size, *tensor.shape[1:]], np.int32)

    return change


def test_a_file_of_anybody_becomes_a_bundle(float_model: bytes, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.tflite").write_bytes(float_model)
    done = convert(
        tmp_path / "mine.tflite",
        tmp_path / "mine.bundle",
        ConvertOptions("desktop", model=ModelOptions(data=pictures, normalization="0..255")),
    )
    assert done.float_quality == done.variants["static_int8"].quality == 1.0
    assert read_bundle(tmp_path / "mine.bundle").manifest.provenance["source"]["file"] == "mine.tflite"


def test_the_other_kernels_say_the_same_and_notice_what_is_not(
    float_model: bytes, frames: Frame, tmp_path: Path
) -> None:
    (tmp_path / "m.tflite").write_bytes(float_model)
    expected = outputs(tmp_path / "m.tflite", frames.astype(np.float32))
    assert np.allclose(run_all(float_model, frames, SPEC, "m"), expected, rtol=1e-5, atol=1e-4)
    assert not np.allclose(run_all(float_model, frames[::-1], SPEC, "m"), expected, rtol=1e-3)


@pytest.mark.parametrize("size", [-1, 4])
def test_a_batch_becomes_one(float_model: bytes, frames: Frame, tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(changed(float_model, batch(size)))
    content = to_tflite(path)
    details = litert.Interpreter(model_content=content).get_input_details()[0]
    assert [*details["shape"]] == [*details["shape_signature"]] == [1, SIZE, SIZE, 3]
    assert np.array_equal(run_all(content, frames, SPEC, "m"), run_all(float_model, frames, SPEC, "m"))
    assert np.allclose(outputs(path, frames.astype(np.float32)), run_all(content, frames, SPEC, "m"), atol=1e-4)


def test_a_batch_that_is_built_into_the_graph_is_refused(float_model: bytes) -> None:
    def change(model: schema.ModelT) -> None:
        batch(4)(model)
        graph = model.subgraphs[0]
        buffer, shape, op = schema.BufferT(), schema.TensorT(), schema.OperatorT()
        buffer.data = np.frombuffer(np.asarray([4, 3], np.int32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        shape.name, shape.shape, shape.type = b"shape", np.asarray([2], np.int32), schema.TensorType.INT32
        shape.buffer = len(model.buffers) - 1
        graph.tensors += [shape, schema.TensorT()]
        result = graph.tensors[-1]
        result.name, result.shape, result.type = b"out", np.asarray([4, 3], np.int32), schema.TensorType.FLOAT32
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
        code.version = 1
        model.operatorCodes.append(code)
        op.opcodeIndex = len(model.operatorCodes) - 1
        op.inputs = np.asarray([graph.outputs[0], len(graph.tensors) - 2], np.int32)
        op.outputs = graph.outputs = np.asarray([len(graph.tensors) - 1], np.int32)
        graph.operators.append(op)
        model.signatureDefs = None

    with pytest.raises(ModelError, match=r"m: takes a batch of 4, and cannot be changed to take one image .*batch 1"):
        check_float(changed(float_model, change), "m")


def other_input(**changes: Any) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        details = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
        for name, value in changes.items():
            setattr(details, name, value)

    return change


def custom(name: bytes) -> Callable[[schema.ModelT], None]:
    def change(model: schema.ModelT) -> None:
        code = model.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, name

    return change


def second_input(model: schema.ModelT) -> None:
    graph = model.subgraphs[0]
    graph.inputs = np.asarray([*graph.inputs, graph.operators[0].outputs[0]], np.int32)
    model.signatureDefs = None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_input(shape=np.asarray([1, 3, SIZE, SIZE], np.int32)), r"channels first, .*\. Convert the original"),
        (other_input(shape=np.asarray([1, SIZE, SIZE, 1], np.int32)), r"\[1, 32, 32, 1\]\. It must take one RGB image"),
        (other_input(shapeSignature=np.asarray([1, -1, -1, 3], np.int32)), r"\[1, -1, -1, 3\], a size that is not"),
        (other_input(type=schema.TensorType.UINT8), r"uint8 \[1, 32, 32, 3\]\. It must take one RGB image"),
        (second_input, r"takes 2 inputs \(.*\)\. It must take one RGB image"),
        (custom(b"FlexErf"), r"runs TensorFlow's own Erf \(select TF ops\).* TFLITE_BUILTINS alone"),
        (custom(b"TFLite_Detection_PostProcess"), r"not TFLite's own: TFLite_Detection_PostProcess\. Export it"),
    ],
    ids=["NCHW", "grey", "dynamic size", "bytes", "two inputs", "flex", "custom"],
)
def test_a_file_that_takes_something_else_is_refused(
    float_model: bytes, change: Callable[[schema.ModelT], object], why: str
) -> None:
    with pytest.raises(ModelError, match=f"mine: .*{why}"):
        check_float(changed(float_model, change), "mine")


@pytest.mark.parametrize("scheme", ["float16", "dynamic_int8"])
def test_what_is_quantized_already_is_refused(float_model: bytes, scheme: Any) -> None:
    content = quantize(float_model, scheme, {}, "per_channel")
    with pytest.raises(ModelError, match=r"is quantized already \((float16|int8) .*Convert the float model"):
        check_float(content, "mine")


def test_an_int8_file_is_refused(bundle: Path) -> None:
    with pytest.raises(ModelError, match=r"is quantized already \(int8"):
        check_float(read_bundle(bundle).variant("static_int8")[1], "mine")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x1c\0\0\0TFL3" + bytes(40)], ids=["empty", "text", "a head"])
def test_what_is_no_tflite_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"mine: (not a \.tflite file|LiteRT cannot load it)"):
        check_float(content, "mine")


def test_a_cut_file_is_refused(float_model: bytes) -> None:
    for length in (20, len(float_model) // 2, len(float_model) * 3 // 4):
        with pytest.raises(ModelError, match=r"mine: (not a \.tflite file, or a damaged one|LiteRT cannot load it)"):
            check_float(float_model[:length], "mine")


def one_op(code: int, options: Any, kind: int, slopes: Any = None) -> bytes:
    """float32 [1, 4, 4, 3] through one op."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.inputs, graph.outputs = [], np.asarray([0], np.int32), np.asarray([1], np.int32)
    for name in (b"x", b"y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, np.asarray([1, 4, 4, 3], np.int32), 0
        graph.tensors.append(tensor)
    op, opcode = schema.OperatorT(), schema.OperatorCodeT()
    opcode.builtinCode, opcode.deprecatedBuiltinCode = code, min(code, 127)
    opcode.version = 1
    inputs = [0]
    if slopes is not None:
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.frombuffer(np.asarray(slopes, np.float32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor.name, tensor.shape, tensor.buffer = b"slopes", np.asarray([1, 1, 3], np.int32), 1
        graph.tensors.append(tensor)
        inputs.append(2)
    op.opcodeIndex, op.inputs, op.outputs = 0, np.asarray(inputs, np.int32), np.asarray([1], np.int32)
    op.builtinOptions, op.builtinOptionsType = options, kind
    model.operatorCodes, graph.operators = [opcode], [op]
    return pack(model)


def leaky(alpha: float) -> bytes:
    options = schema.LeakyReluOptionsT()
    options.alpha = alpha
    return one_op(schema.BuiltinOperator.LEAKY_RELU, options, schema.BuiltinOptions.LeakyReluOptions)


@pytest.mark.parametrize(
    "content",
    [
        one_op(schema.BuiltinOperator.RELU6, None, 0),
        one_op(schema.BuiltinOperator.RELU_0_TO_1, None, 0),
        leaky(0.1),
        one_op(schema.BuiltinOperator.PRELU, None, 0, slopes=[0.25, 0.0, 1.0]),
    ],
    ids=["relu6", "relu_0_to_1", "leaky_relu", "prelu"],
)
def test_an_op_that_the_quantizer_does_not_know_becomes_others(content: bytes) -> None:
    spec = InputSpec(4, 4, mean=(127.5,) * 3, std=(16.0,) * 3)  # -8..8
    frames = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    result = rewrite_for_quantizer(content)
    assert not {op.name for op in list_ops(content)} & {op.name for op in list_ops(result)}
    assert {op.name for op in list_ops(result)} <= {"MUL", "MAXIMUM"}
    actual, expected = (run_all(c, frames, spec, "op") for c in (result, content))
    assert np.ptp(expected) > 0.9
    assert np.allclose(actual, expected, atol=1e-6)


def test_an_op_that_has_no_equivalent_stays() -> None:
    for content in (leaky(1.5), one_op(schema.BuiltinOperator.PRELU, None, 0, slopes=[0.25, -0.5, 1.0])):
        assert rewrite_for_quantizer(content) == content


def test_a_file_that_needs_no_change_is_taken_byte_for_byte(float_model: bytes) -> None:
    assert check_float(float_model, "mine") == float_model
