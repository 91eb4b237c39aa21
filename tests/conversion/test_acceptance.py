"""Each way in which a conversion can be worse than its limits: it is refused, and nothing is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ai_edge_litert import schema_py_generated as schema

from converters.convert import ConvertOptions, convert, convert_source
from converters.evaluate.acceptance import (
    HeldOutEvaluation,
    Limits,
    VariantResult,
    check_accuracy,
    check_integer,
    check_parity,
)
from converters.evaluate.run_images import run_all
from converters.quantize.quantize import quantize
from converters.sources.base import ModelOptions, Source
from converters.sources.open import open_source
from converters.tflite.edits import shuffle_weights
from sightline.bundle import read_bundle, write_bundle
from sightline.device_config import FOLDER
from sightline.errors import ConfigError, InputError, QualityError
from sightline.interpreter import Interpreter
from sightline.preprocess import InputSpec
from tests.conftest import SIZE
from tests.support.conversion import Calls, save_program, tree
from tests.support.fitted import labels

SPEC = InputSpec(SIZE, SIZE)


@pytest.fixture(scope="module")
def source(run_folder: Path) -> Source:
    """The colour model: 12 held-out images, 4 per class, and float32 is right on all of them."""
    return open_source(run_folder, ModelOptions())


@pytest.fixture(scope="module")
def float_model(source: Source) -> bytes:
    return source.float_model


def options(device: str = "desktop", **changes: Any) -> ConvertOptions:
    return ConvertOptions(device, **changes)


def refused(
    source: Source, out: Path, why: str, convert_options: ConvertOptions | None = None, quantizer: Any = quantize
) -> None:
    """The conversion is refused. What was at `out` before is there after, and nothing beside it."""
    before = tree(out.parent)
    with pytest.raises(QualityError, match=why) as e:
        convert_source(source, out, convert_options or options(), quantizer=quantizer)
    assert e.value.exit_code == 2
    assert tree(out.parent) == before
    assert out.exists() == any(name.startswith(out.name) for name in before)


def worse(*args: Any) -> bytes:
    return shuffle_weights(quantize(*args))


@pytest.mark.slow
def test_a_scheme_that_lost_too_much_is_refused_and_nothing_is_left(source: Source, tmp_path: Path) -> None:
    why = r"static_int8 lost \d\d\.\d\d points of accuracy, .* on 12 held-out images"
    refused(source, tmp_path / "c.bundle", why, quantizer=worse)


def test_an_older_bundle_survives_a_conversion_that_is_refused(source: Source, bundle: Path, tmp_path: Path) -> None:
    old = read_bundle(bundle)
    write_bundle(tmp_path / "c.bundle", old.manifest, {k: v for k, v in old.contents.items() if k != "labels.txt"})
    refused(source, tmp_path / "c.bundle", "static_int8 lost", quantizer=worse)
    assert read_bundle(tmp_path / "c.bundle").manifest == old.manifest


def test_one_bad_scheme_of_several_is_enough(source: Source, tmp_path: Path) -> None:
    def quantize_one_badly(content: bytes, scheme: Any, *rest: Any) -> bytes:
        return (worse if scheme == "float16" else quantize)(content, scheme, *rest)

    schemes = ("static_int8", "float16", "float32")
    refused(source, tmp_path / "c.bundle", "float16 lost", options(schemes=schemes), quantize_one_badly)


def test_limits_are_the_users_but_the_evaluation_must_be_able_to_fail(source: Source, tmp_path: Path) -> None:
    """With 100 points allowed everything passes, the shuffled model too: then nothing was verified."""
    why = "cannot tell this model from the same model with shuffled weights"
    refused(source, tmp_path / "c.bundle", why, options(limits=Limits(100, 100, 0)))


def test_an_evaluation_that_the_shuffled_model_passes_is_refused(pictures: Path, tmp_path: Path) -> None:
    """A model without weights: shuffling changes nothing in it. It is right on every image all the same."""
    path = save_program(tmp_path / "mean.pt2", Calls(lambda x: x.mean((1, 2))), torch.zeros(1, SIZE, SIZE, 3))
    names = labels(tmp_path / "labels.txt", ["red", "green", "blue"])
    model = ModelOptions(data=pictures, labels=names, normalization="0..255")
    (tmp_path / "out").mkdir()
    refused(
        open_source(path, model),
        tmp_path / "out" / "c.bundle",
        r"cannot tell this model from the same model with shuffled weights, which lost only 0\.00",
        options(schemes=("float32",)),
    )


def test_a_float_model_that_is_not_the_program_is_refused(source: Source, tmp_path: Path) -> None:
    other = dataclasses.replace(source, float_model=shuffle_weights(source.float_model))
    refused(other, tmp_path / "c.bundle", r"the float TFLite differs from the PyTorch program by \d+\.\d\d%")


@pytest.mark.slow
def test_a_program_that_answers_the_same_to_everything_is_refused(pictures: Path, tmp_path: Path) -> None:
    constant = Calls(lambda x: x.mean((1, 2)) * 0 + 1)
    path = save_program(tmp_path / "constant.pt2", constant, torch.zeros(1, SIZE, SIZE, 3))
    (tmp_path / "out").mkdir()
    refused(
        open_source(path, ModelOptions(data=pictures, normalization="0..255")),
        tmp_path / "out" / "c.bundle",
        "the same outputs for every golden image",
    )


def test_float_ops_in_a_static_scheme_are_refused_by_name(source: Source, tmp_path: Path) -> None:
    def quantize_half(content: bytes, scheme: Any, *rest: Any) -> bytes:
        return quantize(content, "dynamic_int8", *rest[:2])

    for scheme in ("static_int8", "static_int8_float_io"):
        why = rf"{scheme}: \d+ of \d+ ops still compute in float: .*CONV_2D .*--scheme float16 or dynamic_int8"
        refused(source, tmp_path / "c.bundle", why, options(schemes=(scheme,)), quantize_half)


def test_only_a_static_scheme_promises_integers(float_model: bytes) -> None:
    for scheme in ("float32", "float16", "dynamic_int8"):
        check_integer(float_model, scheme, SPEC)  # type: ignore[arg-type]
    with pytest.raises(QualityError, match="still compute in float"):
        check_integer(float_model, "static_int8_float_io", SPEC)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.99, -128), (1.0, -127), (1 / 255, -128), (1.01, -128)])
def test_an_input_at_which_bytes_would_not_arrive_exactly_is_refused(
    bundle: Path, scale: float, zero_point: int
) -> None:
    data = bytearray(read_bundle(bundle).variant("static_int8")[1])
    check_integer(bytes(data), "static_int8", SPEC)
    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    quantization = graph.Tensors(graph.Inputs(0)).Quantization()
    quantization.ScaleAsNumpy()[:] = scale
    quantization.ZeroPointAsNumpy()[:] = zero_point
    with pytest.raises(QualityError, match="It must be int8, with a different value for each of the 256 bytes"):
        check_integer(bytes(data), "static_int8", SPEC)


def test_a_model_that_is_too_large_for_the_device_is_refused(source: Source, tmp_path: Path) -> None:
    data = yaml.safe_load((FOLDER / "desktop.yaml").read_text(encoding="utf-8"))
    device = tmp_path / "tiny.yaml"
    device.write_text(yaml.safe_dump({**data, "max_model_kib": 1}))
    out = tmp_path / "out" / "c.bundle"
    out.parent.mkdir()
    why = r"static_int8: the model has \d KiB, and tiny takes at most 1 \(max_model_kib\)"
    refused(source, out, why, options(str(device)))
    device.write_text(yaml.safe_dump({**data, "max_model_kib": 100}))
    convert_source(source, out, options(str(device)))
    assert read_bundle(out).manifest.device == "tiny"


@pytest.mark.parametrize(
    ("out", "device", "error", "why"),
    [
        ("colours", "desktop", InputError, r"must end in \.bundle\. Pass --out colours\.bundle"),
        ("colours.tflite", "desktop", InputError, r"must end in \.bundle"),
        ("my colours.bundle", "desktop", InputError, "the name 'my colours' must start with a letter"),
        ("taken.bundle", "desktop", InputError, "exists and is not a bundle"),
        ("c.bundle", "desktopp", ConfigError, r"unknown device 'desktopp' \(did you mean desktop\?\)"),
    ],
)
def test_a_wrong_destination_is_refused_before_the_work(
    tmp_path: Path, out: str, device: str, error: type[InputError], why: str
) -> None:
    """The model does not even exist."""
    (tmp_path / "taken.bundle").mkdir()
    (tmp_path / "taken.bundle" / "mine").write_bytes(b"precious")
    with pytest.raises(error, match=why):
        convert(tmp_path / "absent.onnx", tmp_path / out, options(device))
    assert tree(tmp_path) == {"taken.bundle/mine": b"precious"}


@pytest.fixture(scope="module")
def evaluation(source: Source) -> HeldOutEvaluation:
    return HeldOutEvaluation(source)


@pytest.mark.parametrize(
    ("changes", "limits", "why"),
    [
        ({"drop": 0.5}, Limits(), None),  # as much as may be lost
        ({"drop": -3.0}, Limits(max_drop=0), None),  # better than float
        ({"drop": 0.0, "negative_control_drop": 0.1}, Limits(max_drop=0), None),
        (
            {"drop": 0.51},
            Limits(),
            r"static_int8 lost 0\.51 points of accuracy, --max-drop is 0\.5, on 12 .*8\.3 points",
        ),
        ({"drop": 0.1}, Limits(max_drop=0), r"lost 0\.10 points"),
        ({"worst_drop": 50.0}, Limits(), None),  # two images of four: chance
        ({"worst_drop": 75.0}, Limits(), r"lost 75\.0 points on 'red', --max-class-drop is 10"),
        ({"worst_drop": 75.0}, Limits(max_class_drop=80), None),
        ({"agreement": 0.95}, Limits(), None),
        ({"agreement": 0.949}, Limits(), r"gives float32's answer for 94\.90%, --min-agreement is 95"),
        ({"agreement": 0.5}, Limits(min_agreement=0), None),
        ({"agreement": 0.5, "drop": 20.0}, Limits(), r"lost 20\.00 points .*, and gives float32's answer for 50"),
        ({"drop": None, "worst_drop": None, "worst_class": None}, Limits(), None),  # nobody labelled them
        ({"negative_control_drop": 0.5}, Limits(), r"cannot tell .* lost only 0\.50 points"),
        ({"negative_control_drop": 0.0}, Limits(max_drop=0), "cannot tell"),
        ({"negative_control_drop": -5.0}, Limits(), "cannot tell"),
    ],
)
def test_the_limits_are_exact(
    evaluation: HeldOutEvaluation, changes: dict[str, Any], limits: Limits, why: str | None
) -> None:
    good = VariantResult(
        scheme="static_int8", bytes=1000, quality=0.9, agreement=1.0, drop=0.0, worst_class="red", worst_drop=2.0,
        negative_control_drop=40.0, snr_db=40.0, outputs=np.zeros((1, 3), np.float32), answers=np.zeros(12, np.int64),
    )  # fmt: skip
    measured = dataclasses.replace(good, **changes)
    if why is None:
        check_accuracy(measured, evaluation, limits)
    else:
        with pytest.raises(QualityError, match=why):
            check_accuracy(measured, evaluation, limits)


def permuted(content: bytes) -> bytes:
    """The float colour model with green and red exchanged: the rows of its last layer's weights."""
    data = bytearray(content)
    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    (weights,) = (
        model.Buffers(t.Buffer()).DataAsNumpy().view(np.float32).reshape(3, 8)
        for t in map(graph.Tensors, range(graph.TensorsLength()))
        if t.ShapeLength() == 2 and t.ShapeAsNumpy().tolist() == [3, 8] and model.Buffers(t.Buffer()).DataLength()
    )
    weights[[1, 2]] = weights[[2, 1]]
    return bytes(data)


