"""Models on labelled pictures, as a device would run them: runs, and every variant of bundles, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from converters.evaluate.metrics import Metrics, Scores, metrics_for
from converters.evaluate.run import Progress, each, read_all
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


@dataclass(frozen=True)
class Candidate:
    """A model to be looked at. name: as people know it. seed: of the split of its training data."""

    name: str
    content: bytes
    input: InputSpec
    output: OutputSpec
    seed: int


@dataclass(frozen=True)
class Result:
    """A candidate on the pictures. answers, mistakes (how many there are): of each one."""

    candidate: Candidate
    rules: Metrics
    frames: Frame
    quality: Scores
    answers: Sequence[Any]
    mistakes: list[int]


@dataclass(frozen=True)
class Evaluation:
    """seed: of the split. paths: the pictures. skipped: how much was wrong with the data and left out."""

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
    corrupt: Literal["refuse", "skip"] = "refuse",
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """models: run folders and bundles. root: class folders, or pictures with boxes. part: `val` is what training holds
    out, by the data set's own val part or by the models' `seed`; `all` are all pictures. schemes: of bundles, none =
    all that this machine can run. Raises DataError, ConfigError, ModelError.
    """
    candidates = [c for path in models for c in _candidates(path, schemes)]
    first = candidates[0]
    seeds = {c.seed for c in candidates}
    if seed is None and part == "val" and len(seeds) > 1:
        raise ConfigError(f"the models' data was split by different seeds, {sorted(seeds)}: say which with --seed")
    chosen = first.seed if seed is None else seed
    for c in candidates:
        if c.output.task != first.output.task:
            raise ConfigError(f"{first.name} is there to {first.output.task}, {c.name} to {c.output.task}: not both")
    labels, found, skipped = read_pictures(root, first.output.task, part, chosen, corrupt, progress)
    results: list[Result] = []
    for c in candidates:
        results.append(measure(c, labels, found, root, progress, results))
    return Evaluation(root, part, chosen, [path for path, _ in found], skipped, results)


def measure(
    c: Candidate, labels: Sequence[str], found: Sequence[tuple[Path, Any]], root: Path, progress: Progress,
    others: Sequence[Result] = (),
) -> Result:  # fmt: skip
    """labels: of the data set `root`, found: its pictures with their truth; see `read_pictures`. others: who may have
    read the same pictures for the same input. Raises DataError for a label that the model does not know."""
    unknown = [label for label in labels if label not in c.output.labels]
    if unknown:
        known = ", ".join(c.output.labels[:10]) + (", ..." if len(c.output.labels) > 10 else "")
        raise DataError(f"{root}: {c.name} knows no {unknown[0]!r}; its labels are {known}")
    index = np.asarray([c.output.labels.index(label) for label in labels])
    truth = [_renumbered(answer, index) for _, answer in found]
    before = next((r for r in others if r.candidate.input == c.input and r.candidate.output == c.output), None)
    rules = before.rules if before else metrics_for(c.output, c.input, truth)
    frames = before.frames if before else read_all([path for path, _ in found], c.input, rules, progress)
    answers = rules.collect(each(c.content, frames, c.input, c.name, rules.answer))
    quality = rules.quality(answers)
    assert quality is not None  # each picture has its truth
    return Result(c, rules, frames, quality, answers, [rules.mistakes(i, a) for i, a in enumerate(answers)])


def _candidates(path: Path, schemes: Sequence[str]) -> list[Candidate]:
    if (path / "model.json").is_file():
        if schemes:
            raise ConfigError(f"{path}: --scheme chooses variants of a bundle; a run is float32")
        from converters.sources import from_torch as torch_source

        run = read_run(path)
        program = torch_source.open_program(run.read("model.pt2"), f"{path / 'model.pt2'}")
        m = run.manifest
        content = torch_source.convert_program(program, str(path))
        return [Candidate(f"{m.name} float32", content, m.input, m.output, _seed(m.provenance))]
    if not path.exists():
        raise ModelError(f"{path}: no such run or bundle")
    bundle = read_model(path)
    m2 = bundle.manifest
    variants = {scheme: bundle.variant(scheme)[1] for scheme in schemes or m2.variants}
    usable = {scheme: content for scheme, content in variants.items() if not is_compiled(content)}
    if not usable:
        raise ModelError(
            f"{path}: {', '.join(variants)} are compiled for the Edge TPU, which is not here; the plain variant "
            "computes the same integers"
        )
    seed = _seed(m2.provenance)
    return [Candidate(f"{m2.name} {scheme}", content, m2.input, m2.output, seed) for scheme, content in usable.items()]


def _seed(provenance: dict[str, Any]) -> int:
    return int(provenance.get("recipe", {}).get("seed", 0))


def read_pictures(
    root: Path, task: str, part: Part, seed: int, corrupt: Literal["refuse", "skip"], progress: Progress
) -> tuple[tuple[str, ...], list[tuple[Path, Any]], int]:
    """The labels of a data set, (picture, class or boxes) of each of its pictures, and how many were skipped."""
    if task == "detect":
        boxed = read_boxes(root, seed=seed, wrong=corrupt, progress=progress)
        drawn = [*boxed.val, *(boxed.train if part == "all" else ())]
        return boxed.labels, [(root / p.path, p.truth) for p in drawn], len(boxed.problems)
    folders = read_class_folders(root, seed=seed, corrupt=corrupt, progress=progress)
    pictures = [*folders.val, *(folders.train if part == "all" else ())]
    return folders.labels, [(root / p.path, p.label) for p in pictures], len(folders.skipped)


def _renumbered(answer: Any, index: NDArray[np.int64]) -> Any:
    """By the model's order of the labels instead of the data set's."""
    return replace(answer, labels=index[answer.labels]) if isinstance(answer, GroundTruth) else int(index[answer])
