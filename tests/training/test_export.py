"""Anybody's PyTorch model as a run folder, with one call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.errors import ModelError
from sightline.preprocess import InputSpec
from sightline.run_folder import read_run
from tests.support.models import ColourNet
from trainer.export import export_run


@pytest.fixture(scope="module")
def data(pictures: Path) -> ClassificationDataset:
    return read_class_folders(pictures)


def export(path: Path, model: nn.Module, data: ClassificationDataset) -> None:
    export_run(path, model, data, InputSpec(32, 32), metrics={}, provenance={})


@pytest.mark.slow
def test_the_documented_call_writes_a_run(data: ClassificationDataset, tmp_path: Path) -> None:
    model = ColourNet().train()
    export(tmp_path / "mine", model, data)
    run = read_run(tmp_path / "mine")
    assert run.manifest.name == "mine"
    assert set(run.files) == {"model.pt2", "calibration.npz", "golden.npz", "heldout.json"}
    program = torch.export.load(tmp_path / "mine" / "model.pt2").module()
    image = torch.rand(1, 32, 32, 3) * 255
    assert torch.allclose(program(image), ColourNet()(image), atol=1e-5)


class Undecided(nn.Module):
    """What torch.export cannot take: what it does depends on what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2)) if x.sum() > 0 else x.amax((1, 2))


class Forgetful(nn.Module):
    """Answers otherwise each time, so the program cannot be the module."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.mean((1, 2)) * self.calls


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Undecided(), "torch.export does not support this model: .+"),
        (Forgetful(), "the exported program differs from the model"),
    ],
)
def test_a_model_that_cannot_be_exported_truly_is_refused(
    data: ClassificationDataset, tmp_path: Path, model: nn.Module, why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        export(tmp_path / "run", model, data)
    assert not (tmp_path / "run").exists()


class TooMany(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((1, 2)), x.amax((1, 2))], 1)


def test_a_model_with_another_number_of_scores_than_classes_is_refused(
    data: ClassificationDataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"3 classes|3 labels"):
        export(tmp_path / "run", TooMany(), data)
    assert not (tmp_path / "run").exists()
