"""Writes a trained module as a run folder, which conversion reads."""

from __future__ import annotations

import datetime
import io
import json
import logging
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sightline import __version__
from sightline.data.classification import ClassificationDataset, ClassificationImage
from sightline.data.dataset import Dataset, LabelledImage, balanced, read_frames
from sightline.data.detection import DetectionDataset, DetectionImage
from sightline.detection_postprocess import check_shapes
from sightline.errors import ModelError, reason
from sightline.files import sha256
from sightline.npz import pack
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from sightline.run_folder import CALIBRATION_FRAMES, GOLDEN_FRAMES, RunManifest, write_run

Outputs = list[NDArray[np.float32]]
# of the largest output: other kernels may be chosen for the exported graph, but more than rounding is another model
TOLERANCE = 1e-3


def export_run(
    path: Path,
    model: nn.Module,
    data: ClassificationDataset | DetectionDataset,
    spec: InputSpec,
    *,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    output: OutputSpec | None = None,
) -> RunManifest:
    """Write a run folder for any module: float32 [1, height, width, 3], RGB 0..255 -> float32 [1, classes].

    A detector has other outputs; see `sightline.detection_postprocess`. The program is saved, opened again, and
    compared with the module.

    path: the run folder. Its name becomes the model's name.
    metrics: {name: value}, fractions in 0..1.
    provenance: where the model comes from. recipe.seed, 0 if absent, chooses the calibration and golden images.
    output: what the outputs mean; None = a softmax over the labels of `data`.

    Raises ModelError if the program differs from the module, or if torch.export does not support the module.
    """
    model = model.cpu().eval()
    program = save_program(model, spec)
    output = output or OutputSpec("classify", "softmax", data.labels)
    calibration, golden = _frames(data, spec, int(provenance.get("recipe", {}).get("seed", 0)))
    opened = torch.export.load(io.BytesIO(program)).module()
    outputs = run_program(opened, golden)
    _check_equal(outputs, run_program(model, golden))
    _check_outputs(outputs, output, spec)
    created = datetime.datetime.now(datetime.timezone.utc)
    manifest = RunManifest(
        name=path.name,
        version=f"{created:%Y%m%d}-{sha256(program)[:8]}",
        input=spec,
        output=output,
        metrics=dict(metrics),
        provenance={
            **provenance,
            "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
            "git": _git_commit(),
            "dataset": {
                "name": data.root.resolve().name,
                "fingerprint": data.fingerprint,
                "train": len(data.train),
                "val": len(data.val),
                "skipped": len(data.problems),
            },
            "versions": _versions(),
        },
    )
    heldout = {"root": str(data.root.resolve()), "files": [[image.path, _label(image)] for image in data.val]}
    files = {
        "model.pt2": program,
        "calibration.npz": pack(frames=calibration),
        "golden.npz": pack(frames=golden, **{f"output_{i}": o for i, o in enumerate(outputs)}),
        "heldout.json": json.dumps(heldout).encode(),
    }
    write_run(path, manifest, files)
    return manifest


def _frames(data: Dataset[LabelledImage], spec: InputSpec, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(calibration frames, golden frames)."""
    calibration = balanced(data.train, CALIBRATION_FRAMES, seed)
    golden = balanced(data.val, GOLDEN_FRAMES, seed)
    return read_frames(data.root, calibration, spec), read_frames(data.root, golden, spec)


def _label(image: ClassificationImage | DetectionImage) -> int | list[list[float]]:
    """The class, or class, x, y, width, height of each box."""
    if isinstance(image, ClassificationImage):
        return image.label
    return [[b.label, b.x, b.y, b.width, b.height] for b in image.boxes]


def _check_equal(program: Outputs, module: Outputs) -> None:
    for a, b in zip(program, module, strict=True):
        difference = float(np.abs(a - b).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(b).max())):
            raise ModelError(
                f"the exported program differs from the model by {difference:.3g}: it is not the same function"
            )


def _check_outputs(outputs: Outputs, spec: OutputSpec, input: InputSpec) -> None:
    shapes = [(1, *o.shape[1:]) for o in outputs]
    if spec.task == "detect":
        try:
            check_shapes(shapes, spec, input.width, input.height)
        except ValueError as e:
            raise ModelError(f"the model has {e}") from None
    elif shapes != [(1, len(spec.labels))]:
        raise ModelError(f"the model has outputs {[list(s) for s in shapes]} for {len(spec.labels)} classes")


def save_program(model: nn.Module, spec: InputSpec) -> bytes:
    """The module as a torch.export program for one image."""
    sample = torch.zeros(1, spec.height, spec.width, 3)
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            torch.export.save(torch.export.export(model, (sample,)), buffer)
    except Exception as e:  # its errors have no common class
        raise ModelError(f"torch.export does not support this model: {reason(e)}") from e
    return buffer.getvalue()


def run_program(model: nn.Module, frames: NDArray[np.uint8]) -> Outputs:
    """uint8 [n, height, width, 3] -> each output, float32 [n, ...]. Runs one image at a time."""
    with torch.no_grad():
        results = [model(torch.from_numpy(frame[None].astype(np.float32))) for frame in frames]
    rows: list[Sequence[torch.Tensor]] = [row if isinstance(row, tuple | list) else (row,) for row in results]
    return [np.concatenate([row[i].numpy() for row in rows]) for i in range(len(rows[0]))]


def _git_commit() -> str | None:
    """The commit of the folder in which training ran.

    Whether it had changes is not checked: `git status` runs the programs that the folder's own .git/config names.
    """
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() if head.returncode == 0 else None


def _versions() -> dict[str, str]:
    import timm
    import torchvision

    modules: dict[str, Any] = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": np}
    return {
        "sightline": __version__,
        "python": platform.python_version(),
        **{name: str(module.__version__) for name, module in modules.items()},
    }
