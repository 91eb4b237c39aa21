"""Boxes from raw outputs: held against a decoder that does everything in float, one cell at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sightline.detection_postprocess import MAX_CANDIDATES, MAX_IOU, MIN_SCORE, check_outputs, detect
from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec
from sightline.predictions import Detection
from sightline.preprocess import InputSpec, Placement, place

LABELS = ("red", "blue", "green")
STRIDES = (8, 16)
SIZE = 64
WHOLE = Placement((0, 0, SIZE, SIZE), (0, 0, SIZE, SIZE))
SPEC = OutputSpec("detect", "sigmoid", LABELS, STRIDES, 0.3)


def tensors(scale: float, zero_point: int, dtype: str) -> list[TensorInfo]:
    found = []
    for stride in STRIDES:
        for channels, s in ((len(LABELS), scale), (4, scale / 2)):
            shape = (1, SIZE // stride, SIZE // stride, channels)
            found.append(TensorInfo(len(found), f"output_{len(found)}", shape, dtype, s, zero_point))
    return found


def outputs(seed: int, about: list[TensorInfo]) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    if about[0].scale:
        return [rng.integers(-128, 128, t.shape).astype(t.dtype) for t in about]
    return [rng.normal(-2, 3, t.shape).astype(np.float32) if t.shape[3] != 4 else
            rng.uniform(0, 3, t.shape).astype(np.float32) for t in about]  # fmt: skip


def plainly(given_: list[np.ndarray[Any, Any]], about: list[TensorInfo], threshold: float) -> list[tuple[Any, ...]]:
    """(score, class, x1, y1, x2, y2) of every cell and class over the threshold, best first."""
    found = []
    for level, stride in enumerate(STRIDES):
        real = [
            (o.astype(np.float64) - t.zero_point) * t.scale if t.scale else o.astype(np.float64)
            for o, t in zip(given_[2 * level : 2 * level + 2], about[2 * level : 2 * level + 2], strict=True)
        ]
        _, rows, columns, classes = real[0].shape
        for row in range(rows):
            for column in range(columns):
                for k in range(classes):
                    score = 1 / (1 + math.exp(-real[0][0, row, column, k]))
                    if score >= threshold:
                        left, top, right, bottom = real[1][0, row, column] * stride
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        found.append((score, k, x - left, y - top, x + right, y + bottom))
    return sorted(found, reverse=True)


def overlap(a: tuple[Any, ...], b: tuple[Any, ...]) -> float:
    w = min(a[4], b[4]) - max(a[2], b[2])
    h = min(a[5], b[5]) - max(a[3], b[3])
    shared = max(0.0, w) * max(0.0, h)
    return shared / ((a[4] - a[2]) * (a[5] - a[3]) + (b[4] - b[2]) * (b[5] - b[3]) - shared)


def nms_done(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Greedy, class by class."""
    kept: list[tuple[Any, ...]] = []
    for one in found:
        if all(one[1] != other[1] or overlap(one, other) <= MAX_IOU for other in kept):
            kept.append(one)
    return kept


@pytest.mark.parametrize("scale", [0.0, 0.06])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.97])
@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_a_plain_decoder_finds(scale: float, threshold: float, seed: int) -> None:
    about = tensors(scale, 20 if scale else 0, "int8" if scale else "float32")
    raw = outputs(seed, about)
    every = [w for w in plainly(raw, about, threshold) if w[4] > w[2] and w[5] > w[3]]
    wanted = nms_done(every[:MAX_CANDIDATES])
    got = detect(raw, about, SPEC, WHOLE, threshold, top=10_000)
    if len({w[0] for w in every}) == len(every):  # equal scores may come in another order
        assert [(d.index, pytest.approx(d.score, abs=1e-5)) for d in got] == [
            (w[1], w[0]) for w in wanted if min(w[4], SIZE) > max(w[2], 0) and min(w[5], SIZE) > max(w[3], 0)
        ]
    for d in got:
        assert any(
            w[1] == d.index
            and abs(w[0] - d.score) < 1e-5
            and abs(max(w[2], 0) - d.box.x) < 1e-3
            and abs(max(w[3], 0) - d.box.y) < 1e-3
            and abs(min(w[4], SIZE) - d.box.x - d.box.width) < 1e-3
            for w in every
        ), d
    assert [d.score for d in got] == sorted((d.score for d in got), reverse=True)


NUMBERS = st.integers(0, 254)  # steps above the lowest stored number; as a zero point, the highest is left out
SCALES, THRESHOLDS, DTYPES = st.floats(1e-3, 0.5), st.floats(0.0, 1.0), st.sampled_from(["int8", "uint8"])


def filled(about: list[TensorInfo]) -> list[np.ndarray[Any, Any]]:
    """Every score is the lowest stored number, every distance the highest: all boxes have an area."""
    limits = np.iinfo(about[0].dtype)
    return [np.full(t.shape, limits.max if t.shape[3] == 4 else limits.min, t.dtype) for t in about]


def score_of(stored: int, zero_point: int, scale: float) -> float:
    return 1 / (1 + math.exp(-(stored - zero_point) * scale))


