"""Runs as sources: data sets that moved, damaged files, and other calibration images."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from converters.convert import ConvertOptions, convert
from converters.evaluate.acceptance import Limits
from converters.sources.base import ModelOptions
from converters.sources.open import open_source
from sightline.bundle import read_bundle
from sightline.data.classification import read_class_folders
from sightline.errors import DataError, InputError, IntegrityError, ModelError
from sightline.files import file_table
from sightline.npz import pack, unpack
from sightline.preprocess import InputSpec
from sightline.run_folder import read_run
from tests.conftest import SIZE, write_coloured
from tests.support.conversion import rewrite, tree
from tests.support.models import ColourNet
from trainer.export import export_run


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    """A run, and its images, which are no longer where they were."""
    data = write_coloured(tmp_path / "before" / "colours", 5)
    export_run(
        tmp_path / "run", ColourNet(), read_class_folders(data), InputSpec(SIZE, SIZE),
        metrics={}, provenance={},
    )  # fmt: skip
    return tmp_path / "run", data.parent.rename(tmp_path / "after") / "colours"


def test_a_data_set_that_moved_is_asked_for_and_taken(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = moved
    with pytest.raises(DataError, match=r"before/colours: 3 of the 3 held-out images of .*run .*with --data DIR"):
        open_source(run, ModelOptions())
    source = open_source(run, ModelOptions(data=data))
    assert [path.is_file() for path, _ in source.heldout] == [True] * 3
    (data / source.heldout[0][0].relative_to(data)).unlink()
    with pytest.raises(DataError, match="1 of the 3 held-out images"):
        open_source(run, ModelOptions(data=data))


def test_a_corrupt_held_out_image_is_refused_by_name(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = moved
    bad = open_source(run, ModelOptions(data=data)).heldout[1][0]
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(DataError, match=str(bad)):
        convert(run, tmp_path / "c.bundle", ConvertOptions("desktop", model=ModelOptions(data=data)))
    assert not (tmp_path / "c.bundle").exists()


def test_a_run_knows_its_own_resize(run_folder: Path) -> None:
    with pytest.raises(InputError, match=r"a run states its resize itself\. Leave --resize out"):
        open_source(run_folder, ModelOptions(resize="stretch"))


@pytest.mark.parametrize("name", ["model.pt2", "calibration.npz", "golden.npz", "heldout.json", "model.json"])
def test_one_flipped_bit_in_a_run_is_refused_by_the_files_name(run_folder: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    with pytest.raises(IntegrityError, match=name):
        open_source(run, ModelOptions())


@pytest.mark.parametrize("name", ["model.pt2", "calibration.npz", "golden.npz", "heldout.json", "model.json"])
def test_a_run_that_lacks_a_file_is_refused_by_its_name(run_folder: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(ModelError, match=name):
        open_source(run, ModelOptions())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d: d.update(schema=3), r"written by a newer Sightline \(schema 3"),
        (lambda d: d.update(schema=1), r"written by an older Sightline \(schema 1.*Make the finished run again"),
        (lambda d: d.update(verion="1"), r"unknown key 'verion' \(did you mean version\?\)"),
        (lambda d: d["input"].update(size=3), "input: unknown key 'size'"),
        (lambda d: d["output"].pop("activation"), "output: missing key 'activation'"),
        (lambda d: d["output"].update(labels=["a", "a"]), "two classes have the same label"),
        (lambda d: d.pop("output"), "output: a mapping of keys to values is needed"),
        (lambda d: d["files"].update({"../model.pt2": d["files"]["model.pt2"]}), "is not the plain name of a file"),
        (lambda d: d["files"].pop("golden.npz"), r"does not list 'golden\.npz'"),
    ],
)
def test_a_run_that_is_not_understood_to_the_last_key_is_refused(
    run_folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    rewrite(run, change)
    with pytest.raises(ModelError, match=why):
        open_source(run, ModelOptions())


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["output"]["labels"].append("yellow"),
        lambda d: d["output"]["labels"].pop(),
        lambda d: d["input"].update(width=SIZE * 2),
    ],
    ids=["a label too many", "a label too few", "another size"],
)
def test_a_run_whose_program_differs_from_its_manifest_is_refused(
    run_folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """A run of somebody's own may be wrong in this; the agent would refuse the bundle, on the device, too late."""
    run = shutil.copytree(run_folder, tmp_path / "run")
    rewrite(run, change)
    with pytest.raises(ModelError):
        convert(run, tmp_path / "c.bundle", ConvertOptions("desktop"))
    assert not (tmp_path / "c.bundle").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "heldout.json: is damaged"),
        (b"[" * 100_000, "it is nested too deep"),
        (b'{"root": 5, "files": []}', "heldout.json: is damaged"),
        (b'{"root": "/data", "files": 5}', "heldout.json: is damaged"),
        (b'{"root": "/data", "files": [["../../etc/passwd", 0]]}', "'../../etc/passwd', leads out of"),
        (b'{"root": "/data", "files": [["/etc/passwd", 0]]}', "'/etc/passwd', leads out of"),
        (b'{"root": "/data", "files": [["a.png", 3]]}', "file 1: must have one of 3 classes"),
        (b'{"root": "/data", "files": [["a.png", "x"]]}', "file 1: must have one of 3 classes"),
        (b'{"root": "/data", "files": [["a.png", [[0, 1, 2, NaN, 4]]]]}', "file 1: must have one of 3 classes"),
        (b'{"root": "/data", "files": [["a.png", [[0, 1, 2]]]]}', "file 1: must have one of 3 classes"),
        (b'{"root": "/data", "files": [["a.png", 0], ["b.png", [[0, 1, 2, 3, 4]]]]}', "file 2: must have one of 3"),
    ],
)
def test_held_out_images_that_are_none_are_refused(run_folder: Path, tmp_path: Path, content: bytes, why: str) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    (run / "heldout.json").write_bytes(content)
    rewrite(run, lambda d: d["files"].update(file_table({"heldout.json": content})))
    with pytest.raises(ModelError, match=why):
        read_run(run).heldout()


