"""What users hand over by mistake: each is one clear line, exit code 2, and nothing left behind."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.convert import ConvertOptions, convert
from converters.sources.base import ModelOptions
from sightline import cli, files
from sightline.bundle import read_bundle
from sightline.errors import InputError
from sightline.npz import pack
from tests.conftest import LABELS, SIZE
from tests.support.conversion import Calls, save_program, tree
from tests.support.fitted import labels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A float .tflite that knows every image. Read only."""
    path = tmp_path_factory.mktemp("model") / "mine.tflite"
    path.write_bytes(read_bundle(bundle).variant("float32")[1])
    return path


def two_inputs(folder: Path) -> Path:
    one = torch.zeros(1, SIZE, SIZE, 3)
    return save_program(folder / "two.pt2", Calls(lambda x, y: (x + y).mean((1, 2))), one, one)


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (two_inputs, r"two\.pt2: takes \[1, 32, 32, 3\] float32, .*\. It must take one RGB image"),
        (written("net.pt2", b"no program"), r"net\.pt2: is not a program that torch\.export saved"),
        (
            written("net.pt", b"weights"),
            r"net\.pt: not a supported model format \(weights without their code; .*\.pt2\)",
        ),
        (
            written("net.xyz", b"what"),
            r"net\.xyz: not a supported model format\. Supported are run folders, \.pt2, \.onnx",
        ),
        (written("net.keras", b"no zip"), r"net\.keras: not a Keras model: the file is no zip file"),
        (lambda folder: folder / "absent.onnx", r"absent\.onnx: no such run folder or model"),
    ],
    ids=["two inputs", "no program", "weights", "another format", "no zip", "absent"],
)
def test_a_model_that_is_none(pictures: Path, tmp_path: Path, make: Callable[[Path], Path], why: str) -> None:
    refused(tmp_path, make(tmp_path), why, data=pictures, normalization="0..255")


def refused(folder: Path, model: Path, why: str, **options: Any) -> None:
    before = tree(folder)
    with pytest.raises(InputError, match=why) as e:
        convert(model, folder / "c.bundle", ConvertOptions("desktop", model=ModelOptions(**options)))
    assert e.value.exit_code == 2
    assert "\n" not in str(e.value)
    assert tree(folder) == before


def test_a_cut_tflite(model: Path, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(model.read_bytes()[:-200])
    refused(tmp_path, path, r"cut\.tflite: (not a \.tflite file|LiteRT cannot load it)", data=pictures,
            normalization="0..255")  # fmt: skip


def test_an_int8_tflite(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "int8.tflite"
    path.write_bytes(read_bundle(bundle).variant("static_int8")[1])
    refused(tmp_path, path, r"int8\.tflite: is quantized already", data=pictures, normalization="0..255")


@pytest.mark.parametrize(
    ("normalization", "why"),
    [
        (None, r"Pass --normalization: one of 0\.\.255, 0\.\.1, -1\.\.1, imagenet, or MEAN/STD"),
        ("0-255", r"--normalization '0-255': .*\. Pass one of 0\.\.255"),
        ("127.5/0", r"--normalization '127\.5/0'"),
        ("1,2/3", r"--normalization '1,2/3'"),
    ],
)
def test_a_normalization_that_is_missing_or_garbled(
    model: Path, pictures: Path, tmp_path: Path, normalization: str | None, why: str
) -> None:
    refused(tmp_path, model, why, data=pictures, normalization=normalization)


def test_no_images(model: Path, tmp_path: Path) -> None:
    refused(tmp_path, model, r"Cannot measure accuracy without images\. Pass --data DIR \(labelled\)",
            normalization="0..255")  # fmt: skip


@pytest.mark.parametrize("names", [LABELS[:2], (*LABELS, "background")], ids=["too few", "too many"])
def test_a_file_of_labels_with_another_count(
    model: Path, pictures: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    file = labels(tmp_path / "labels.txt", names)
    refused(tmp_path, model, rf"gives 3 scores, but .*labels\.txt has {len(names)} classes", labels=file,
            calibration=pictures, normalization="0..255")  # fmt: skip


def test_calibration_of_the_wrong_kind(model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no picture")
    (tmp_path / "floats.npz").write_bytes(pack(frames=np.zeros((4, SIZE, SIZE, 3), np.float32)))
    for name, why in (
        ("texts", r"texts: no images to calibrate with"),
        ("floats.npz", r"floats\.npz: frames must be uint8 .*, not float32"),
        ("absent", r"absent: no such folder of calibration images"),
    ):
        refused(tmp_path, model, why, data=pictures, calibration=tmp_path / name, normalization="0..255")


def test_a_corrupt_image_is_named(model: Path, pictures: Path, tmp_path: Path) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    bad = data / "red" / "003.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(InputError, match=r"data/red/003\.png: "):
        convert(
            model,
            tmp_path / "c.bundle",
            ConvertOptions("desktop", model=ModelOptions(data=data, normalization="0..255")),
        )
    assert not (tmp_path / "c.bundle").exists()


def test_a_disk_that_is_full_leaves_nothing(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second file of the bundle no longer fits."""
    calls = []

    def full(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    code, stderr = command(
        monkeypatch, capsys, model, "--data", pictures, "--normalization", "0..255", "--out", tmp_path / "c.bundle"
    )
    assert len(calls) >= 2
    assert code == 3, stderr  # it is the machine that failed
    assert "No space left on device" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert not any(tmp_path.iterdir())


def test_the_command_prints_one_line(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = command(monkeypatch, capsys, model, "--data", pictures, "--out", tmp_path / "c.bundle")
    assert code == 2
    (line,) = stderr.splitlines()
    assert line.startswith("error: ") and "--normalization" in line
    assert not any(tmp_path.iterdir())


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[Any, str]:
    """(exit code, stderr) of `sightline convert --device desktop`, in this process."""
    monkeypatch.setattr("sys.argv", ["sightline", "convert", "--device", "desktop", *map(str, arguments)])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return e.value.code, capsys.readouterr().err
