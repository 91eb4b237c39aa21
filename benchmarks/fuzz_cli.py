"""Bad input for the whole command line: `python -m benchmarks.fuzz_cli [--seed 0] [--cases 1200]`.

Every option of every command in the click tree gets every wrong value of its kind. Files that people and programs
write (manifests, runs, data sets, YAML, labels, arrays, models) get their values replaced, cut and mixed up. The seed
selects `--cases` of these cases. Each runs through the real entry point in a forked process of a user without rights,
with limits of time and memory. It prints one JSON line: how often each exit code occurred, and how many cases were
faults (a traceback, exit code 1, a signal, a hang). Each fault is printed with the command that reproduces it, and
then the exit code is 1.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import ctypes
import functools
import importlib
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from benchmarks.agent import show
from sightline import cli
from sightline.files import file_table, seal
from sightline.npz import pack
from sightline.options import PathName

LIMIT_S = 25.0  # time limit of a case
HEAVY_S = 150.0  # time limit of a command in HEAVY, on a busy machine
STOP_S = 10.0  # after Ctrl-C, for a command in LASTING
MEMORY = 8 << 30  # bytes of address space for a case
NOBODY = 47113  # a user id without an entry in passwd, so without a home
HEAVY = ("train", "convert", "evaluate")  # these import PyTorch
LASTING = ("run", "serve-web", "train", "bench", "service", "deploy")  # these run on with good input


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


TEXTS = [
    "", " ", "x" * 5000, "\udcff", "é" * 300, "a\nb", "${NOPE}", "${", "://", "https://[x", "http://", "mqtt://[::1",
    "mqtt://127.0.0.1:99999", "rtsp://127.0.0.1:x/", "rtsp://127.0.0.1:1/\x7f", "-1", "nan", "%s%n", "../..", "a=b",
    "=", "\x1b[31m", "[", "0", "9" * 5000, "٣", "a: b", "fox>=nan for 2s", "fox>=0.5 for 1e400s", "fox>=0.5 for -1s",
    "door: 0,0 1,nan 1,1", "door: 0,0 1,1", "--", "/dev/video999", "test:9999999x9999999", "test:-1x0", "1" * 25,
    "http://user:p ss@127.0.0.1:1/", "Authorization: \n x", "no-colon", "::", "127.0.0.1", "256.0.0.1", "٢.yaml",
    "/etc/passwd", "a@b@c", "-oProxyCommand=x", "user@", "picamera:x", "file:///etc/passwd", "\ufeff", "\u202e",
]  # fmt: skip
NUMBERS = ["nan", "inf", "-inf", "1e400", "1e-320", "-1", "1e300", "", "x", "1,5", "0x10", "٣", "9" * 5000, "\udcff"]
WHOLES = [*NUMBERS, "-0", "1.5", "99999999999999999999", "2147483648", "1_0"]
# replacements for a value in a document
STRANGE: list[Any] = [
    None, True, -1, 0, 1e308, float("inf"), float("nan"), 10**30, "", "x" * 3000, "\ud800", "a\0b", "../../etc/passwd",
    "/", [], {}, [[[]]], [1, "a"], {"a": []}, ["x"] * 3, "nan", "\x1b[31m", 2**31, -(2**63), 0.5, [None],
    functools.reduce(lambda inner, _: [inner], range(300), "deep"),
]  # fmt: skip


def make(root: Path) -> None:
    """Make a data set, a run and a bundle of a small model for three colours."""
    from benchmarks.support.colour_net import ColourNet
    from benchmarks.support.colours import SIZE, write_coloured
    from converters.convert import convert
    from sightline.data.classification import read_class_folders
    from sightline.preprocess import InputSpec
    from trainer.export import export_run

    images = write_coloured(root / "colours", 8)
    recipe = {"arch": "resnet18", "batch": 8, "augment": "none", "flip": False, "seed": 0}
    export_run(
        root / "colour-run", ColourNet(), read_class_folders(images), InputSpec(SIZE, SIZE), name="colours",
        metrics={"accuracy": 1.0}, provenance={"seed": 0, "recipe": recipe},
    )  # fmt: skip
    convert(root / "colour-run", root / "colours.bundle", device="desktop", schemes=("static_int8", "float32"))


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


def base(place: Place) -> dict[str, list[str]]:
    """Valid arguments for each command, with which it ends soon."""
    bundle, run, images = str(place.bundle), str(place.run), str(place.images)
    train = [
        "--epochs",
        "1",
        "--weights",
        "none",
        "--image-size",
        "32",
        "--batch",
        "8",
        "--arch",
        "resnet18",
        "--out",
        "new",
    ]
    return {
        "train": [images, *train, "--out", "new"],
        "convert": [run, "--device", "desktop", "--out", "new.bundle"],
        "inspect": [bundle],
        "evaluate": [bundle, images],
        "run": [bundle, "--source", str(place.clip), "--frames", "2", "--no-page"],
        "bench": [bundle, "--seconds", "0.1", "--noise", "1000"],
        "service show": [bundle, "--", "--source", "0"],
        "service install": [bundle, "--root", "image", "--", "--source", "0"],
        "service uninstall": ["colours", "--root", "image"],
        "deploy": [bundle, "--to", "pi@127.0.0.1"],
        "export-web": [bundle, "--out", "site"],
        "serve-web": ["site", "--http", "--port", "0", "--address", "127.0.0.1"],
        "devices": [],
    }


def commands() -> dict[str, click.Command]:
    """{words: command} of all commands without subcommands."""
    leaves: dict[str, click.Command] = {}

    def walk(group: click.Group, words: tuple[str, ...]) -> None:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                walk(command, (*words, name))
            else:
                leaves[" ".join((*words, name))] = command

    walk(cli.cli, ())  # type: ignore[arg-type]
    return leaves


def values(param: click.Parameter, place: Place) -> list[tuple[str, str]]:
    """(description, value) pairs. All values are wrong for this kind or at its limit."""
    kind = param.type
    if isinstance(kind, PathName | click.Path):
        return list(place.special.items())
    if isinstance(kind, click.IntRange) or kind is click.INT:
        return [(v, v) for v in WHOLES]
    if isinstance(kind, click.FloatRange) or kind is click.FLOAT:
        return [(v, v) for v in NUMBERS]
    if isinstance(kind, click.Choice):
        return [(v, v) for v in ("", "x", "\udcff", "X" * 5000)]
    return [(v, v) for v in TEXTS] + [(k, v) for k, v in place.special.items() if len(v) < 5000]


def option_cases(place: Place, names: Iterable[str]) -> Iterator[Case]:
    good, tree = base(place), commands()
    assert set(good) == set(tree), set(good) ^ set(tree)
    for name in names:
        words = good[name]
        for param in tree[name].params:
            for description, value in values(param, place):
                title = f"{name}: {param.human_readable_name} = {description[:40]!r}"
                if isinstance(param, click.Option) and not param.is_flag:
                    cut = words.index("--") if "--" in words else len(words)
                    option = max(param.opts, key=len)
                    yield Case(title, [*name.split(), *words[:cut], f"{option}={value}", *words[cut:]])
                elif isinstance(param, click.Argument) and param.nargs == 1:
                    yield Case(title, [*name.split(), value, *words[1:]])
                    if name == "evaluate":
                        yield Case(title, [*name.split(), words[0], value])
                elif isinstance(param, click.Argument):
                    yield Case(title, [*name.split(), *words, value])
                elif isinstance(param, click.Option):
                    yield Case(title, [*name.split(), *words, f"{param.opts[0]}={value}"])
                    break
            if isinstance(param, click.Option) and param.is_flag:
                yield Case(f"{name}: {param.opts[0]}", [*name.split(), *words, param.opts[0]])
        yield Case(f"{name}: nothing", name.split())
        yield Case(f"{name}: help", [*name.split(), "--help"])
        yield Case(f"{name}: no home", [*name.split(), *words], environment={"HOME": None})
        if name == "run":
            for more in (["--mqtt", "mqtt://127.0.0.1:1"], ["--new-page-token", "--page", "--page-port", "0"]):
                yield Case(f"run: no home, {more[0]}", [name, *words, *more], environment={"HOME": None})
    for text in TEXTS:
        yield Case(f"command {text[:40]!r}", [text])


def replace_value(document: Any, rng: random.Random) -> Any:
    """A copy of the document with one value or key replaced or removed."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(document)
    node, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[rng.choice(["", "x" * 300, "\0", "sealed", "on"])] = node.pop(key)
        case _:
            node[key] = copy.deepcopy(rng.choice(STRANGE))
    return document


