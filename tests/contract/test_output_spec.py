"""From raw outputs to predictions, against plain mathematics."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.output_spec import OutputSpec, decode, scores
from sightline.predictions import Classification

LABELS = ("cat", "dog", "owl")
Activation = Literal["softmax", "sigmoid", "none"]


def spec(activation: Activation = "softmax", labels: tuple[str, ...] = LABELS) -> OutputSpec:
    return OutputSpec("classify", activation, labels)


def outputs(*values: float) -> list[Any]:
    return [np.array([values], np.float32)]


def test_softmax_is_the_textbooks() -> None:
    total = math.exp(1) + math.exp(2) + math.exp(-3)
    expected = [math.exp(1) / total, math.exp(2) / total, math.exp(-3) / total]
    assert scores(outputs(1, 2, -3), spec()) == pytest.approx(expected, rel=1e-5)


def test_sigmoid_is_the_textbooks() -> None:
    expected = [1 / (1 + math.exp(-x)) for x in (1, 0, -3)]
    assert scores(outputs(1, 0, -3), spec("sigmoid")) == pytest.approx(expected, rel=1e-5)


def test_without_an_activation_the_scores_are_the_outputs() -> None:
    assert scores(outputs(0.25, 0.5, 0.125), spec("none")).tolist() == [0.25, 0.5, 0.125]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("values", [(1e4, -1e4, 0), (1e30, 1, -1e30), (-1e30, -1e30, -1e30), (88.8, -88.8, 500)])
def test_extreme_outputs_neither_overflow_nor_lose_their_order(
    values: tuple[float, ...], activation: Activation
) -> None:
    result = scores(outputs(*values), spec(activation))
    assert np.isfinite(result).all()
    assert ((result >= 0) & (result <= 1)).all()
    assert result[int(np.argmax(values))] == result.max()


floats = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None)
@given(st.lists(floats, min_size=3, max_size=3), st.integers(1, 5), st.sampled_from(["softmax", "sigmoid"]))
def test_the_best_come_first_and_no_more_than_asked(values: list[float], top: int, activation: Activation) -> None:
    found = decode(outputs(*values), spec(activation), top)
    assert len(found) == min(top, 3)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert all(p.label == LABELS[p.index] and 0 <= p.score <= 1 for p in found)
    if activation == "softmax":
        assert scores(outputs(*values), spec()).sum() == pytest.approx(1, abs=1e-5)


def test_top_and_threshold_choose() -> None:
    values = outputs(0.5, 0.25, 0.125)
    assert [p.label for p in decode(values, spec("none"), top=2)] == ["cat", "dog"]
    assert [p.label for p in decode(values, spec("none"), threshold=0.25)] == ["cat", "dog"], "it reaches the threshold"
    assert decode(values, spec("none"), threshold=0.51) == ()
    assert decode(values, spec("none"), top=1) == (Classification("cat", 0, 0.5),)


def test_equal_scores_are_in_the_order_of_the_labels() -> None:
    labels = tuple(f"class {i}" for i in range(500))
    values = np.random.default_rng(0).integers(0, 3, (1, 500)).astype(np.float32)
    found = decode([values], spec("none", labels), top=500)
    assert [p.index for p in found] == sorted(range(500), key=lambda i: (-values[0, i], i))


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 1, 3)])
def test_any_shape_with_one_score_a_label_will_do(shape: tuple[int, ...]) -> None:
    (best,) = decode([np.array([0, 5, 0], np.float32).reshape(shape)], spec(), top=1)
    assert best.label == "dog"


@pytest.mark.parametrize(
    "wrong",
    [[], [np.zeros((1, 2), np.float32)], [np.zeros((1, 4), np.float32)], [np.zeros((1, 3), np.float32)] * 2],
)
def test_other_than_one_score_a_label_is_refused(wrong: list[Any]) -> None:
    with pytest.raises(ValueError, match="are not one score for each of 3 labels"):
        decode(wrong, spec())


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ((), "label list is empty"),
        (("a", "b", "a"), "the same label"),
        (("a", ""), "must be one line"),
        (("a", " b"), "without spaces at its ends"),
        (("a", "b\t"), "without spaces at its ends"),
        (("a", "b\nc"), "must be one line"),
        (("a", "b\u2028c"), "must be one line"),
    ],
)
def test_labels_that_would_not_survive_a_file_of_lines_are_refused(labels: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        spec(labels=labels)
