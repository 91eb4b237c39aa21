"""Latency statistics: right to one percent, at a size that never grows."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from edge.results.histogram import Histogram


def filled(values: np.ndarray) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    return histogram


@pytest.mark.parametrize("p", [1, 50, 90, 95, 99, 100])
@pytest.mark.parametrize("median_ms", [0.02, 4.0, 900.0])
def test_a_percentile_is_right_to_one_percent(p: int, median_ms: float) -> None:
    values = median_ms * np.random.default_rng(0).lognormal(0, 0.7, 2000)
    exact = np.percentile(values, p, method="inverted_cdf")
    assert filled(values).percentile(p) == pytest.approx(exact, rel=0.0101)


def test_one_value_is_every_percentile() -> None:
    histogram = filled(np.array([7.0]))
    assert [histogram.percentile(p) for p in (0.1, 50, 100)] == pytest.approx([7.0] * 3, rel=0.0101)


def test_a_rare_outlier_shows_in_the_last_percentile_only() -> None:
    histogram = filled(np.array([5.0] * 199 + [800.0]))
    assert histogram.percentile(99) == pytest.approx(5.0, rel=0.0101)
    assert histogram.percentile(100) == pytest.approx(800.0, rel=0.0101)


def test_nothing_added_is_zero() -> None:
    assert Histogram().percentile(50) == 0.0
    assert Histogram().count == 0


def test_what_is_out_of_range_is_counted_in_the_outermost_buckets() -> None:
    histogram = filled(np.array([0.0, 1e-9, 1e12]))
    assert histogram.count == 3
    assert histogram.percentile(50) == pytest.approx(1e-3, rel=0.02)
    assert histogram.percentile(100) == pytest.approx(1e5, rel=0.02)


def test_it_never_grows() -> None:
    small, large = filled(np.full(100, 3.0)), filled(np.linspace(0.001, 99_000, 20_000))
    assert large.count == 20_000
    assert len(pickle.dumps(large)) < 2 * len(pickle.dumps(small)) < 20_000