@settings(max_examples=200, deadline=None)
@given(NUMBERS, NUMBERS, SCALES, THRESHOLDS, DTYPES)
def test_the_integer_threshold_is_the_threshold(
    steps: int, zero_steps: int, scale: float, threshold: float, dtype: str
) -> None:
    """One cell has a higher number than all others: it is found exactly if its score reaches the threshold."""
    lowest = int(np.iinfo(dtype).min)
    stored, zero_point = lowest + 1 + steps, lowest + zero_steps
    score, limit = score_of(stored, zero_point, scale), max(threshold, MIN_SCORE)
    assume(abs(score - limit) > 1e-6)
    about = tensors(scale, zero_point, dtype)
    raw = filled(about)
    raw[0][0, 3, 3, 1] = stored
    detections = detect(raw, about, SPEC, WHOLE, threshold)
    if score >= limit:
        assert (detections[0].index, detections[0].score) == (1, pytest.approx(score, abs=1e-6))
    else:
        assert detections == ()


@settings(max_examples=200, deadline=None)
@given(NUMBERS, SCALES, THRESHOLDS, DTYPES)
def test_the_lowest_stored_number_is_compared_too(zero_steps: int, scale: float, threshold: float, dtype: str) -> None:
    """Also where the threshold as an integer lies below all stored numbers."""
    lowest = int(np.iinfo(dtype).min)
    score, limit = score_of(lowest, lowest + zero_steps, scale), max(threshold, MIN_SCORE)
    assume(abs(score - limit) > 1e-6)
    about = tensors(scale, lowest + zero_steps, dtype)
    detections = detect(filled(about), about, SPEC, WHOLE, threshold)
    assert {d.index for d in detections} == ({0, 1, 2} if score >= limit else set())
    assert all(d.score == pytest.approx(score, abs=1e-6) for d in detections)


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "center_crop"])
@pytest.mark.parametrize("frame", [(1280, 720), (480, 640), (64, 64), (200, 231)])
def test_a_box_lies_where_it_was_in_the_frame(resize: Any, frame: tuple[int, int]) -> None:
    """One cell answers: its middle, brought back, is where the frame's own point went in."""
    placement = place(*frame, InputSpec(SIZE, SIZE, resize=resize))
    about = tensors(0.0, 0, "float32")
    raw = [np.full(t.shape, -20.0, np.float32) for t in about]
    raw[0][0, 4, 3, 2], raw[1][0, 4, 3] = 9.0, 0.5
    (one,) = detect(raw, about, SPEC, placement, 0.5)
    assert one.label == "green"
    x, y = placement.to_source(3.5 * 8, 4.5 * 8)
    assert one.box.x + one.box.width / 2 == pytest.approx(x, abs=1e-2)
    assert one.box.y + one.box.height / 2 == pytest.approx(y, abs=1e-2)
    left, _ = placement.to_source(3 * 8, 0)
    assert one.box.x == pytest.approx(left, abs=1e-2)


def test_boxes_are_cut_to_the_frame_and_those_outside_are_none() -> None:
    placement = place(100, 50, InputSpec(SIZE, SIZE))  # rows 16 to 48 of the input
    about = tensors(0.0, 0, "float32")
    raw = [np.full(t.shape, -20.0, np.float32) for t in about]
    raw[0][0, 4, 0, 0], raw[1][0, 4, 0] = 5.0, 4.0
    raw[0][0, 0, 5, 1], raw[1][0, 0, 5] = 5.0, 0.4  # in the grey border
    (one,) = detect(raw, about, SPEC, placement, 0.5)
    assert (one.box.x, one.box.y) == (0, 0) and one.box.height <= 50
    assert one.label == "red"


def test_it_ends_at_top_and_with_nothing() -> None:
    about = tensors(0.06, 0, "int8")
    raw = outputs(1, about)
    assert len(detect(raw, about, SPEC, WHOLE, 0.5, top=5)) == 5
    assert detect(raw, about, SPEC, WHOLE, 1.0) == ()
    low = [np.full(t.shape, -128, np.int8) for t in about]
    assert detect(low, about, SPEC, WHOLE, 0.0) == ()


def test_outputs_that_are_not_a_detectors_are_refused() -> None:
    about = tensors(0.0, 0, "float32")
    check_outputs(about, SPEC, SIZE, SIZE)
    for wrong in (about[:2], about[::-1], [*about, about[0]]):
        with pytest.raises(ValueError, match="are needed"):
            check_outputs(wrong, SPEC, SIZE, SIZE)
    for bad in (
        {"strides": ()},
        {"strides": (8, 8)},
        {"strides": (0,)},
        {"activation": "softmax"},
        {"threshold": 1.5},
        {"task": "classify"},
    ):
        with pytest.raises(ValueError, match=r"detector|strides|threshold"):
            OutputSpec(**{"task": "detect", "activation": "sigmoid", "labels": LABELS, "strides": STRIDES, **bad})


def test_its_json_is_by_the_schema() -> None:
    import json

    import jsonschema

    from sightline.predictions import SCHEMA_FILE

    document = json.loads(SCHEMA_FILE.read_text())
    schema = {**document, "$ref": "#/$defs/detection"}
    for key in ("required", "properties", "additionalProperties", "if", "then", "else"):
        schema.pop(key)
    about = tensors(0.06, 0, "int8")
    for d in detect(outputs(1, about), about, SPEC, WHOLE, 0.5):
        assert isinstance(d, Detection)
        jsonschema.validate(d.to_json(), schema)
