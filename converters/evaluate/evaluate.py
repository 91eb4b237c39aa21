"""Measure models on labelled images as a device would run them: runs, and every variant of bundles, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.evaluate.metrics import Metrics, Scores, metrics_for
from converters.evaluate.run_images import Progress, map_frames, no_progress, read_all
from sightline.bare_model import read_model
from sightline.data.classification import read_class_folders
from sightline.data.detection import read_boxes
from sightline.errors import ConfigError, DataError, ModelError
from sightline.interpreter import is_compiled
from sightline.metrics import GroundTruth
from sightline.output_spec import OutputSpec
from sightline.preprocess import Frame, InputSpec
from sightline.run_folder import read_run

Part = Literal["val", "all"]
OnCorrupt = Literal["refuse", "skip"]


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to measure.

    name: shown in tables.
    content: the .tflite.
    seed: of the split of its training data.
    """

    name: str
    content: bytes
    input: InputSpec
    output: OutputSpec
    seed: int


@dataclass(frozen=True)
class LabelledImages:
    """Images of a data set.

    root: folder of the data set.
    labels: of the data set, in its own order.
    items: (path, class or boxes) of each image.
    skipped: number of images or boxes that were left out because they are wrong.
    """

    root: Path
    labels: tuple[str, ...]
    items: list[tuple[Path, Any]]
    skipped: int


@dataclass(frozen=True)
class Result:
    """A model's answers to the images.

    frames: uint8 [n, height, width, 3], as the model takes them.
    answers: one for each image.
    mistakes: how many there are in each image.
    """

    model: EvaluatedModel
    metrics: Metrics
    frames: Frame
    scores: Scores
    answers: Sequence[Any]
    mistakes: list[int]


@dataclass(frozen=True)
class Evaluation:
    """The results of several models on the same images.

    seed: of the split.
    paths: of the images.
    skipped: number of images or boxes that were left out because they are wrong.
    """

    root: Path
    part: Part
    seed: int
    paths: list[Path]
    skipped: int
    results: list[Result]


def evaluate(
    models: Sequence[Path],
    root: Path,
    *,
    part: Part = "val",
    seed: int | None = None,
    schemes: Sequence[str] = (),
    corrupt: OnCorrupt = "refuse",
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure models on one data set.

    models: run folders and bundles.
    root: class folders, or images with boxes.
    part: `val` is the part that training holds out; `all` are all images.
    seed: of the split, if the data set has no val part of its own. None means the models' own.
    schemes: variants of bundles. Empty means all that this machine can run.
    corrupt: what to do with images that cannot be read, and with wrong boxes.
    Raises DataError, ConfigError or ModelError.
    """
    evaluated = [c for path in models for c in _models(path, schemes)]
    first = evaluated[0]
    seeds = {c.seed for c in evaluated}
    if seed is None and part == "val" and len(seeds) > 1:
        raise ConfigError(f"the models' data was split with different seeds, {sorted(seeds)}. Choose one with --seed.")
    split_seed = first.seed if seed is None else seed
    for c in evaluated:
        if c.output.task != first.output.task:
            raise ConfigError(
                f"{first.name} is for {first.output.task} and {c.name} for {c.output.task}. "
                "Evaluate models of one task at a time."
            )
    images = read_labelled(root, first.output.task, part, split_seed, corrupt, progress)
    results: list[Result] = []
    for c in evaluated:
        results.append(measure(c, images, progress, results))
    return Evaluation(root, part, split_seed, [path for path, _ in images.items], images.skipped, results)


def measure(c: EvaluatedModel, images: LabelledImages, progress: Progress, others: Sequence[Result] = ()) -> Result:
    """Run one model.

    others: results whose frames are used again if their model has the same input and output.
    Raises DataError for a label that the model does not have.
    """
    unknown = [label for label in images.labels if label not in c.output.labels]
    if unknown:
        known = ", ".join(c.output.labels[:10]) + (", ..." if len(c.output.labels) > 10 else "")
        raise DataError(f"{images.root}: {c.name} has no label {unknown[0]!r}; its labels are {known}")
    index = np.asarray([c.output.labels.index(label) for label in images.labels])
    truth = [_renumbered(target, index) for _, target in images.items]
    same = next((r for r in others if r.model.input == c.input and r.model.output == c.output), None)
    metrics = same.metrics if same else metrics_for(c.output, c.input, truth)
    frames = same.frames if same else read_all([path for path, _ in images.items], c.input, metrics, progress)
    answers = metrics.collect(map_frames(c.content, frames, c.input, c.name, metrics.read_answer))
    scores = metrics.score(answers)
    assert scores is not None  # each image has its ground truth
    mistakes = [metrics.count_mistakes(i, answer) for i, answer in enumerate(answers)]
    return Result(c, metrics, frames, scores, answers, mistakes)


def _models(path: Path, schemes: Sequence[str]) -> list[EvaluatedModel]:
    if (path / "model.json").is_file():
        if schemes:
            raise ConfigError(f"{path}: --scheme chooses variants of a bundle, and a run is float32. Leave it out.")
        return [_run_model(path)]
    if not path.exists():
        raise ModelError(f"{path}: no such run or bundle")
    bundle = read_model(path)
    manifest = bundle.manifest
    variants = {scheme: bundle.variant(scheme)[1] for scheme in schemes or manifest.variants}
    usable = {scheme: content for scheme, content in variants.items() if not is_compiled(content)}
    if not usable:
        raise ModelError(
            f"{path}: {', '.join(variants)} are compiled for the Edge TPU, which this command cannot use. Evaluate the "
            "plain variant, which computes the same integers."
        )
    seed = _seed(manifest.provenance)
    return [
        EvaluatedModel(f"{manifest.name} {scheme}", content, manifest.input, manifest.output, seed)
        for scheme, content in usable.items()
    ]


def _run_model(path: Path) -> EvaluatedModel:
    from converters.sources import from_torch  # PyTorch is needed for runs only

    run = read_run(path)
    program = from_torch.open_program(run.read("model.pt2"), f"{path / 'model.pt2'}")
    manifest = run.manifest
    content = from_torch.convert_program(program, str(path))
    return EvaluatedModel(
        f"{manifest.name} float32", content, manifest.input, manifest.output, _seed(manifest.provenance)
    )  # fmt: skip


def _seed(provenance: dict[str, Any]) -> int:
    return int(provenance.get("recipe", {}).get("seed", 0))


def read_labelled(
    root: Path, task: str, part: Part, seed: int, corrupt: OnCorrupt, progress: Progress
) -> LabelledImages:
    """List the images of a data set with their class or boxes. Raises DataError."""
    if task == "detect":
        boxed = read_boxes(root, seed=seed, wrong=corrupt, progress=progress)
        images = [*boxed.val, *(boxed.train if part == "all" else ())]
        return LabelledImages(root, boxed.labels, [(root / p.path, p.truth) for p in images], len(boxed.problems))
    folders = read_class_folders(root, seed=seed, corrupt=corrupt, progress=progress)
    class_images = [*folders.val, *(folders.train if part == "all" else ())]
    return LabelledImages(root, folders.labels, [(root / p.path, p.label) for p in class_images], len(folders.problems))


def _renumbered(target: Any, index: NDArray[np.int64]) -> Any:
    """The ground truth with the model's label numbers instead of the data set's."""
    return replace(target, labels=index[target.labels]) if isinstance(target, GroundTruth) else int(index[target])
