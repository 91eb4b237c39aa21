"""A run: the folder in which training passes a model to conversion. Any model can be written as one.

RUN/
  model.pt2         torch.export program: float32 NHWC RGB 0..255 in, normalisation inside
  model.json        the model's input, output, metrics and provenance, and the hashes of the other files
  calibration.npz   `frames`: uint8 [n, height, width, 3], images of the training part, as the model takes them
  golden.npz        `frames`: held-out images, in the same form; `output_0`, ...: the outputs for them in PyTorch
  heldout.json      the held-out images: {"root": folder, "files": [[relative path, class], ...]}. For a detector,
                    [class, x, y, width, height] of each box in pixels instead of the class
  history.jsonl     one line per epoch
  checkpoint/       for --resume
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
# the accuracy of int8 stops changing at about 100 images; 256 include every class of most data sets
CALIBRATION_FRAMES = 256  # images, at most
GOLDEN_FRAMES = 32  # images, at most


@dataclass(frozen=True)
class RunManifest:
    """What a run states about its model.

    name, version: of the model.
    input, output: what the model takes in and gives out.
    metrics: {name: value}, fractions in 0..1.
    provenance: recipe, versions, data set ...
    """

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
    """A run folder whose manifest has been read. Its other files are verified when they are read.

    path: of the folder.
    manifest: its model.json.
    files: hash and size of each file.
    """

    path: Path
    manifest: RunManifest
    files: FileTable

    def read(self, name: str) -> bytes:
        """The bytes of a file of the run, verified against its hash."""
        return read_verified(self.path, self.files, name)

    def heldout(self) -> tuple[Path, list[tuple[str, int | GroundTruth]]]:
        """(folder of the held-out images, [(path in it, class index or boxes)])."""
        where = self.path / "heldout.json"
        try:
            data = parse_json(self.read("heldout.json"))
            root, listed = Path(data["root"]), [(str(path), label) for path, label in data["files"]]
        except (ValueError, KeyError, TypeError) as e:
            raise ModelError(f"{where}: is damaged: {type(e).__name__}: {e}") from None
        classes = len(self.manifest.output.labels)
        files: list[tuple[str, int | GroundTruth]] = []
        for i, (path, label) in enumerate(listed, 1):
            if inside(root, path) is None:
                raise ModelError(f"{where}: file {i}, {shortened(path)!r}, leads out of the data set's folder")
            try:
                if isinstance(label, int) == (self.manifest.output.task == "detect"):
                    raise ValueError("of another task")
                files.append((path, _truth(label, classes)))
            except (ValueError, TypeError):
                raise ModelError(f"{where}: file {i}: must have one of {classes} classes, or boxes of them") from None
        return root, files


def _truth(label: Any, classes: int) -> int | GroundTruth:
    """A label as it is used. Raises ValueError or TypeError if it is not a class or boxes."""
    rows = np.asarray([[label, 0, 0, 1, 1]] if isinstance(label, int) else label, np.float64).reshape(-1, 5)
    labels = rows[:, 0].astype(np.int64)
    if not np.isfinite(rows).all() or not ((labels >= 0) & (labels < classes)).all():
        raise ValueError("unknown class, or a number that is not finite")
    return label if isinstance(label, int) else GroundTruth(labels, rows[:, 1:])


def write_run(path: Path, manifest: RunManifest, files: Mapping[str, bytes]) -> None:
    """Write a run folder. model.json comes last: a run without it is unfinished.

    files: model.pt2, calibration.npz, ...
    """
    for name, data in files.items():
        write_file(path / name, data)
    document = {"schema": SCHEMA, **dataclasses.asdict(manifest), "files": file_table(files)}
    write_file(path / "model.json", seal(document))


def read_run(path: Path) -> Run:
    """Open a run. Its other files are verified when they are read. Raises ModelError."""
    document = unseal(path / "model.json", "finished run", SCHEMA)
    where = str(path / "model.json")
    table = checked_table(document, where)
    document = {k: v for k, v in document.items() if k not in ("schema", "files")}
    document["input"] = read_record(InputSpec, document.get("input"), f"{where}: input", ModelError)
    document["output"] = read_record(OutputSpec, document.get("output"), f"{where}: output", ModelError)
    return Run(path, read_record(RunManifest, document, where, ModelError), table)
