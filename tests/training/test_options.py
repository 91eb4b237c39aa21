"""The options of `sightline train`, and the recipe that follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer.options import TrainOptions
from trainer.recipe import recipe_from_options

OPTIONS = TrainOptions(Path("data"), Path("out"))


def test_defaults_of_a_classifier() -> None:
    r = recipe_from_options(OPTIONS)
    assert (r.task, r.epochs, r.batch, r.learning_rate) == ("classify", 30, 64, 0.0005)
    assert (r.patience, r.warmup_epochs, r.label_smoothing, r.quantization_aware) == (10, 3, 0.1, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": "detect"}, {"batch": 16, "label_smoothing": 0.0}),
        ({"task": "points"}, {"batch": 16, "label_smoothing": 0.0}),
        ({"weights": "none"}, {"learning_rate": 0.002}),
        ({"weights": "none", "learning_rate": 0.1}, {"learning_rate": 0.1}),
        ({"epochs": 6}, {"patience": 2, "warmup_epochs": 1}),
        ({"epochs": 6, "patience": 0}, {"patience": 0}),
        (
            {"parent": Path("run")},
            {"epochs": 8, "patience": 0, "label_smoothing": 0.0, "quantization_aware": True, "warmup_epochs": 2},
        ),
        ({"parent": Path("run"), "epochs": 3}, {"epochs": 3, "patience": 0}),
    ],
)
def test_defaults_depend_on_other_options(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = recipe_from_options(replace(OPTIONS, **changes))
    assert {name: getattr(recipe, name) for name in expected} == expected