def corrupt_bytes(data: bytes, rng: random.Random) -> bytes:
    """The data with bytes cut off, inserted, flipped or moved, or in another encoding."""
    where = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            return data[:where]
        case 1:
            return data[:where] + rng.randbytes(rng.choice([1, 4, 300])) + data[where:]
        case 2:
            changed = bytearray(data)
            for _ in range(rng.choice([1, 8, 64])):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 3:
            return data[where:] + data[:where]
        case 4:
            return data.decode("latin-1").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
        case _:
            return data[:where] + rng.choice([b"[", b"{", b"\0", b"\xff", b"&a *a", b"\n"]) * rng.choice([1, 5000])


def file_cases(place: Place, rng: random.Random, *, heavy: bool) -> Iterator[Case]:
    """Endless cases: one kind of file after the other, each time corrupted in another way."""
    makers = [_manifest, _agent_yaml, _device_yaml, _inventory, _boxes, _boxes, _boxes, _env_file, _tflite, _golden]
    if heavy:
        makers += [_run_folder, _run_folder, _heldout, _labels, _calibration, _class_folders, _program]
    while True:
        for maker in makers:
            seed = rng.getrandbits(40)
            title, words, prepare = maker(place, random.Random(seed))
            yield Case(f"{title} (seed {seed})", words, prepare)


