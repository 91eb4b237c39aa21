"""What is to be converted: a run folder, or a program of one's own with pictures to judge it by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.torch_source import input_size, open_program, run_program
from sightline.arrays import unpack
from sightline.datasets import balanced, read_class_folders, read_frames
from sightline.decode import OutputSpec
from sightline.errors import DataError, ModelError
from sightline.files import sha256
from sightline.images import SUFFIXES, read_image
from sightline.preprocess import Frame, InputSpec, Preprocessor, Resize
from sightline.run_folder import CALIBRATION_FRAMES, GOLDEN_FRAMES, read_run


@dataclass(frozen=True)
class Source:
    """calibration, golden: uint8 [n, height, width, 3]. expected: float32 [n, classes], PyTorch's outputs for golden.
    heldout: (picture, class) that training never saw."""

    name: str
    version: str
    program: torch.export.ExportedProgram
    input: InputSpec
    output: OutputSpec
    calibration: Frame
    golden: Frame
    expected: NDArray[np.float32]
    heldout: list[tuple[Path, int]]
    provenance: dict[str, Any]


def open_source(path: Path, data: Path | None, calibration: Path | None, resize: Resize | None) -> Source:
    """A run folder, or a .pt2 with `data`: its class folders give the labels, the calibration and the held-out part.

    data: for a run, where its data set is now, if it moved. calibration: pictures, or an .npz with `frames`, to use
    instead of the training pictures. resize: how pictures become the input of a .pt2; a run knows its own.
    """
    if path.is_dir():
        if resize:
            raise ModelError(f"{path}: a run knows how its pictures were resized; leave --resize out")
        source = _from_run(path, data)
    elif path.suffix == ".pt2" and path.is_file():
        source = _from_program(path, data, resize or "letterbox")
    else:
        kind = "is neither a run folder nor a .pt2 program" if path.exists() else "no such run folder or .pt2 program"
        raise ModelError(f"{path}: {kind}; `sightline train` makes a run")
    if calibration is None:
        return source
    frames = _calibration_frames(calibration, source.input)
    return Source(**{**source.__dict__, "calibration": frames})


def _from_run(path: Path, data: Path | None) -> Source:
    run = read_run(path)
    manifest = run.manifest
    program = open_program(run.read("model.pt2"), f"{path / 'model.pt2'}")
    golden = unpack(run.read("golden.npz"), str(path / "golden.npz"), "frames", "output_0")
    calibration = unpack(run.read("calibration.npz"), str(path / "calibration.npz"), "frames")
    spec, classes = manifest.input, len(manifest.output.labels)
    size, scores = input_size(program, str(path / "model.pt2")), golden["output_0"].shape
    if size != (spec.width, spec.height):
        raise ModelError(f"{path}: model.json says {spec.width}x{spec.height}, but model.pt2 takes {size[0]}x{size[1]}")
    if scores != (len(golden["frames"]), classes):
        raise ModelError(f"{path}: model.json names {classes} labels, but the golden outputs are {list(scores)}")
    for name, frames in (("golden.npz", golden["frames"]), ("calibration.npz", calibration["frames"])):
        _check_frames(frames, spec, f"{path / name}")
    root, files = run.heldout()
    root = data or root
    missing = sum(not (root / file).is_file() for file, _ in files)
    if missing:
        raise DataError(
            f"{root}: {missing} of the {len(files)} held-out pictures of {path} are not there; "
            "say where the data set is now with --data DIR"
        )
    return Source(
        manifest.name,
        manifest.version,
        program,
        manifest.input,
        manifest.output,
        calibration["frames"],
        golden["frames"],
        golden["output_0"],
        [(root / file, label) for file, label in files],
        {**manifest.provenance, "metrics": manifest.metrics},
    )


def _from_program(path: Path, data: Path | None, resize: Resize) -> Source:
    content = path.read_bytes()
    program = open_program(content, str(path))
    width, height = input_size(program, str(path))
    if data is None:
        raise DataError(
            f"{path}: a program alone cannot be judged; give labelled pictures with --data DIR, one subfolder per "
            "class, in the order of the model's outputs when sorted by name"
        )
    pictures = read_class_folders(data)
    spec = InputSpec(width, height, resize)
    golden = read_frames(data, balanced(pictures.val, GOLDEN_FRAMES, 0), spec)
    expected = run_program(program, golden, str(path))
    if expected.shape[1] != len(pictures.labels):
        raise ModelError(
            f"{path}: gives {list(expected.shape[1:])} scores, but {data} has {len(pictures.labels)} classes: "
            f"{', '.join(pictures.labels[:10])}"
        )
    return Source(
        path.stem,
        sha256(content)[:8],
        program,
        spec,
        OutputSpec("classify", "softmax", pictures.labels),
        read_frames(data, balanced(pictures.train, CALIBRATION_FRAMES, 0), spec),
        golden,
        expected,
        [(data / p.path, p.label) for p in pictures.val],
        {
            "program_sha256": sha256(content),
            "dataset": {"name": data.resolve().name, "fingerprint": pictures.fingerprint},
        },
    )


def _check_frames(frames: NDArray[Any], spec: InputSpec, where: str) -> None:
    size = (spec.height, spec.width, 3)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size or not len(frames):
        found = f"{frames.dtype} {list(frames.shape)}"
        raise DataError(f"{where}: frames must be uint8 [n, {spec.height}, {spec.width}, 3], not {found}")


def _calibration_frames(path: Path, spec: InputSpec) -> Frame:
    if path.suffix == ".npz" and path.is_file():
        frames = unpack(path.read_bytes(), str(path), "frames")["frames"]
        _check_frames(frames, spec, str(path))
        return frames
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of calibration pictures, nor an .npz with `frames`")
    paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{path}: no pictures to calibrate with (known endings: {', '.join(SUFFIXES)})")
    step = max(1, len(paths) // CALIBRATION_FRAMES)  # evenly over the names: they are often in order of class or time
    preprocess = Preprocessor(spec)
    return np.stack([preprocess(read_image(p)) for p in paths[::step][:CALIBRATION_FRAMES]])
