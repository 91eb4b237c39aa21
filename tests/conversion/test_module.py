"""A PyTorch module in memory, in three lines of Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.convert import ConvertOptions, convert
from converters.sources.base import NORMALIZATIONS, ModelOptions
from converters.sources.open import open_source
from sightline.bundle import read_bundle
from sightline.errors import ConfigError, ModelError
from tests.conftest import LABELS, SIZE
from tests.support.fitted import fitted
from tests.support.models import ColourNet


class Nchw(nn.Module):
    """The colour model, as PyTorch's are: colours first."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ColourNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1))


@pytest.mark.slow
def test_a_net_of_timm_becomes_an_int8_bundle(pictures: Path, tmp_path: Path) -> None:
    net = fitted("mobilenetv3_small_050", pictures, 64)
    out = tmp_path / "mine.bundle"
    done = convert(
        net,
        str(out),
        ConvertOptions("desktop", model=ModelOptions(data=pictures, normalization="-1..1", size=(64, 64))),
    )
    assert done.float_quality == done.variants["static_int8"].quality == 1.0
    manifest = read_bundle(out).manifest
    assert manifest.provenance["source"]["file"] == "MobileNetV3.pt2"
    assert manifest.output.labels == LABELS


class Imagenet(nn.Module):
    """The colour model, for images normalised as ImageNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Nchw()
        mean, std = NORMALIZATIONS["imagenet"]
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.std + self.mean)


def test_the_lines_of_the_documentation_work(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "convert.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    (tmp_path / "images").symlink_to(pictures)
    monkeypatch.chdir(tmp_path)
    exec(lines, {"model": Imagenet()})
    metrics = read_bundle(tmp_path / "mine.bundle").manifest.metrics
    assert metrics["float32"]["accuracy"] == metrics["static_int8"]["accuracy"] == 1.0


@pytest.mark.slow
def test_width_and_height_are_not_mixed_up(pictures: Path) -> None:
    source = open_source(Nchw().eval(), ModelOptions(data=pictures, normalization="0..255", size=(SIZE, 20)))
    assert (source.input.width, source.input.height) == (SIZE, 20)


@pytest.mark.slow
def test_the_module_is_as_it_was(pictures: Path) -> None:
    net = Nchw().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    open_source(net, ModelOptions(data=pictures, normalization="0..255", size=(SIZE, SIZE)))
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("model", "size", "error", "why"),
    [
        (
            Nchw().eval(),
            None,
            ConfigError,
            r"^Nchw: a module does not state its image size\. Pass size=\(width, height\)",
        ),
        (Nchw(), (SIZE, SIZE), ModelError, r"^Nchw: is in training mode, .*\. Call \.eval\(\) first"),
        (ColourNet().eval(), (SIZE, SIZE), ModelError, r"^ColourNet: torch\.export cannot export it"),
        (42, (SIZE, SIZE), ConfigError, r"^a int cannot be converted\. Pass a path or a torch\.nn\.Module"),
        ("mine.onnx", (SIZE, SIZE), ConfigError, r"^mine\.onnx: a file states the size that it takes\. Leave size out"),
    ],
    ids=["no size", "training", "NHWC", "a number", "a file"],
)
def test_unsupported_models_are_refused_with_the_reason(
    pictures: Path, model: Any, size: Any, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        open_source(model, ModelOptions(data=pictures, normalization="0..255", size=size))


@pytest.mark.slow
def test_errors_name_the_module_not_a_file_that_is_gone(pictures: Path) -> None:
    net = nn.Sequential(Nchw(), nn.Linear(3, 5)).eval()
    with pytest.raises(ModelError, match=r"^Sequential: gives 5 scores, but .* has 3 classes"):
        open_source(net, ModelOptions(data=pictures, normalization="0..255", size=(SIZE, SIZE)))