Made = tuple[str, list[str], Callable[[Path], None]]


def _sealed(document: dict[str, Any]) -> bytes:
    """Seal a document, so that its hash is right whatever it holds."""
    try:
        return seal(document)
    except (ValueError, RecursionError):
        return json.dumps(document).encode()


def _folder(source: Path, name: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        shutil.copytree(source, folder / name)
        change(folder / name)

    return prepare


def _resealed(path: Path, rng: random.Random, change: Callable[[dict[str, Any]], Any]) -> None:
    path.write_bytes(_sealed(change(json.loads(path.read_bytes()))))


def _manifest(place: Place, rng: random.Random) -> Made:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        if rng.random() < 0.2:
            path.write_bytes(corrupt_bytes(path.read_bytes(), rng))
        else:
            _resealed(path, rng, lambda document: replace_value(document, rng))

    words = rng.choice([
        ["run", "mine.bundle", "--source", str(place.clip), "--no-page", "--json"], ["inspect", "mine.bundle"],
        ["export-web", "mine.bundle", "--out", "site"], ["service", "show", "mine.bundle", "--", "--source", "0"],
        ["bench", "mine.bundle", "--seconds", "0.1", "--evidence"], ["deploy", "mine.bundle", "--to", "pi@127.0.0.1"],
    ])  # fmt: skip
    return "a manifest", words, _folder(place.bundle, "mine.bundle", change)


def _golden(place: Place, rng: random.Random) -> Made:
    def change(folder: Path) -> None:
        path = folder / "golden.npz"
        path.write_bytes(corrupt_bytes(path.read_bytes(), rng))
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest["files"] |= file_table({"golden.npz": path.read_bytes()})
        (folder / "manifest.json").write_bytes(_sealed(manifest))

    return "golden.npz", ["bench", "mine.bundle", "--seconds", "0.1"], _folder(place.bundle, "mine.bundle", change)


def _run_folder(place: Place, rng: random.Random) -> Made:
    def change(folder: Path) -> None:
        _resealed(folder / "model.json", rng, lambda document: replace_value(document, rng))

    words = rng.choice([
        ["convert", "mine", "--device", "desktop", "--out", "new.bundle"], ["evaluate", "mine", str(place.images)],
        ["train", str(place.images), "--out", "new", "--quantization-aware", "mine", "--epochs", "1"],
    ])  # fmt: skip
    return "a run", words, _folder(place.run, "mine", change)


def _heldout(place: Place, rng: random.Random) -> Made:
    def change(folder: Path) -> None:
        path = folder / "heldout.json"
        document = json.loads(path.read_bytes())
        path.write_text(json.dumps(replace_value(document, rng)))
        model = json.loads((folder / "model.json").read_bytes())
        model["files"] |= file_table({"heldout.json": path.read_bytes()})
        (folder / "model.json").write_bytes(_sealed(model))

    words = ["convert", "mine", "--device", "desktop", "--out", "new.bundle"]
    return "a run's held-out images", words, _folder(place.run, "mine", change)


def _program(place: Place, rng: random.Random) -> Made:
    data = (place.run / "model.pt2").read_bytes()
    words = ["convert", "mine.pt2", "--device", "desktop", "--out", "new.bundle", "--data", str(place.images)]
    return ".pt2", [*words, "--normalization", "0..255"], lambda f: _write(f / "mine.pt2", corrupt_bytes(data, rng))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _yaml(document: Any, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return corrupt_bytes(yaml.safe_dump(document).encode(), rng)
    changed = replace_value(document, rng)
    try:
        text = yaml.safe_dump(changed, allow_unicode=False)
    except Exception:
        text = json.dumps(changed)
    return text.encode("utf-8", "surrogatepass")


def _agent_yaml(place: Place, rng: random.Random) -> Made:
    document = {
        "cameras": {"door": {"source": "test:", "max_fps": 5, "motion": 0.5, "frozen_s": 3}, "line": {"source": 0}},
        "max_age_ms": 500,
        "options": {
            "top": 1, "threshold": 0.5, "output": "out.jsonl", "on": ["red>=0.5"], "page": False, "rotate-mb": 3,
            "mqtt-images": 5, "name": "x", "page-port": 0, "outbox": "box",
        },
    }  # fmt: skip
    words = rng.choice([
        ["run", str(place.bundle), "--config", "agent.yaml", "--frames", "2"],
        ["service", "show", str(place.bundle), "--", "--config", "agent.yaml"],
    ])  # fmt: skip
    return "agent.yaml", words, lambda f: _write(f / "agent.yaml", _yaml(document, rng))


def _device_yaml(place: Place, rng: random.Random) -> Made:
    document = yaml.safe_load((Path(__file__).parent.parent / "device_configs" / "desktop.yaml").read_text())
    words = rng.choice([
        ["run", str(place.bundle), "--device", "mine.yaml", "--source", str(place.clip), "--no-page"],
        ["inspect", str(place.bundle), "--device", "mine.yaml"],
    ])  # fmt: skip
    return "a device", words, lambda f: _write(f / "mine.yaml", _yaml(document, rng))


def _inventory(place: Place, rng: random.Random) -> Made:
    document = [{"to": "pi@127.0.0.1", "options": ["--top", "3"], "name": "a", "env_file": "x.env"}, "pi@127.0.0.2"]
    words = ["deploy", str(place.bundle), "--inventory", "devices.yaml", "--", "--source", "0"]
    return "an inventory", words, lambda f: _write(f / "devices.yaml", _yaml(document, rng))


def _env_file(place: Place, rng: random.Random) -> Made:
    data = corrupt_bytes(b"# c\nA=1\nB='x y'\nC=\"z\"\n", rng)
    words = ["run", str(place.bundle), "--source", str(place.clip), "--no-page", "--env-file", "mine.env"]
    return "an --env-file", words, lambda f: _write(f / "mine.env", data)


def _labels(place: Place, rng: random.Random) -> Made:
    data = corrupt_bytes(b"blue\ngreen\nred\n", rng)
    words = ["convert", str(place.tflite), "--device", "desktop", "--out", "new.bundle", "--normalization", "0..255"]
    words += ["--calibration", str(place.images), "--labels", "labels.txt"]
    return "labels", words, lambda f: _write(f / "labels.txt", data)


def _calibration(place: Place, rng: random.Random) -> Made:
    import numpy as np

    frames: Any = rng.choice([
        np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 32, 32, 3)), np.zeros((0, 32, 32, 3), np.uint8),
        np.array(["a"]), np.array(5, np.uint8),
    ])  # fmt: skip
    data = pack(frames=frames)
    data = data if rng.random() < 0.3 else corrupt_bytes(data, rng)
    words = ["convert", str(place.run), "--device", "desktop", "--out", "new.bundle", "--calibration", "c.npz"]
    return "calibration", words, lambda f: _write(f / "c.npz", data)