@pytest.mark.slow
def test_other_images_calibrate_when_they_are_passed(run_folder: Path, pictures: Path, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    (tmp_path / "c.npz").write_bytes(pack(frames=frames))
    assert np.array_equal(open_source(run_folder, ModelOptions(calibration=tmp_path / "c.npz")).calibration, frames)
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "folder" / "deeper" / f"{i}.PNG"), frame)
    actual = open_source(run_folder, ModelOptions(calibration=tmp_path / "folder")).calibration
    assert np.array_equal(actual, frames[:, :, :, ::-1])
    usual = open_source(run_folder, ModelOptions()).calibration
    assert usual.shape == (48, SIZE, SIZE, 3)


@pytest.mark.slow
def test_calibration_decides_the_scales(run_folder: Path, bundle: Path, tmp_path: Path) -> None:
    """Pictures that hardly excite the model give finer scales, in which real ones do not fit."""
    (tmp_path / "c.npz").write_bytes(pack(frames=np.full((2, SIZE, SIZE, 3), 60, np.uint8)))
    convert(
        run_folder,
        tmp_path / "c.bundle",
        ConvertOptions("desktop", model=ModelOptions(calibration=tmp_path / "c.npz"), limits=Limits(60, 100, 0)),
    )
    contents = read_bundle(tmp_path / "c.bundle")
    assert contents.variant()[1] != read_bundle(bundle).variant()[1]
    assert unpack(contents.contents["golden.npz"], "golden.npz")["frames"].shape == (12, SIZE, SIZE, 3)


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, SIZE, SIZE, 3), np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            pack(frames=np.zeros((2, 16, 16, 3), np.uint8)),
            r"frames must be uint8 \[n, 32, 32, 3\], not .* \[2, 16, 16, 3\]",
        ),
        (pack(frames=np.zeros((2, SIZE, SIZE, 3), np.float32)), r"frames must be .* not float32 \[2, 32, 32, 3\]"),
        (pack(frames=np.zeros((SIZE, SIZE, 3), np.uint8)), r"frames must be .* not uint8 \[32, 32, 3\]"),
        (pack(frames=np.zeros((0, SIZE, SIZE, 3), np.uint8)), r"frames must be .* not uint8 \[0, 32, 32, 3\]"),
        (pack(images=np.zeros((2, SIZE, SIZE, 3), np.uint8)), "has no array 'frames'\\. It has: images"),
        (b"no npz", "not a readable .npz file"),
        (npy(), "not a readable .npz file"),
    ],
    ids=["another size", "floats", "one picture", "none", "another name", "text", "a .npy"],
)
def test_a_wrong_npz_to_calibrate_with_is_refused(run_folder: Path, tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(InputError, match=rf"c\.npz: {why}"):
        open_source(run_folder, ModelOptions(calibration=tmp_path / "c.npz"))


def test_wrong_folders_to_calibrate_with_are_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such folder of calibration images"):
        open_source(run_folder, ModelOptions(calibration=tmp_path / "absent"))
    with pytest.raises(DataError, match="no images to calibrate with"):
        open_source(run_folder, ModelOptions(calibration=tmp_path))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.jpg: not an image"):
        open_source(run_folder, ModelOptions(calibration=tmp_path))


@pytest.mark.slow
def test_opening_a_source_changes_nothing_in_it(run_folder: Path) -> None:
    before = tree(run_folder)
    open_source(run_folder, ModelOptions())
    assert tree(run_folder) == before
