"""From a trained module to a run folder: what conversion needs, and nothing that it has to believe."""

from __future__ import annotations

import datetime
import io
import json
import logging
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sightline import __version__
from sightline.data.classification import ClassificationDataset, ClassificationImage, balanced, read_frames
from sightline.data.detection import DetectionDataset, DetectionImage
from sightline.detection_postprocess import check_shapes
from sightline.errors import ModelError, reason
from sightline.files import sha256
from sightline.npz import pack
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from sightline.run_folder import CALIBRATION_FRAMES, GOLDEN_FRAMES, RunManifest, write_run


def export_run(
    path: Path,
    model: nn.Module,
    data: ClassificationDataset | DetectionDataset,
    spec: InputSpec,
    *,
    name: str,
    metrics: dict[str, float],
    provenance: dict[str, Any],
    output: OutputSpec | None = None,
    seed: int = 0,
) -> RunManifest:
    """Write a run folder for any module: float32 [1, height, width, 3], RGB 0..255 -> float32 [1, classes], or a
    detector's outputs (see `sightline.detection_postprocess`). output: what they mean; none = a softmax over data's
    labels.

    The program is saved, opened again, and must give what the module gives. Raises ModelError where it does not, or
    where torch.export cannot take the module.
    """
    model = model.cpu().eval()
    program = save_program(model, spec)
    output = output or OutputSpec("classify", "softmax", data.labels)
    calibration = read_frames(data.root, balanced(data.train, CALIBRATION_FRAMES, seed), spec)
    golden = read_frames(data.root, balanced(data.val, GOLDEN_FRAMES, seed), spec)
    opened = torch.export.load(io.BytesIO(program)).module()
    outputs = run_program(opened, golden)
    for given, wanted in zip(outputs, run_program(model, golden), strict=True):
        difference = float(np.abs(given - wanted).max())
        # other kernels may be chosen for the exported graph; more than rounding is another model
        if not difference <= 1e-3 * max(1.0, float(np.abs(wanted).max())):
            raise ModelError(
                f"the exported program differs from the model by {difference:.3g}: it is not the same function"
            )
    _check_outputs(outputs, output, spec)
    created = datetime.datetime.now(datetime.timezone.utc)
    manifest = RunManifest(
        name=name,
        version=f"{created:%Y%m%d}-{sha256(program)[:8]}",
        input=spec,
        output=output,
        metrics=metrics,
        provenance={
            **provenance,
            "created_at": f"{created:%Y-%m-%dT%H:%M:%SZ}",
            "git": _git(),
            "dataset": {
                "name": data.root.resolve().name,
                "fingerprint": data.fingerprint,
                "train": len(data.train),
                "val": len(data.val),
                "skipped": len(data.problems if isinstance(data, DetectionDataset) else data.skipped),
            },
            "versions": _versions(),
        },
    )
    heldout = {"root": str(data.root.resolve()), "files": [[p.path, _answer(p)] for p in data.val]}
    files = {
        "model.pt2": program,
        "calibration.npz": pack(frames=calibration),
        "golden.npz": pack(frames=golden, **{f"output_{i}": o for i, o in enumerate(outputs)}),
        "heldout.json": json.dumps(heldout).encode(),
    }
    write_run(path, manifest, files)
    return manifest


def _answer(picture: ClassificationImage | DetectionImage) -> int | list[list[float]]:
    """What is right: the class, or class, x, y, width, height of each box."""
    if isinstance(picture, ClassificationImage):
        return picture.label
    return [[b.label, b.x, b.y, b.width, b.height] for b in picture.boxes]


def _check_outputs(outputs: list[NDArray[np.float32]], spec: OutputSpec, input: InputSpec) -> None:
    shapes = [(1, *o.shape[1:]) for o in outputs]
    if spec.task == "detect":
        try:
            check_shapes(shapes, spec, input.width, input.height)
        except ValueError as e:
            raise ModelError(f"the model gives {e}") from None
    elif shapes != [(1, len(spec.labels))]:
        raise ModelError(f"the model gives {[list(s) for s in shapes]} scores for {len(spec.labels)} classes")


def save_program(model: nn.Module, spec: InputSpec) -> bytes:
    """The module as a torch.export program for one picture."""
    sample = torch.zeros(1, spec.height, spec.width, 3)
    buffer = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torch's own exporter
            logging.getLogger("torch.export").setLevel(logging.ERROR)
            torch.export.save(torch.export.export(model, (sample,)), buffer)
    except Exception as e:  # its errors have no common class
        raise ModelError(f"torch.export cannot take this model: {reason(e)}") from e
    return buffer.getvalue()


def run_program(model: nn.Module, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """uint8 [n, height, width, 3] -> each output, float32 [n, ...], a picture at a time."""
    with torch.no_grad():
        rows = [model(torch.from_numpy(frame[None].astype(np.float32))) for frame in frames]
    rows = [row if isinstance(row, tuple | list) else (row,) for row in rows]
    return [np.concatenate([row[i].numpy() for row in rows]) for i in range(len(rows[0]))]


def _git() -> str | None:
    """The commit of the folder in which training ran. Whether it had changes is not asked: `git status` runs the
    programs that the folder's own .git/config names."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() if head.returncode == 0 else None


def _versions() -> dict[str, str]:
    import timm
    import torchvision

    modules = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": np}
    return {
        "sightline": __version__,
        "python": platform.python_version(),
        **{name: str(module.__version__) for name, module in modules.items()},
    }
