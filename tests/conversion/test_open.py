"""Programs as sources, and the input that is refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.convert import ConvertOptions, convert
from converters.sources.base import ModelOptions
from converters.sources.open import open_source
from sightline.bundle import read_bundle
from sightline.data.classification import read_class_folders
from sightline.data.dataset import read_frames
from sightline.errors import DataError, ModelError
from sightline.preprocess import InputSpec
from tests.conftest import LABELS, SIZE
from tests.support.conversion import Calls, save_program
from tests.support.models import ColourNet

ONE = torch.zeros(1, SIZE, SIZE, 3)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colour model as a .pt2 of somebody's own. Read only."""
    return save_program(tmp_path_factory.mktemp("program") / "mine.pt2", ColourNet(), ONE)


@pytest.mark.slow
def test_a_program_with_images_becomes_a_bundle(program: Path, pictures: Path, tmp_path: Path) -> None:
    convert(
        program,
        tmp_path / "mine.bundle",
        ConvertOptions("desktop", model=ModelOptions(pictures, None, None, "0..255", "center_crop")),
    )
    manifest = read_bundle(tmp_path / "mine.bundle").manifest
    data = read_class_folders(pictures)
    assert manifest.output.labels == LABELS
    assert manifest.input == InputSpec(SIZE, SIZE, "center_crop")
    assert manifest.metrics["static_int8"]["accuracy"] == 1.0
    assert manifest.provenance["dataset"] == {"name": "colours", "fingerprint": data.fingerprint}
    assert manifest.version == manifest.provenance["source"]["sha256"][:8]


@pytest.mark.slow
def test_a_program_is_evaluated_on_images_that_did_not_calibrate_it(program: Path, pictures: Path) -> None:
    source = open_source(program, ModelOptions(data=pictures, normalization="0..255"))
    data = read_class_folders(pictures)
    assert source.heldout == [(pictures / p.path, p.label) for p in data.val]
    held_out = {f.tobytes() for f in read_frames(pictures, data.val, source.input)}
    assert {f.tobytes() for f in source.golden} == held_out
    assert not {f.tobytes() for f in source.calibration} & held_out
    assert source.input == InputSpec(SIZE, SIZE, "letterbox")


def test_a_program_without_images_is_refused_with_what_is_needed(program: Path) -> None:
    with pytest.raises(
        DataError, match=r"mine\.pt2: Cannot measure accuracy without images\. Pass --data DIR \(labelled\), or --calib"
    ):
        open_source(program, ModelOptions(normalization="0..255"))


@pytest.mark.parametrize(
    ("function", "inputs", "dynamic", "why"),
    [
        (lambda x, y: (x + y).mean((1, 2)), [ONE, ONE], None, r"takes \[1, 32, 32, 3\] float32, \[1, 32, 32, 3\]"),
        (lambda x: x.mean((1, 2)), [ONE], {"inputs": ({1: torch.export.Dim("h", min=8)},)}, "a size that is not fixed"),
        (lambda x: x.mean((1, 2)), [ONE.repeat(2, 1, 1, 1)], {"inputs": ({0: torch.export.Dim("n")},)}, "not fixed"),
        (lambda x: x.mean((1, 2)), [ONE.repeat(4, 1, 1, 1)], None, r"takes \[4, 32, 32, 3\]"),
        (
            lambda x: x.float().mean((1, 2)),
            [ONE.byte()],
            None,
            r"takes \[1, 32, 32, 3\] uint8\. It must take one RGB image",
        ),
        (lambda x: x.mean(1), [torch.zeros(1, 300)], None, r"takes \[1, 300\] float32\. It must take"),
        (
            lambda x: x.mean((1, 2)),
            [torch.zeros(1, SIZE, SIZE, 1)],
            None,
            r"takes \[1, 32, 32, 1\] float32\. It must take",
        ),
    ],
    ids=["two inputs", "dynamic height", "dynamic batch", "a batch", "bytes", "flat", "grey"],
)
def test_a_program_that_takes_something_else_is_refused_with_what_it_takes(
    pictures: Path, tmp_path: Path, function: Callable[..., Any], inputs: list[torch.Tensor], dynamic: Any, why: str
) -> None:
    path = save_program(tmp_path / "mine.pt2", Calls(function), *inputs, dynamic=dynamic)
    with pytest.raises(ModelError, match=rf"mine\.pt2: .*{why}"):
        open_source(path, ModelOptions(data=pictures, normalization="0..255"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((1, 2))[:, :2],
        lambda x: torch.cat([x.mean((1, 2)), x.amax((1, 2))], 1),
        lambda x: x.mean(),
        lambda x: x.permute(0, 3, 1, 2),
        lambda x: (x.mean((1, 2)), x.amax((1, 2))),
        lambda x: {"scores": x.mean((1, 2))},
    ],
    ids=["fewer scores", "more scores", "a number", "a picture", "two outputs", "a mapping"],
)
def test_a_program_that_does_not_give_one_score_a_class_is_refused(
    pictures: Path, tmp_path: Path, function: Callable[..., Any]
) -> None:
    path = save_program(tmp_path / "mine.pt2", Calls(function), ONE)
    with pytest.raises(ModelError, match=r"mine\.pt2: gives"):
        open_source(path, ModelOptions(data=pictures, normalization="0..255"))


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("hello", "world")
    return buffer.getvalue()


def a_state_dict() -> bytes:
    buffer = io.BytesIO()
    torch.save(ColourNet().state_dict(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", b"no program", a_zip(), a_state_dict()], ids=["empty", "text", "a zip", "a state dict"]
)
def test_what_is_no_program_is_refused(pictures: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"mine\.pt2: is not a program that torch\.export saved: ."):
        open_source(tmp_path / "mine.pt2", ModelOptions(data=pictures, normalization="0..255"))


def test_a_cut_program_is_refused(program: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pt2").write_bytes(program.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="not a program that"):
        open_source(tmp_path / "mine.pt2", ModelOptions(data=pictures, normalization="0..255"))


def test_what_is_neither_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"x")
    for path, why in (
        (tmp_path / "absent", r"no such run folder or model\. `sightline train` makes a run"),
        (tmp_path / "absent.pt2", r"no such run folder or model"),
        (tmp_path / "model.zip", r"not a supported model format\. Supported are run folders, \.pt2, \.onnx"),
        (tmp_path, r"not a finished run: model\.json cannot be read"),
        (bundle, r"not a finished run: model\.json cannot be read"),
    ):
        with pytest.raises(ModelError, match=why):
            open_source(path, ModelOptions())