def _tflite(place: Place, rng: random.Random) -> Made:
    data = corrupt_bytes(place.tflite.read_bytes(), rng)
    return "a .tflite", ["inspect", "mine.tflite"], lambda f: _write(f / "mine.tflite", data)


def _class_folders(place: Place, rng: random.Random) -> Made:
    def change(folder: Path) -> None:
        files = sorted(folder.rglob("*.png"))
        path = rng.choice(files)
        match rng.randrange(6):
            case 0:
                path.write_bytes(corrupt_bytes(path.read_bytes(), rng))
            case 1:
                path.rename(path.with_name("caf\udce9.png"))
            case 2:
                path.parent.rename(folder / rng.choice(["caf\udce9", " x", "a\nb", "train"]))
            case 3:
                path.unlink()
                path.mkdir()
            case 4:
                path.unlink()
                os.mkfifo(path)
            case _:
                shutil.rmtree(path.parent)

    words = rng.choice([
        ["train", "data", "--out", "new", "--epochs", "1", "--weights", "none", "--arch", "resnet18", "--batch", "4",
         "--image-size", "32"],
        ["evaluate", str(place.bundle), "data"],
    ])  # fmt: skip
    return "class folders", words, _folder(place.images, "data", change)


def _boxes(place: Place, rng: random.Random) -> Made:
    kind = rng.choice(["coco", "voc", "yolo"])

    def prepare(folder: Path) -> None:
        root = folder / "data"
        (root / "images").mkdir(parents=True)
        (root / "labels").mkdir()
        files = sorted(place.images.rglob("*.png"))[:4]
        names = [f"{i}.png" for i in range(len(files))]
        for name, file in zip(names, files, strict=True):
            shutil.copy(file, root / "images" / name)
        corrupt_index = rng.randrange(len(names))
        if kind == "coco":
            document = {
                "images": [{"id": i, "file_name": n, "width": 48, "height": 40} for i, n in enumerate(names)],
                "annotations": [
                    {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 20, 20], "iscrowd": 0}
                    for i in range(len(names))
                ],
                "categories": [{"id": 1, "name": "cap"}, {"id": 2, "name": "fox"}],
            }
            text = json.dumps(replace_value(document, rng)).replace("Infinity", "1e400").encode()
            _write(root / "a.json", corrupt_bytes(text, rng) if rng.random() < 0.2 else text)
            return
        for i, name in enumerate(names):
            if kind == "voc":
                box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>"
                thing = f"<object><name>cap</name>{box}</object>"
                size = "<size><width>48</width><height>40</height></size>"
                text = f"<annotation><filename>{name}</filename>{size}{thing}</annotation>"
                head = rng.choice(["", '<?xml version="1.0" encoding="big5"?>', '<?xml version="1.0" encoding="x"?>'])
                data = (head + text).encode()
            else:
                data = b"0 0.5 0.5 0.2 0.2\n1 .3 .3 .1 .1\n"
            if i == corrupt_index:
                data = corrupt_bytes(data, rng)
                data = data.replace(b"20", rng.choice([b"nan", b"1e400", b"9" * 5000, b"20"]), 1)
            _write(root / ("images" if kind == "voc" else "labels") / f"{i}.{'xml' if kind == 'voc' else 'txt'}", data)
        if kind == "yolo":
            document = {"path": ".", "train": "images", "val": "images", "names": {0: "cap", 1: "fox"}}
            _write(root / "data.yaml", _yaml(document, rng))
        elif rng.random() < 0.3:
            (root / "ImageSets" / "Main").mkdir(parents=True)
            _write(root / "ImageSets" / "Main" / "train.txt", corrupt_bytes(b"0\n1\n2\n", rng))

    return f"boxes of {kind}", ["inspect", "data", *rng.choice([[], ["--format", kind], ["--sheet", "s.png"]])], prepare


