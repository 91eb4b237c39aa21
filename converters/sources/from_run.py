"""Finished runs of `sightline train` as a `Source`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from converters.log_capture import Log
from converters.sources import from_torch
from converters.sources.base import ModelOptions, Source
from converters.sources.frames import calibration_frames, check_frames
from sightline.detection_postprocess import check_shapes
from sightline.errors import ConfigError, DataError, ModelError
from sightline.npz import unpack
from sightline.preprocess import Frame
from sightline.run_folder import Run, read_run


def open_run(path: Path, options: ModelOptions, log: Log) -> Source:
    """Open a run folder and convert its model to a float TFLite. Raises InputError."""
    for option in ("labels", "normalization", "resize"):
        if getattr(options, option):
            raise ConfigError(f"{path}: a run states its {option} itself. Leave --{option} out.")
    run = read_run(path)
    manifest = run.manifest
    program = from_torch.open_program(run.read("model.pt2"), f"{path / 'model.pt2'}")
    golden, outputs = _golden(path, run, from_torch.input_size(program, str(path / "model.pt2")))
    calibration = unpack(run.read("calibration.npz"), str(path / "calibration.npz"), "frames")["frames"]
    check_frames(calibration, manifest.input, f"{path / 'calibration.npz'}")
    root, files = run.heldout()
    root = options.data or root
    missing = sum(not (root / file).is_file() for file, _ in files)
    if missing:
        raise DataError(
            f"{root}: {missing} of the {len(files)} held-out images of {path} are missing. "
            "If the data set moved, pass its folder with --data DIR."
        )
    if options.calibration is not None:
        calibration = calibration_frames(options.calibration, manifest.input)
    log(f"{path}: {len(manifest.output.labels)} classes, {len(files)} held-out images; converting")
    return Source(
        name=manifest.name,
        version=manifest.version,
        origin=from_torch.TITLE,
        float_model=from_torch.convert_program(program, str(path)),
        input=manifest.input,
        output=manifest.output,
        calibration=calibration,
        golden=golden,
        expected=np.concatenate([o.reshape(len(golden), -1) for o in outputs], axis=1),
        heldout=[(root / file, label) for file, label in files],
        provenance={**manifest.provenance, "metrics": manifest.metrics},
        shapes=tuple(o.shape[1:] for o in outputs),
    )


def _golden(path: Path, run: Run, size: tuple[int, int]) -> tuple[Frame, list[Frame]]:
    """(golden frames, golden outputs). size: (width, height) that model.pt2 takes.

    Raises ModelError or DataError if they do not fit to model.json.
    """
    manifest = run.manifest
    names = [f"output_{i}" for i in range(len(manifest.output.heads) * len(manifest.output.strides) or 1)]
    golden = unpack(run.read("golden.npz"), str(path / "golden.npz"), "frames", *names)
    spec, classes = manifest.input, len(manifest.output.labels)
    outputs = [golden[name] for name in names]
    if size != (spec.width, spec.height):
        raise ModelError(
            f"{path}: model.json states {spec.width}x{spec.height}, but model.pt2 takes {size[0]}x{size[1]}"
        )
    count, scores = len(golden["frames"]), outputs[0].shape
    if any(len(o) != count for o in outputs) or scores[-1] != classes:
        raise ModelError(f"{path}: model.json has {classes} labels, but the golden outputs are {list(scores)}")
    if manifest.output.task == "detect":
        try:
            check_shapes([(1, *o.shape[1:]) for o in outputs], manifest.output, *size)
        except ValueError as e:
            raise ModelError(f"{path}: golden {e}, by its model.json") from None
    check_frames(golden["frames"], spec, f"{path / 'golden.npz'}")
    return golden["frames"], outputs
