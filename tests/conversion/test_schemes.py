"""Every scheme of one model: what is in its file, what it computes, and what the bundle records of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.convert import ConversionResult, ConvertOptions, convert
from converters.evaluate.acceptance import HeldOutEvaluation, Limits
from converters.evaluate.op_snr import OpNoise, op_noise
from converters.quantize.calibrate import observe, ranges
from converters.quantize.search import SearchResult, SearchStep
from converters.report.charts import bars, histogram
from converters.report.conversion import Report, render, to_json
from converters.sources.base import ModelOptions
from converters.sources.open import open_source
from converters.tflite.edits import shuffle_weights
from converters.tflite.ops import Op, list_ops
from sightline.bundle import Bundle, read_bundle
from sightline.device_config import SCHEMES, Scheme
from sightline.interpreter import Interpreter
from sightline.npz import unpack
from sightline.preprocess import InputSpec
from sightline.run_folder import read_run
from tests.conftest import LABELS, SIZE
from tests.support.conversion import tree

STATIC: tuple[Scheme, ...] = ("static_int8", "static_int8_float_io")


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> tuple[Path, ConversionResult]:
    """One conversion to all five schemes. Read only."""
    path = tmp_path_factory.mktemp("five") / "colours.bundle"
    return path, convert(run_folder, path, ConvertOptions("desktop", schemes=SCHEMES))


@pytest.fixture(scope="module")
def contents(five: tuple[Path, ConversionResult]) -> Bundle:
    return read_bundle(five[0])


def weight_types(content: bytes) -> set[str]:
    """Types of the constant tensors with more than one dimension; int32 are sizes and paddings."""
    names = {v: k.lower() for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
    model = schema.Model.GetRootAs(content, 0)
    tensors = [model.Subgraphs(0).Tensors(i) for i in range(model.Subgraphs(0).TensorsLength())]
    return {names[t.Type()] for t in tensors if model.Buffers(t.Buffer()).DataLength() and t.ShapeLength() > 1} - {
        "int32"
    }


def dense_scales(content: bytes) -> int:
    """How many scales the weights of the fully-connected layer have."""
    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    (index,) = (i for i, op in enumerate(list_ops(content)) if op.name == "FULLY_CONNECTED")
    return int(graph.Tensors(graph.Operators(index).Inputs(1)).Quantization().ScaleLength())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_passes_and_its_shuffled_self_does_not(five: tuple[Path, ConversionResult], scheme: Scheme) -> None:
    m = five[1].variants[scheme]
    assert (m.quality, m.agreement, m.drop, m.worst_drop) == (1.0, 1.0, 0.0, 0.0)
    assert m.negative_control_drop > 30
    assert five[1].float_quality == 1.0
    assert five[1].images == 12


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_variant_computes_what_the_bundle_recorded_of_it(contents: Bundle, scheme: Scheme) -> None:
    golden = unpack(contents.contents["golden.npz"], "golden.npz", "frames", f"{scheme}/output_0")
    interpreter = Interpreter(contents.variant(scheme)[1])
    actual = np.concatenate([interpreter(frame)[0] for frame in golden["frames"]])
    assert np.allclose(actual, golden[f"{scheme}/output_0"], atol=1e-3)
    assert len(actual) == 12
    assert np.ptp(actual) > 1


def test_the_float_variant_computes_what_pytorch_did(contents: Bundle, run_folder: Path) -> None:
    golden = unpack(read_run(run_folder).read("golden.npz"), "golden.npz", "frames", "output_0")
    interpreter = Interpreter(contents.variant("float32")[1])
    actual = np.concatenate([interpreter(frame)[0] for frame in golden["frames"]])
    assert np.allclose(actual, golden["output_0"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scheme", "end", "weights"),
    [
        ("float32", "float32", {"float32"}),
        ("float16", "float32", {"float16"}),
        ("dynamic_int8", "float32", {"int8"}),
        ("static_int8", "int8", {"int8"}),
        ("static_int8_float_io", "float32", {"int8"}),
    ],
)
def test_a_scheme_is_what_its_name_promises(contents: Bundle, scheme: Scheme, end: str, weights: set[str]) -> None:
    content = contents.variant(scheme)[1]
    interpreter = Interpreter(content)
    assert interpreter.input.dtype == end
    assert [t.dtype for t in interpreter.outputs] == [end]
    assert weight_types(content) == weights


def test_the_int8_input_is_the_byte_less_128_exactly(contents: Bundle) -> None:
    tensor = Interpreter(contents.variant("static_int8")[1]).input
    assert (tensor.shape, tensor.scale, tensor.zero_point) == ((1, SIZE, SIZE, 3), 1.0, -128)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_static_schemes_compute_in_integers(contents: Bundle, scheme: Scheme) -> None:
    all_ops = list_ops(contents.variant(scheme)[1])
    assert {"CONV_2D", "FULLY_CONNECTED"} <= {op.name for op in all_ops}
    floats = [op.name for op in all_ops if op.computes_in_float]
    assert bool(floats) == (scheme not in STATIC), floats


def test_the_float_ends_of_an_integer_model_are_a_conversion_each(contents: Bundle) -> None:
    names = [op.name for op in list_ops(contents.variant("static_int8_float_io")[1])]
    assert (names[0], names[-1]) == ("QUANTIZE", "DEQUANTIZE")
    inside = {op.name for op in list_ops(contents.variant("static_int8")[1])}
    assert not {"QUANTIZE", "DEQUANTIZE"} & inside


def test_the_manifest_records_what_was_measured(five: tuple[Path, ConversionResult], contents: Bundle) -> None:
    manifest = contents.manifest
    assert manifest.default == SCHEMES[0]
    assert manifest.variants == {s: f"colours.{s}.tflite" for s in SCHEMES}
    assert manifest.output.labels == LABELS
    assert manifest.input == InputSpec(SIZE, SIZE)
    assert manifest.metrics["images"] == 12
    for scheme in SCHEMES:
        assert manifest.metrics[scheme]["bytes"] == len(contents.variant(scheme)[1]) == five[1].variants[scheme].bytes
        assert manifest.metrics[scheme]["accuracy"] == 1.0
    assert manifest.provenance["metrics"] == {"accuracy": 1.0}
    assert {"sightline", "litert-torch", "ai-edge-quantizer"} <= set(manifest.provenance["converted_with"])


@pytest.mark.slow
def test_a_bundle_that_is_written_twice_is_the_same_to_the_last_byte(
    five: tuple[Path, ConversionResult], run_folder: Path, tmp_path: Path
) -> None:
    convert(run_folder, tmp_path / "colours.bundle", ConvertOptions("desktop", schemes=SCHEMES))
    assert tree(tmp_path / "colours.bundle") == tree(five[0])


@pytest.mark.slow
def test_the_device_decides_the_scheme_and_the_granularity_of_scales(
    contents: Bundle, run_folder: Path, tmp_path: Path
) -> None:
    convert(run_folder, tmp_path / "coral.bundle", ConvertOptions("coral_usb"))
    coral = read_bundle(tmp_path / "coral.bundle")
    assert list(coral.manifest.variants) == ["static_int8"]
    assert dense_scales(coral.variant()[1]) == 1
    assert dense_scales(contents.variant("static_int8")[1]) == 3


def test_ranges_are_true_minima_and_maxima_and_the_inputs_is_that_of_bytes(contents: Bundle) -> None:
    content = contents.variant("float32")[1]
    frames = np.random.default_rng(0).integers(50, 150, (6, SIZE, SIZE, 3), dtype=np.uint8)
    limits = ranges(observe(content, frames, InputSpec(SIZE, SIZE)), "min_max")
    interpreter = Interpreter(content, delegate="none")
    outputs = np.concatenate([interpreter(frame)[0] for frame in frames])
    end = limits[interpreter.outputs[0].name]
    assert float(end["min"].item()) == pytest.approx(outputs.min(), rel=1e-5)
    assert float(end["max"].item()) == pytest.approx(outputs.max(), rel=1e-5)
    input_range = limits[interpreter.input.name]
    assert (input_range["min"].item(), input_range["max"].item()) == (0.0, 255.0)
    assert len(limits) == len(list_ops(content)) + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_damaged_model_differs_in_its_weights_and_still_runs(contents: Bundle, scheme: Scheme) -> None:
    content = contents.variant(scheme)[1]
    broken = shuffle_weights(content)
    assert len(broken) == len(content)
    assert broken != content
    assert [op.name for op in list_ops(broken)] == [op.name for op in list_ops(content)]
    frame = np.full((SIZE, SIZE, 3), (200, 40, 40), np.uint8)
    assert not np.allclose(Interpreter(broken)(frame)[0], Interpreter(content)(frame)[0], atol=0.1)


def test_the_report_lies_beside_the_bundle_and_shows_each_scheme(five: tuple[Path, ConversionResult]) -> None:
    page = five[0].with_suffix(".report.html").read_text(encoding="utf-8")
    document = json.loads(five[0].with_suffix(".report.json").read_text(encoding="utf-8"))
    for scheme in SCHEMES:
        assert f"<td>{scheme}</td>" in page
        assert document["schemes"][scheme]["latency_ms"] > 0
        assert document["schemes"][scheme]["agreement"] == 1.0
    assert "12 held-out images" in page
    assert "<script" not in page
    assert "http" not in page, "it needs nothing from elsewhere"
    assert (document["images"], document["origin"], document["differing"]) == (12, "PyTorch", [])
    assert [op["name"] for op in document["op_noise"]].count("CONV_2D") == 2
    assert all(20 < op["snr_db"] <= 200 for op in document["op_noise"])
    assert [step["accepted"] for step in document["steps"]].count(True) == 1
    assert set(document["seconds"]) >= {"to float TFLite", "report"}


@pytest.mark.slow
def test_the_report_shows_where_answers_differ_and_trusts_no_text(
    five: tuple[Path, ConversionResult], run_folder: Path
) -> None:
    evil = "<script>alert(1)</script>"
    evaluation = HeldOutEvaluation(open_source(run_folder, ModelOptions()))
    output = dataclasses.replace(evaluation.source.output, labels=(evil, "b", "c"))
    evaluation.source = dataclasses.replace(evaluation.source, version=evil, output=output)
    m = dataclasses.replace(
        five[1].variants["static_int8"], worst_class=evil, answers=(evaluation.float_answers + 1) % 3
    )
    step = SearchStep(evil, evil, 1.0, float("inf"), True)
    content = evaluation.source.float_model
    search = SearchResult(content, {}, {}, (), (step,), (), "static_int8", content, m)
    report = Report(
        evil, evil, evaluation, Limits(), 1e-6, {"static_int8": m}, search, [OpNoise(Op(evil, evil, ()), 10.0)][:0],
        {"float32": 2.0, "static_int8": 1.0}, {evil: 1.0},
    )  # fmt: skip
    page = render(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert page.count("data:image/jpeg;base64,") == 12
    document = to_json(report)
    assert len(document["differing"]) == 12
    assert document["steps"][0]["divergence"] is None
    json.dumps(document, allow_nan=False)


def test_charts_show_every_value_and_mark_the_bad_ones() -> None:
    plot = bars([30.0, 10.0, 200.0], ["a", "<b>", "c"], "dB", 20.0)
    assert plot.count('class="bar"') == 2
    assert plot.count('class="bad"') == 1
    assert "&lt;b&gt;: 10.0 dB" in plot
    plot = histogram(np.float32([0, 1, 1, 2, 50]), 0.0, 2.0)
    assert plot.count('class="mark"') == 2
    assert plot.count('class="bar"') == 75


def test_noise_of_an_op_is_that_of_its_output(contents: Bundle) -> None:
    """A model against itself has none; against its int8 self each op has some."""
    float_model, int8 = contents.variant("float32")[1], contents.variant("static_int8")[1]
    frames = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    spec = InputSpec(SIZE, SIZE)
    assert {n.snr_db for n in op_noise(float_model, float_model, frames, spec)} == {200.0}
    noise = op_noise(float_model, int8, frames, spec)
    assert len(noise) == len(list_ops(float_model))
    assert all(10 < n.snr_db < 80 for n in noise), noise
