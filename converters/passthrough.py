"""Make a bundle of somebody else's .tflite without changing a byte of it: it is quantized already, or stays float."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.evaluate.divergence import split
from converters.evaluate.evaluate import EvaluatedModel, Result, measure, read_labelled
from converters.evaluate.metrics import Scores
from converters.evaluate.run_images import Progress, no_progress, run_all
from converters.sources.base import ModelOptions
from converters.sources.frames import calibration_frames
from converters.sources.options import parse_normalization, read_labels
from sightline.bare_model import PASSTHROUGH, bare_bundle
from sightline.bundle import Bundle, name_of_new, write_bundle
from sightline.decoders import comparable
from sightline.device_config import load_device
from sightline.errors import ConfigError, ModelError
from sightline.identify_outputs import Hints
from sightline.interpreter import Interpreter, is_compiled
from sightline.npz import pack
from sightline.preprocess import Frame, InputSpec
from sightline.run_folder import GOLDEN_FRAMES

MAX_GOLDEN_VALUES = 4_000_000  # numbers in the golden outputs; a mask has a quarter of a million
MIN_GOLDEN_FRAMES = 2


@dataclass(frozen=True)
class PassthroughOptions:
    """How to make a bundle of a .tflite.

    device: name of a device, or path of a .yaml.
    model: labels, normalization and resize where the file does not state them; `data`, labelled images to measure it
        by; `calibration`, images that become its golden samples.
    decoder: how its outputs are read, where several are possible.
    """

    device: str
    model: ModelOptions
    decoder: str | None = None


@dataclass(frozen=True)
class PassthroughResult:
    """A bundle that was written.

    task: what the model is for.
    decoder: how its outputs are read.
    metric, title: name of the metric in JSON, and in texts for people.
    scores: on `images` labelled images; None without any.
    bytes: size of the .tflite.
    notes: what was assumed because the file does not state it.
    """

    bundle: Path
    task: str
    decoder: str
    labels: tuple[str, ...]
    metric: str
    title: str
    scores: Scores | None
    images: int
    bytes: int
    notes: tuple[str, ...]


def pass_through(
    model: Path, out: Path, options: PassthroughOptions, progress: Progress = no_progress
) -> PassthroughResult:
    """Write the bundle `out` with the .tflite unchanged. Raises InputError, and then writes nothing."""
    name = name_of_new(out)
    device, _ = load_device(options.device)
    bare = _read(model, options)
    spec, output, content = bare.manifest.input, bare.manifest.output, bare.contents[model.name]
    evaluated = EvaluatedModel(name, content, spec, output, seed=0)
    result = _measure(evaluated, options.model.data, progress)
    frames = _golden_frames(content, spec, options.model.calibration, result)
    metrics: dict[str, object] = {"bytes": len(content)}
    if result:
        metrics |= {result.metrics.metric: result.scores.value, **result.scores.extra}
    images = len(result.answers) if result else 0
    file = f"{name}.{PASSTHROUGH}.tflite"
    manifest = dataclasses.replace(
        bare.manifest,
        name=name,
        device=device,
        variants={PASSTHROUGH: file},
        metrics={"images": images, PASSTHROUGH: metrics},
    )
    outputs = _golden_outputs(evaluated, frames, str(model))
    arrays = {f"{PASSTHROUGH}/output_{i}": part for i, part in enumerate(outputs)}
    write_bundle(out, manifest, {file: content, "golden.npz": pack(frames=frames, **arrays)})
    return PassthroughResult(
        bundle=out,
        task=output.task,
        decoder=output.decoder or "classes",
        labels=output.labels,
        metric=result.metrics.metric if result else "",
        title=result.metrics.title if result else "",
        scores=result.scores if result else None,
        images=images,
        bytes=len(content),
        notes=tuple(bare.manifest.provenance["assumed"]),
    )


def _read(model: Path, options: PassthroughOptions) -> Bundle:
    model_options = options.model
    hints = Hints(
        labels=read_labels(model_options.labels) if model_options.labels else None,
        decoder=options.decoder,
        normalization=parse_normalization(model, model_options.normalization) if model_options.normalization else None,
        resize=model_options.resize,
    )
    if model.is_file() and is_compiled(model.read_bytes()):
        raise ModelError(
            f"{model}: is compiled for the Edge TPU, and this command cannot run it. Pass the .tflite that it was "
            "compiled from, or run the file on the machine with the TPU: sightline run MODEL --device coral_usb"
        )
    return bare_bundle(model, hints)


def _measure(evaluated: EvaluatedModel, data: Path | None, progress: Progress) -> Result | None:
    """The model on all labelled images of `data`; None without data. Raises ConfigError for a task without a metric."""
    if data is None:
        return None
    task = evaluated.output.task
    if task not in ("classify", "detect"):
        raise ConfigError(f"--data: there is no metric for a model of the task {task}. Leave --data out.")
    images = read_labelled(data, task, "all", 0, "refuse", progress)
    return measure(evaluated, images, progress)


def _golden_frames(content: bytes, spec: InputSpec, calibration: Path | None, result: Result | None) -> Frame:
    """The frames by which a device proves that it computes the same: real images, or noise where there are none."""
    values = sum(int(np.prod(shape)) for shape in _shapes(content, spec))
    count = max(MIN_GOLDEN_FRAMES, min(GOLDEN_FRAMES, MAX_GOLDEN_VALUES // values))
    if calibration:
        return calibration_frames(calibration, spec)[:count]
    if result:
        return np.asarray(result.frames[:: max(1, len(result.frames) // GOLDEN_FRAMES)])[:count]
    return _smooth_noise(count, spec)


def _golden_outputs(c: EvaluatedModel, frames: Frame, name: str) -> list[NDArray[Any]]:
    """Each output for all frames, [n, ...], in the form in which devices compare them."""
    shapes = _shapes(c.content, c.input)
    rows = [split(row[None], shapes) for row in run_all(c.content, frames, c.input, name)]
    comparable_rows = [comparable([part[0] for part in row], c.output) for row in rows]
    return [np.stack([row[i] for row in comparable_rows]) for i in range(len(shapes))]


def _shapes(content: bytes, spec: InputSpec) -> list[tuple[int, ...]]:
    """The shapes of the outputs for one image."""
    return [t.shape[1:] for t in Interpreter(content, spec).outputs]


def _smooth_noise(count: int, spec: InputSpec) -> Frame:
    """Random images with large smooth areas, uint8 [count, height, width, 3]; always the same."""
    import cv2

    rng = np.random.default_rng(0)
    images = [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (spec.width, spec.height), interpolation=cv2.INTER_CUBIC)
        for _ in range(count)
    ]
    return np.stack(images).astype(np.uint8)
