"""A .tflite that somebody else has quantized, or that shall stay float, made a bundle without touching a byte of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converters.evaluate.divergence import split
from converters.evaluate.evaluate import Candidate, measure, read_pictures
from converters.evaluate.metrics import Scores
from converters.evaluate.run import Progress, run_all
from converters.sources.base import ModelOptions
from converters.sources.open import calibration_frames, parse_normalization, read_labels
from sightline.bare_model import AS_IS, bare_bundle
from sightline.bundle import name_of_new, write_bundle
from sightline.decoders import comparable
from sightline.device import load_device
from sightline.errors import ConfigError, ModelError
from sightline.identify_outputs import Hints
from sightline.interpreter import Interpreter, is_compiled
from sightline.npz import pack
from sightline.preprocess import Frame, InputSpec
from sightline.run_folder import GOLDEN_FRAMES

MOST_VALUES = 4_000_000  # of the golden outputs: a mask has a quarter of a million


@dataclass(frozen=True)
class Wrapped:
    """task: what it is there to do; layout: how its outputs are read. quality: on `pictures` labelled ones, None
    without any. notes: what was taken for granted."""

    bundle: Path
    task: str
    decoder: str
    labels: tuple[str, ...]
    metric: str
    title: str
    quality: Scores | None
    pictures: int
    bytes: int
    notes: tuple[str, ...]


def wrap(
    model: Path, out: Path, *, device: str, given: ModelOptions, decoder: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Wrapped:  # fmt: skip
    """given: labels, normalization and resize where the file does not say them; data: pictures that judge it, class
    folders or boxes; calibration: pictures that become its golden samples. Raises InputError; writes all or nothing."""
    name = name_of_new(out)
    device_name, _ = load_device(device)
    hints = Hints(
        labels=read_labels(given.labels) if given.labels else None,
        decoder=decoder,
        normalization=parse_normalization(model, given.normalization) if given.normalization else None,
        resize=given.resize,
    )
    if model.is_file() and is_compiled(model.read_bytes()):
        raise ModelError(
            f"{model}: is compiled for the Edge TPU, and nothing here can run it; give the .tflite that it was "
            "compiled from, or run it as it is where the TPU is: sightline run MODEL --device coral_usb"
        )
    bare = bare_bundle(model, hints)
    spec, output, content = bare.manifest.input, bare.manifest.output, bare.contents[model.name]
    notes = tuple(bare.manifest.provenance["assumed"])
    if given.data and output.task not in ("classify", "detect"):
        raise ConfigError(f"--data: what judges a model that is there to {output.task} is not known; leave it out")
    metrics: dict[str, object] = {"bytes": len(content)}
    quality, metric, title, pictures = None, "", "", 0
    frames = None
    if given.data:
        labels, found, _ = read_pictures(given.data, output.task, "all", 0, "refuse", progress)
        result = measure(Candidate(name, content, spec, output, 0), labels, found, given.data, progress)
        quality, metric, title = result.quality, result.rules.metric, result.rules.title
        pictures, frames = len(found), np.asarray(result.frames[:: max(1, len(found) // GOLDEN_FRAMES)])
        metrics |= {metric: quality.value, **quality.more}
    if given.calibration:
        frames = calibration_frames(given.calibration, spec)
    shapes = [t.shape[1:] for t in Interpreter(content, spec, name=str(model)).outputs]
    golden = _golden(frames, spec, sum(int(np.prod(s)) for s in shapes))
    rows = [split(row[None], shapes) for row in run_all(content, golden, spec, str(model))]
    settled = [comparable([part[0] for part in row], output) for row in rows]
    parts = [np.stack([row[i] for row in settled]) for i in range(len(shapes))]
    file = f"{name}.{AS_IS}.tflite"
    manifest = dataclasses.replace(
        bare.manifest,
        name=name,
        device=device_name,
        variants={AS_IS: file},
        metrics={"pictures": pictures, AS_IS: metrics},
    )
    arrays = {f"{AS_IS}/output_{i}": part for i, part in enumerate(parts)}
    write_bundle(out, manifest, {file: content, "golden.npz": pack(frames=golden, **arrays)})
    return Wrapped(
        out, output.task, output.decoder or "classes", output.labels, metric, title, quality, pictures, len(content),
        notes,
    )  # fmt: skip


def _golden(frames: Frame | None, spec: InputSpec, values: int) -> Frame:
    """What a device proves by that it computes the same: pictures, or without any, clouds."""
    count = max(2, min(GOLDEN_FRAMES, MOST_VALUES // values))
    if frames is not None:
        return frames[:count]
    import cv2

    rng = np.random.default_rng(0)
    clouds = [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (spec.width, spec.height), interpolation=cv2.INTER_CUBIC)
        for _ in range(count)
    ]
    return np.stack(clouds).astype(np.uint8)
