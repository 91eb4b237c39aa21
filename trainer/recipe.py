"""What decides which weights are learned, and how it follows from the options. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from sightline.errors import ConfigError, ModelError
from sightline.run_folder import Run
from sightline.strict_config import read_record
from trainer.options import Augment, TaskName, TrainOptions

# images per step: training from scratch, 6 instead of 16 raised mAP from 45 to 60 in the same time (more steps)
DETECTION_BATCH = 16
CLASSIFICATION_BATCH = 64
DETECTION_IMAGE_SIZE = 320  # pixels
EPOCHS = 30
FINE_TUNING_EPOCHS = 8
LEARNING_RATE = 0.0005
LEARNING_RATE_FROM_SCRATCH = 0.002


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned. A resumed run must have the same recipe.

    task: what the model predicts.
    arch: name of a timm model.
    weights: "timm", "none" or a file; for fine-tuning the name and version of the parent run.
    epochs: passes over the training images.
    batch: images per step and process.
    learning_rate: of AdamW, at its peak.
    weight_decay: of AdamW.
    warmup_epochs: in which the learning rate rises from 0.
    label_smoothing: share of each label that goes to the other classes, 0..1.
    ema_decay: of the moving average of the weights.
    patience: epochs without improvement after which training stops; 0 = never.
    augment: how strongly the training images are varied.
    flip: whether they are mirrored.
    seed: of the split, the order and the first weights.
    quantization_aware: whether a finished run is fine-tuned with int8 rounding.
    """

    task: TaskName
    arch: str
    weights: str
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int
    label_smoothing: float
    ema_decay: float
    patience: int
    augment: Augment
    flip: bool
    seed: int
    quantization_aware: bool = False


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
