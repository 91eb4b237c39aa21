"""The options of `sightline train`, and the recipe that follows from them. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from sightline.errors import ConfigError, ModelError
from sightline.preprocess import Resize
from sightline.run_folder import Run
from sightline.strict_config import read_record
from trainer.recipe import Augment, Recipe, TaskName

# images per step: training from scratch, 6 instead of 16 raised mAP from 45 to 60 in the same time (more steps)
DETECTION_BATCH = 16
CLASSIFICATION_BATCH = 64
DETECTION_IMAGE_SIZE = 320  # pixels
EPOCHS = 30
FINE_TUNING_EPOCHS = 8
LEARNING_RATE = 0.0005
LEARNING_RATE_FROM_SCRATCH = 0.002


@dataclass(frozen=True)
class TrainOptions:
    """The command line of `sightline train`. None: the default depends on the other options.

    data: folder of the labelled images.
    out: run folder to write.
    parent: finished run to fine-tune with int8 rounding.
    image_size: pixels of both sides of the input.
    resize: how images are fitted into the input.
    corrupt: what happens with images and boxes that cannot be used.
    resume: continue from the last finished epoch of `out`.
    as_json: print the result as JSON.
    explicit: names of the options that are on the command line.
    The others are those of `Recipe`.
    """

    data: Path
    out: Path
    task: TaskName | None = None
    arch: str = "mobilenetv4_conv_small"
    weights: str = "timm"
    image_size: int | None = None
    resize: Resize = "letterbox"
    parent: Path | None = None
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    patience: int | None = None
    augment: Augment = "default"
    flip: bool = True
    corrupt: Literal["refuse", "skip"] = "refuse"
    seed: int = 0
    resume: bool = False
    as_json: bool = False
    explicit: frozenset[str] = frozenset()

    @property
    def detects(self) -> bool:
        """Whether the data set has boxes."""
        return self.task in ("detect", "points")


@dataclass(frozen=True)
class ParentRecipe:
    """What fine-tuning takes from the recipe of a finished run; see `Recipe`."""

    arch: str
    batch: int
    augment: Augment
    flip: bool
    seed: int

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, not {self.batch}")


def read_parent_recipe(run: Run) -> ParentRecipe:
    """Raises ModelError if the run does not state how it was trained."""
    recipe = run.manifest.provenance.get("recipe")
    names = {field.name for field in fields(ParentRecipe)}
    missing = sorted(names - recipe.keys()) if isinstance(recipe, dict) else ["all"]
    if not isinstance(recipe, dict) or missing:
        raise ModelError(
            f"{run.path}: does not state how it was trained (model.json: provenance.recipe lacks "
            f"{', '.join(missing)}). Only a run of `sightline train` can be fine-tuned."
        )
    where = f"{run.path / 'model.json'}: provenance.recipe"
    return read_record(ParentRecipe, {key: recipe[key] for key in names}, where, ModelError)


def inherit(options: TrainOptions, run: Run) -> TrainOptions:
    """The options with what fine-tuning takes from the parent run.

    Raises ConfigError for an option that would make it another model.
    """
    recipe, spec = read_parent_recipe(run), run.manifest.input
    if "weights" in options.explicit:
        raise ConfigError(
            "--weights and --quantization-aware exclude each other: fine-tuning starts from the run's own weights"
        )
    if "patience" in options.explicit and options.patience:
        raise ConfigError(
            "--patience and --quantization-aware exclude each other: fine-tuning keeps the weights of its last epoch"
        )
    task = "points" if run.manifest.output.decoder == "points" else run.manifest.output.task
    fixed: dict[str, Any] = {"task": task, "arch": recipe.arch, "image_size": spec.width, "resize": spec.resize}
    for name, value in fixed.items():
        choice = getattr(options, name)
        if name in options.explicit and choice != value:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} {choice}: {run.path} was trained with {value}. Leave out {flag}.")
    own = {
        name: getattr(options if name in options.explicit else recipe, name)
        for name in ("batch", "augment", "flip", "seed")
    }
    return replace(options, **fixed, **own, weights=f"{run.manifest.name} {run.manifest.version}")


def recipe_from_options(options: TrainOptions) -> Recipe:
    """The recipe, with the defaults that depend on other options. For fine-tuning, `inherit` comes first."""
    fine_tunes = options.parent is not None
    epochs = options.epochs or (FINE_TUNING_EPOCHS if fine_tunes else EPOCHS)
    rate = LEARNING_RATE_FROM_SCRATCH if options.weights == "none" else LEARNING_RATE
    # the learning rate's cosine pays off late: a patience of 10 of 60 epochs stopped a run 5 points too early
    patience = 0 if fine_tunes else epochs // 3
    return Recipe(
        task=options.task or "classify",
        arch=options.arch,
        weights=options.weights,
        epochs=epochs,
        batch=options.batch or (DETECTION_BATCH if options.detects else CLASSIFICATION_BATCH),
        learning_rate=options.learning_rate or rate,
        weight_decay=0.05,
        warmup_epochs=min(3, epochs // 4),
        label_smoothing=0.0 if fine_tunes or options.detects else 0.1,
        ema_decay=0.999,
        patience=patience if options.patience is None else options.patience,
        augment=options.augment,
        flip=options.flip,
        seed=options.seed,
        quantization_aware=fine_tunes,
    )
