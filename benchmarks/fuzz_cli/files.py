"""Cases with corrupted files: manifests, runs, data sets, YAML, labels, arrays and models."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzz_cli.material import Case, Place
from sightline.files import file_table, seal
from sightline.npz import pack

# replacements for a value in a document
STRANGE: list[Any] = [
    None, True, -1, 0, 1e308, float("inf"), float("nan"), 10**30, "", "x" * 3000, "\ud800", "a\0b", "../../etc/passwd",
    "/", [], {}, [[[]]], [1, "a"], {"a": []}, ["x"] * 3, "nan", "\x1b[31m", 2**31, -(2**63), 0.5, [None],
    functools.reduce(lambda inner, _: [inner], range(300), "deep"),
]  # fmt: skip
Made = tuple[str, list[str], Callable[[Path], None]]


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
    document = yaml.safe_load((Path(__file__).parents[2] / "device_configs" / "desktop.yaml").read_text())
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