def test_what_is_measured_is_what_a_hand_counts(evaluation: HeldOutEvaluation, float_model: bytes) -> None:
    """A candidate that takes green for red, and red for green, is wrong on two thirds of the images."""
    m = evaluation.with_negative_control(evaluation.measure("float16", permuted(float_model)), permuted(float_model))
    assert evaluation.quality == 1.0
    assert m.quality == m.agreement == pytest.approx(4 / 12)
    assert (m.drop, m.worst_drop) == (pytest.approx(100 * 8 / 12), 100.0)
    assert m.worst_class in ("green", "red")
    assert m.outputs.shape == (12, 3)
    swapped = np.array([0, 2, 1])
    assert m.answers.tolist() == swapped[evaluation.metrics.truth].tolist()
    assert m.negative_control_drop is not None
    assert m.negative_control_drop > 30
    same = evaluation.measure("float16", float_model)
    assert (same.quality, same.agreement, same.drop, same.snr_db) == (1.0, 1.0, 0.0, 200.0)
    assert same.answers.tolist() == evaluation.metrics.truth.tolist()


def test_without_labels_only_agreement_is_known(evaluation: HeldOutEvaluation, float_model: bytes) -> None:
    source = dataclasses.replace(evaluation.source, heldout=[(path, None) for path, _ in evaluation.source.heldout])
    calls: list[tuple[int, int]] = []
    unlabelled = HeldOutEvaluation(source, lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 12) for i in range(12)]
    m = unlabelled.with_negative_control(unlabelled.measure("float16", permuted(float_model)), permuted(float_model))
    assert (unlabelled.quality, m.quality, m.drop, m.worst_class, m.worst_drop) == (None,) * 5
    assert m.agreement == pytest.approx(4 / 12)
    assert m.negative_control_drop is not None
    assert m.negative_control_drop > 30
    with pytest.raises(QualityError, match=r"float16 gives float32's answer for 33\.33%"):
        check_accuracy(m, unlabelled, Limits())