class Outcome(NamedTuple):
    """The result of a case.

    code: exit code, or minus the signal.
    fault: what is wrong; '' = nothing, a clear error included.
    output: stdout and stderr.
    """

    code: int
    fault: str
    output: str


def execute(case: Case, place: Place, folder: Path) -> Outcome:
    """Run one case in a process of its own."""
    folder.mkdir()
    case.prepare(folder)
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.lchown(path, NOBODY, NOBODY)
    output = folder.with_name(folder.name + ".output")
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(case, place, folder, output)
    command = case.arguments[0] if case.arguments else ""
    limit_s = HEAVY_S if command in HEAVY else LIMIT_S
    code, hung = _wait(pid, began + limit_s, command in LASTING)
    text = output.read_bytes().decode(errors="replace") if output.exists() else ""
    if hung:
        fault = f"not finished after {limit_s:g} s"
    elif code < 0:
        fault = f"ended by signal {-code}"
    elif "Traceback" in text or "internal error" in text:
        fault = "an internal error"
    elif code not in (0, 2, 3, 130):
        fault = f"exit code {code}"
    elif code and not text.strip():
        fault = "no message"
    else:
        fault = ""
    return Outcome(code, fault, text)


def _become(case: Case, place: Place, folder: Path, output: Path) -> None:
    """The forked process. It never returns."""
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(handle, number)
        for stream in ("stdin", "stdout", "stderr"):
            setattr(sys, stream, None)
        # as Python opens them at its start
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        home = folder / "home"
        home.mkdir()
        if os.geteuid() == 0:
            os.chown(home, NOBODY, NOBODY)
            _give_up_rights()
        os.environ |= {
            "HOME": str(home), "TMPDIR": str(home), "PATH": f"{place.root / 'bin'}:/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parent.parent), "HF_HUB_OFFLINE": "1", "COLUMNS": "120",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        tempfile.tempdir = str(home)
        for name, value in case.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        sys.argv = ["sightline", *case.arguments]
        sys.orig_argv = [sys.executable, "-m", "sightline", *case.arguments]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with open(os.devnull, "w"):  # noqa: PTH123
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _give_up_rights() -> None:
    """Become a user who may write only to the case's folder. If this Python lies in a folder that only root may enter,
    the user may still read everything."""
    os.setgroups([])
    closed = any(not path.stat().st_mode & 0o001 for path in Path(sys.base_prefix).parents)
    libc = ctypes.CDLL(None)
    if closed:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if closed:  # CAP_DAC_READ_SEARCH for this process and its children (PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE)
        header, one = (ctypes.c_uint32 * 2)(0x20080522, 0), 1 << 2
        libc.capset(header, (ctypes.c_uint32 * 6)(one, one, one, 0, 0, 0))
        libc.prctl(47, 2, 2, 0, 0)


def _wait(pid: int, end: float, lasting: bool) -> tuple[int, bool]:
    """Wait for the process. Returns (exit code or minus the signal, whether it hung).

    end: monotonic time of its limit.
    lasting: it may run until then, and must exit after Ctrl-C.
    """
    handle = os.pidfd_open(pid)
    try:
        hung = False
        if not select.select([handle], [], [], max(0.0, end - time.monotonic()))[0]:
            os.kill(pid, signal.SIGINT)
            hung = not select.select([handle], [], [], STOP_S if lasting else 0)[0] or not lasting
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), hung
    finally:
        os.close(handle)


