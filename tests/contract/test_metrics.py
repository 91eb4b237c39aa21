"""Average precision against numbers that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sightline.metrics import GroundTruth, average_precision, iou
from sightline.predictions import Box, Detection


def found(label: int, score: float, *box: float) -> Detection:
    return Detection(str(label), label, score, Box(*box))


def truth(*rows: tuple[int, float, float, float, float]) -> GroundTruth:
    table = np.asarray(rows, np.float64).reshape(-1, 5)
    return GroundTruth(table[:, 0].astype(np.int64), table[:, 1:])


ONE = truth((0, 0, 0, 10, 10))


def test_perfect_is_one() -> None:
    a = average_precision([[found(0, 0.9, 0, 0, 10, 10)], []], [ONE, truth()], 2)
    assert (a.map, a.map50) == (pytest.approx(1), pytest.approx(1))
    assert a.per_class[0] == pytest.approx(1) and np.isnan(a.per_class[1]), "a class that does not occur is not judged"
    assert a.threshold == pytest.approx(0.9)


def test_one_of_two_is_missed() -> None:
    a = average_precision([[found(0, 0.9, 0, 0, 10, 10)], []], [ONE, ONE], 1)
    assert a.map50 == pytest.approx(51 / 101), "precision 1 at recalls 0, 0.01, ... 0.50"


def test_a_false_box_that_is_surer_halves_it() -> None:
    a = average_precision([[found(0, 0.5, 0, 0, 10, 10), found(0, 0.9, 40, 40, 10, 10)]], [ONE], 1)
    assert a.map50 == pytest.approx(0.5)
    b = average_precision([[found(0, 0.9, 0, 0, 10, 10), found(0, 0.5, 40, 40, 10, 10)]], [ONE], 1)
    assert b.map50 == pytest.approx(1.0), "one that is less sure does not"


def test_the_same_thing_twice_counts_once() -> None:
    pictures = [[found(0, 0.9, 0, 0, 10, 10), found(0, 0.8, 0, 0, 10, 10)], [found(0, 0.7, 0, 0, 10, 10)]]
    a = average_precision(pictures, [ONE, ONE], 1)
    assert a.map50 == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.parametrize(("width", "thresholds"), [(10.0, 10), (8.9, 8), (7.4, 5), (5.2, 1), (4.0, 0)])
def test_map_is_the_mean_over_ten_ious(width: float, thresholds: int) -> None:
    a = average_precision([[found(0, 0.9, 0, 0, width, 10)]], [ONE], 1)
    assert a.map == pytest.approx(thresholds / 10)


def test_the_class_has_to_be_right() -> None:
    a = average_precision([[found(1, 0.9, 0, 0, 10, 10)]], [ONE], 2)
    assert a.map == 0


def test_nothing_found_is_zero_and_not_a_failure() -> None:
    a = average_precision([[], []], [ONE, truth()], 2)
    assert a.map == a.map50 == a.per_class[0] == 0 and np.isnan(a.per_class[1])


def test_large_and_small_boxes_count_alike() -> None:
    pictures = [truth((0, 0, 0, 2, 2)), truth((0, 0, 0, 3000, 3000))]
    a = average_precision([[found(0, 0.9, 0, 0, 2, 2)], [found(0, 0.9, 0, 0, 3000, 3000)]], pictures, 1)
    assert a.map == pytest.approx(1)


def test_iou() -> None:
    a = np.asarray([[0, 0, 10, 10], [0, 0, 0, 0.0]])
    b = np.asarray([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 5, 5.0]])
    np.testing.assert_allclose(iou(a, b), [[1, 50 / 150, 0], [0, 0, 0]])