def test_every_image_gives_what_it_gives_alone(evaluation: HeldOutEvaluation, float_model: bytes) -> None:
    alone = Interpreter(float_model)
    for i, row in enumerate(run_all(float_model, evaluation.frames, SPEC, "float32")):
        assert row.tolist() == alone(evaluation.frames[i])[0][0].tolist()


def test_parity_compares_picture_by_image(evaluation: HeldOutEvaluation, float_model: bytes) -> None:
    frames = np.stack([np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in (30, 90, 150, 210)])
    frames[:, :, :, 0] = [[[40]], [[200]], [[90]], [[10]]]
    expected = run_all(float_model, frames, SPEC, "float32")

    def parity(expected: Any, frames: Any = frames) -> float:
        return check_parity(dataclasses.replace(evaluation.source, golden=frames, expected=expected))

    assert parity(expected) == 0.0
    off = expected.copy()
    off[2, 1] += 0.002 * np.abs(expected).max()
    with pytest.raises(QualityError, match=r"differs from the PyTorch program by 0\.20%"):
        parity(off)
    with pytest.raises(QualityError, match="differs from the PyTorch program"):
        parity(np.full_like(expected, np.nan))
    with pytest.raises(QualityError, match="same outputs for every golden image"):
        parity(expected[:1].repeat(3, axis=0), frames[:1].repeat(3, axis=0))