def choose(place: Place, seed: int, number: int, *, heavy: bool, only: str = "") -> list[Case]:
    """The cases of a seed: two thirds with bad options, one third with bad files."""
    rng = random.Random(seed)
    names = [n for n in base(place) if heavy or n.split()[0] not in HEAVY]
    options = [c for c in option_cases(place, names) if c.title.startswith(only)]
    rng.shuffle(options)
    half = min(len(options), max(1, number * 2 // 3))
    files = file_cases(place, rng, heavy=heavy)
    if only:
        return options[:number]
    return options[:half] + [next(files) for _ in range(number - half)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1200)
    parser.add_argument("--light", action="store_true", help="Run only commands that need no PyTorch.")
    parser.add_argument(
        "--only", default="", help="Run only cases of options whose title begins with this, such as 'run: --source'."
    )
    parser.add_argument(
        "--bundle", type=Path, help="Use this bundle, and those of --run and --images, instead of new ones."
    )
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sightline-fuzz-") as name:
        root = Path(name)
        root.chmod(0o755)
        if options.bundle:
            fixtures = {"colours.bundle": options.bundle, "colour-run": options.run, "colours": options.images}
            for target, source in fixtures.items():
                shutil.copytree(source, root / target)
        else:  # in a process of its own: a fork does not copy JAX's threads
            subprocess.run([sys.executable, "-m", "benchmarks.fuzz_cli", "--make", name], check=True)
        place = add_special_files(root)
        (root / "cases").mkdir()
        (root / "cases").chmod(0o777)
        cases = choose(place, options.seed, options.cases, heavy=not options.light, only=options.only)
        _preload(options.light)
        codes: collections.Counter[int] = collections.Counter()
        faults: collections.Counter[str] = collections.Counter()
        for i, case in enumerate(cases):
            started = time.monotonic()
            outcome = execute(case, place, root / "cases" / str(i))
            codes[outcome.code] += 1
            if options.verbose:
                print(f"{time.monotonic() - started:6.2f} s {outcome.code:4} {case.title}: {outcome.output[-200:]!r}")
            if outcome.fault:
                faults[outcome.fault] += 1
                words = " ".join(repr(a) if len(a) < 200 else f"'{a[:20]}...' ({len(a)})" for a in case.arguments)
                print(
                    f"{outcome.fault}: {case.title}\n  sightline {words}\n  {outcome.output[-1500:].strip()}",
                    flush=True,
                )
            shutil.rmtree(root / "cases" / str(i), ignore_errors=True)
        show(
            "fuzz_cli", seed=options.seed, cases=len(cases), faults=sum(faults.values()), kinds=dict(faults),
            exit_codes={str(k): n for k, n in sorted(codes.items())}, seconds=round(time.monotonic() - began),
        )  # fmt: skip
    sys.exit(1 if faults else 0)


def _preload(light: bool) -> None:
    """Import the modules that every forked process would import again."""
    names = ["sqlite3", "ssl", "edge.app.run", "edge.outputs.factory", "edge.outputs.outbox"]
    names += ["edge.cli.service", "edge.cli.deploy"]
    names += (
        []
        if light
        else ["converters.convert", "converters.evaluate.evaluate", "converters.sources.from_torch", "trainer.train"]
    )
    for name in names:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
