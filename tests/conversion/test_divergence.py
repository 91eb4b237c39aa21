"""How far outputs are apart: divergence, and signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
import pytest

from converters.evaluate.divergence import class_divergence, snr_db
from sightline.output_spec import OutputSpec


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_divergence_is_zero_for_the_same_and_grows_with_the_difference(activation: str) -> None:
    spec = OutputSpec("classify", activation, ("a", "b", "c"))  # type: ignore[arg-type]
    outputs = np.float32([[0.2, 0.3, 0.5], [0.8, 0.1, 0.1]])
    assert class_divergence(outputs, outputs, spec) == pytest.approx(0, abs=1e-6)
    small, large = (class_divergence(outputs, outputs[:, [1, 0, 2]] * k + outputs * (1 - k), spec) for k in (0.1, 0.9))
    assert 0 < small < large
    if activation == "none":
        p, q = outputs, outputs[::-1]
        assert class_divergence(p, q, spec) == pytest.approx(float((p * np.log(p / q)).sum(1).mean()), rel=1e-4)


def test_snr_is_in_decibels_of_the_varying_signal() -> None:
    expected = np.float32([[0, 100], [1, 101], [2, 102]])
    assert snr_db(expected, expected) == 200.0
    assert snr_db(expected, expected + np.float32(0.1)) == pytest.approx(10 * np.log10((2 / 3) / 0.01), abs=0.01)
    assert snr_db(expected, expected[::-1]) < 0
