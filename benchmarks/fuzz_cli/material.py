"""What the cases are made of: a data set, a run, a bundle, a clip, and paths that are no regular file."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """The material of the cases. They cannot write to it.

    bundle, run, images, clip, tflite: valid inputs.
    special: {description: path} of paths that are no regular file.
    """

    root: Path
    bundle: Path
    run: Path
    images: Path
    clip: Path
    tflite: Path
    special: dict[str, str]


@dataclass(frozen=True)
class Case:
    """One command line.

    prepare: makes files in the case's own folder, in which the command runs.
    environment: changed variables; None = removed.
    """

    title: str
    arguments: list[str]
    prepare: Callable[[Path], None] = lambda folder: None
    environment: dict[str, str | None] = field(default_factory=dict)


def make(root: Path) -> None:
    """Make a data set, a run and a bundle of a small model for three colours."""
    from benchmarks.support.colour_net import ColourNet
    from benchmarks.support.colours import SIZE, write_coloured
    from converters.convert import ConvertOptions, convert
    from sightline.data.classification import read_class_folders
    from sightline.preprocess import InputSpec
    from trainer.export import export_run

    images = write_coloured(root / "colours", 8)
    recipe = {"arch": "resnet18", "batch": 8, "augment": "none", "flip": False, "seed": 0}
    export_run(
        root / "colour-run", ColourNet(), read_class_folders(images), InputSpec(SIZE, SIZE),
        metrics={"accuracy": 1.0}, provenance={"recipe": recipe},
    )  # fmt: skip
    convert(root / "colour-run", root / "colours.bundle", ConvertOptions("desktop", schemes=("static_int8", "float32")))


def add_special_files(root: Path) -> Place:
    """Add a clip, and paths that are no regular file."""
    import cv2
    import numpy as np

    from sightline.bundle import read_bundle

    bundle, run, images = root / "colours.bundle", root / "colour-run", root / "colours"
    tflite, clip = root / "colours.tflite", root / "clip.mp4"
    tflite.write_bytes(read_bundle(bundle).variant("float32")[1])
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"mp4v"), 30, (64, 48))
    for shade in range(5):
        writer.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    writer.release()
    special = {
        "nothing": "absent", "a name too long": "x" * 300, "almost too long": "x" * 250, "a path too long": "x/" * 5000,
        "no UTF-8": "caf\udce9", "empty": "", "the root": "/", "here": ".", "/dev/null": "/dev/null",
        "/dev/zero": "/dev/zero", "below a file": "/etc/passwd/x",
    }  # fmt: skip
    kinds = root / "special"
    kinds.mkdir()
    os.mkfifo(kinds / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(kinds / "socket"))
    (kinds / "loop").symlink_to(kinds / "loop")
    (kinds / "closed").mkdir(mode=0o700)
    (kinds / "closed" / "file.yaml").write_text("x")
    (kinds / "secret.yaml").write_text("x")
    (kinds / "secret.yaml").chmod(0o600)
    (kinds / "folder.yaml").mkdir()
    (kinds / "nothing.yaml").write_bytes(b"")
    (kinds / "noise.yaml").write_bytes(random.Random(0).randbytes(5000))
    (kinds / "deep.yaml").write_text("[" * 100_000)
    (kinds / "text.tflite").write_text("no model")
    (kinds / "nested.json").write_text("[" * 200_000)
    (kinds / "folder.bundle").mkdir()
    names = [p.name for p in kinds.iterdir()]
    special |= {name: str(kinds / name) for name in names} | {"closed/file": str(kinds / "closed" / "file.yaml")}
    stubs = root / "bin"
    stubs.mkdir()
    for name in (
        "ssh",
        "scp",
        "sudo",
        "systemctl",
        "uv",
    ):  # no case may reach another machine or this machine's services
        (stubs / name).write_text("#!/bin/sh\necho refused >&2\nexit 255\n")
        (stubs / name).chmod(0o755)
    return Place(root, bundle, run, images, clip, tflite, special)
