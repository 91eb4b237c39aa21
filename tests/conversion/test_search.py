"""The search for the best int8 model: it finds it, and tries no method without need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converters.evaluate.acceptance import DEFAULT_LIMITS, HeldOutEvaluation, passes
from converters.quantize.calibrate import METHODS, observe, ranges
from converters.quantize.quantize import quantize
from converters.quantize.search import Search, SearchResult, requantize
from converters.sources.base import ModelOptions, Source
from converters.sources.open import open_source
from converters.tflite.ops import xnnpack_survives
from sightline.data.classification import read_class_folders
from sightline.device_config import load_device
from sightline.preprocess import InputSpec
from tests.conftest import SIZE, write_coloured
from tests.support.models import HardNet
from trainer.export import export_run

SPEC = InputSpec(SIZE, SIZE)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, HeldOutEvaluation]:
    """A model that naive int8 breaks, and its evaluation."""
    folder = tmp_path_factory.mktemp("hard")
    data = read_class_folders(write_coloured(folder / "colours", 40))
    export_run(folder / "run", HardNet(), data, SPEC, metrics={}, provenance={})
    source = open_source(folder / "run", ModelOptions())
    return source, HeldOutEvaluation(source)


def search(hard: tuple[Source, HeldOutEvaluation], device: str = "desktop") -> tuple[SearchResult, Search]:
    trial = Search(hard[0], "static_int8", load_device(device)[1])
    return trial.run(hard[1], DEFAULT_LIMITS), trial


@pytest.mark.slow
def test_a_model_that_naive_int8_breaks_passes_and_each_methods_share_is_reported(
    hard: tuple[Source, HeldOutEvaluation],
) -> None:
    source, evaluation = hard
    naive = quantize(
        source.float_model, "static_int8", ranges(observe(source.float_model, source.calibration, SPEC), "min_max"),
        "per_channel",
    )  # fmt: skip
    broken = evaluation.measure("static_int8", naive)
    assert not passes(broken, evaluation, DEFAULT_LIMITS)
    assert broken.drop is not None
    assert broken.drop > 20
    result, _ = search(hard)
    content = requantize(result, "static_int8", "per_channel")
    good = evaluation.measure("static_int8", content)
    assert passes(good, evaluation, DEFAULT_LIMITS)
    assert good.agreement == 1.0
    assert result.float_ops == ()
    accepted = [step for step in result.steps if step.accepted]
    assert [step.name for step in accepted] == ["ranges", "cross-layer equalization, 1 pairs"]
    assert accepted[-1].divergence < 0.01 * accepted[0].divergence
    assert accepted[0].agreement is not None
    assert accepted[0].agreement < 0.8 < accepted[-1].agreement == 1.0  # type: ignore[operator]
    assert {step.detail for step in result.steps} == {f"ranges by {m}" for m in METHODS}


@pytest.mark.slow
def test_the_same_search_finds_the_same(hard: tuple[Source, HeldOutEvaluation]) -> None:
    first, second = search(hard)[0], search(hard)[0]
    assert first.steps == second.steps
    assert requantize(first, "static_int8", "per_channel") == requantize(second, "static_int8", "per_channel")


@pytest.mark.slow
def test_a_model_that_int8_suits_is_left_as_it_is(run_folder: Path) -> None:
    source = open_source(run_folder, ModelOptions())
    evaluation = HeldOutEvaluation(source)
    result, _ = search((source, evaluation))
    assert [step.name for step in result.steps] == ["ranges"] * len(METHODS)
    assert result.float_model == source.float_model
    assert sum(step.accepted for step in result.steps) == 1


def test_scales_at_which_xnnpack_would_crash_are_known_before(
    hard: tuple[Source, HeldOutEvaluation],
) -> None:
    """ai-edge-litert 2.3 frees twice at a multiplier of 256: the process ends, and no error can be caught."""
    source, _ = hard
    activations = observe(source.float_model, source.calibration, SPEC)
    assert xnnpack_survives(quantize(source.float_model, "static_int8", ranges(activations, "min_max"), "per_channel"))
    assert xnnpack_survives(source.float_model)
    limits = ranges(activations, "min_max")
    for name in limits:
        if "second" in name:
            limits[name] = {"min": limits[name]["min"], "max": limits[name]["max"] * np.float32(1e-6)}
    assert not xnnpack_survives(quantize(source.float_model, "static_int8", limits, "per_channel"))
