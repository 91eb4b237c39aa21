"""A run: the folder that training hands to conversion. Anybody's model can be written as one.

RUN/
  model.pt2         torch.export program: float32 NHWC RGB 0..255 in, normalisation inside
  model.json        what it is, takes in and gives out, how good it is, where it comes from; hashes of the rest
  calibration.npz   `frames`: uint8 [n, height, width, 3], pictures from the training part, as the model takes them
  golden.npz        `frames` like those, and `output_0`, ...: what the model gave for each in PyTorch
  heldout.json      the pictures that training never saw: {"root": folder, "files": [[relative path, class], ...]};
                    a detector's have in place of the class [class, x, y, width, height] of each box, in pixels
  history.jsonl     one line an epoch
  checkpoint/       to resume
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.bundle import check_provenance
from sightline.documents import inside, parse_json, shortened
from sightline.errors import ModelError
from sightline.files import FileTable, checked_table, file_table, read_verified, seal, unseal, write_file
from sightline.metrics import GroundTruth
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from sightline.strict_config import read_record

SCHEMA = 2
# accuracy of int8 stops changing at about 100 pictures; 256 keep every class of most data sets in
CALIBRATION_FRAMES = 256
GOLDEN_FRAMES = 32


@dataclass(frozen=True)
class RunManifest:
    """What a run says of itself. metrics: {name: value}, fractions in 0..1. provenance: seed, versions, data set ..."""

    name: str
    version: str
    input: InputSpec
    output: OutputSpec
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        check_provenance(self.provenance)


@dataclass(frozen=True)
class Run:
    path: Path
    manifest: RunManifest
    files: FileTable

    def read(self, name: str) -> bytes:
        """A file of the run, verified against its hash."""
        return read_verified(self.path, self.files, name)

    def heldout(self) -> tuple[Path, list[tuple[str, int | GroundTruth]]]:
        """The folder of the held-out pictures, and (path in it, class index or boxes) of each."""
        where = self.path / "heldout.json"
        try:
            data = parse_json(self.read("heldout.json"))
            root, listed = Path(data["root"]), [(str(path), answer) for path, answer in data["files"]]
        except (ValueError, KeyError, TypeError) as e:
            raise ModelError(f"{where}: not what a training leaves: {type(e).__name__}: {e}") from None
        classes = len(self.manifest.output.labels)
        found: list[tuple[str, int | GroundTruth]] = []
        for i, (path, answer) in enumerate(listed, 1):
            if inside(root, path) is None:
                raise ModelError(f"{where}: file {i}, {shortened(path)!r}, leads out of the data set's folder")
            try:
                if isinstance(answer, int) == (self.manifest.output.task == "detect"):
                    raise ValueError("of another task")
                found.append((path, _answer(answer, classes)))
            except (ValueError, TypeError):
                raise ModelError(f"{where}: file {i}: neither one of {classes} classes, nor boxes of them") from None
        return root, found


def _answer(answer: Any, classes: int) -> int | GroundTruth:
    """Raises ValueError or TypeError."""
    rows = np.asarray([[answer, 0, 0, 1, 1]] if isinstance(answer, int) else answer, np.float64).reshape(-1, 5)
    labels = rows[:, 0].astype(np.int64)
    if not np.isfinite(rows).all() or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError("no class, or no finite number")
    return answer if isinstance(answer, int) else GroundTruth(labels, rows[:, 1:])


def write_run(path: Path, manifest: RunManifest, files: Mapping[str, bytes]) -> None:
    """Write the files, then model.json: a run without one is unfinished. files: model.pt2, calibration.npz, ..."""
    for name, data in files.items():
        write_file(path / name, data)
    document = {"schema": SCHEMA, **dataclasses.asdict(manifest), "files": file_table(files)}
    write_file(path / "model.json", seal(document))


def read_run(path: Path) -> Run:
    """Open a run strictly; its files are verified when read."""
    document = unseal(path / "model.json", "finished run", SCHEMA)
    where = str(path / "model.json")
    table = checked_table(document, where)
    document = {k: v for k, v in document.items() if k not in ("schema", "files")}
    document["input"] = read_record(InputSpec, document.get("input"), f"{where}: input", ModelError)
    document["output"] = read_record(OutputSpec, document.get("output"), f"{where}: output", ModelError)
    return Run(path, read_record(RunManifest, document, where, ModelError), table)
