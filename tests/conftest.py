"""What most tests stand on: a data set of coloured pictures, a model that reads colours exactly, and their bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.support.colours import BGR as BGR
from benchmarks.support.colours import LABELS, SIZE, coloured, write_coloured
from benchmarks.support.needs import need as need


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-folder data set, 3 classes of 20. Read only."""
    return write_coloured(tmp_path_factory.mktemp("data") / "colours", 20)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A finished run of a convolutional model whose weights are written by hand: right on every picture. Read only."""
    from benchmarks.support.colour_net import ColourNet
    from sightline.data.classification import read_class_folders
    from sightline.preprocess import InputSpec
    from trainer.export import export_run

    path = tmp_path_factory.mktemp("run") / "colours"
    export_run(
        path,
        ColourNet(),
        read_class_folders(pictures),
        InputSpec(SIZE, SIZE),
        metrics={"accuracy": 1.0},
        provenance={},
    )
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """Its bundle for the desktop, with the variants static_int8 (default) and float32. Read only: copy to change it."""
    from converters.convert import ConvertOptions, convert

    path = tmp_path_factory.mktemp("bundle") / "colours.bundle"
    convert(run_folder, path, ConvertOptions("desktop", schemes=("static_int8", "float32")))
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, 160x120, 30 a second: 20 blue, 20 green, 20 red."""
    path = tmp_path_factory.mktemp("clip") / "camera.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 30, (160, 120))
    rng = np.random.default_rng(1)
    for label in LABELS:
        for _ in range(20):
            writer.write(coloured(label, rng, 160, 120))
    writer.release()
    return path


SPOT = 16  # pixels of a side
SPOT_BGR = {"blue": (230, 30, 30), "red": (30, 30, 230)}


def write_spots(root: Path, train: int, val: int, seed: int = 0) -> Path:
    """Pictures of 64x64 with up to three red and blue squares, whose middles are those of cells of stride 8, in COCO's
    form: root/train and root/val."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", val)):
        (root / part).mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            picture = rng.normal(90, 6, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            corners = [(x, y) for x in (4, 36) for y in (4, 36)]
            for x, y in rng.permutation(corners)[: int(rng.integers(1, 4))].tolist():
                label = int(rng.integers(2))
                picture[y : y + SPOT, x : x + SPOT] = list(SPOT_BGR.values())[label]
                box = {"id": len(annotations), "image_id": i, "category_id": label, "bbox": [x, y, SPOT, SPOT]}
                annotations.append(box)
            cv2.imwrite(str(root / part / f"{i:03}.png"), picture)
            images.append({"id": i, "file_name": f"{i:03}.png", "width": 64, "height": 64})
        categories = [{"id": k, "name": name} for k, name in enumerate(SPOT_BGR)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / part / "_annotations.coco.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="session")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detection data set, 24 + 12 pictures. Read only."""
    return write_spots(tmp_path_factory.mktemp("data") / "spots", 24, 12)


@pytest.fixture(scope="session")
def spots_run(tmp_path_factory: pytest.TempPathFactory, spots: Path) -> Path:
    """A finished run of a detector whose weights are written by hand. Read only."""
    from tests.support.models import SpotNet

    return export_spots(tmp_path_factory.mktemp("run") / "spots", spots, SpotNet("blue, red", doubt=13))


def export_spots(path: Path, data: Path, model: Any) -> Path:
    from sightline.data.detection import read_boxes
    from sightline.output_spec import OutputSpec
    from sightline.preprocess import InputSpec
    from trainer.export import export_run

    output = OutputSpec("detect", "sigmoid", tuple(SPOT_BGR), (8, 16), 0.5)
    export_run(path, model, read_boxes(data), InputSpec(64, 64), metrics={}, provenance={}, output=output)
    return path


Sightline = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def sightline() -> Sightline:
    """Runs the command line in a process of its own, as a user does: sightline("run", path, "--json")."""

    def call(*arguments: object, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sightline", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)

    return call


def pytest_configure() -> None:
    """Several test processes share the cores: PyTorch's threads would wait for each other, and burn them meanwhile."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the folders: deploy first, for its one file takes longest, and mostly waits. Then training, before
    conversion: its workers are forked, and a fork does not survive the threads of JAX, which conversion imports. Then
    what waits for emulators and browsers."""
    order = {name: i for i, name in enumerate(("deploy", "training", "pi", "web_export"))}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))
