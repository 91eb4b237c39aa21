"""What PyTorch models have that a conversion must not lose: layouts of memory, borders of minus infinity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.calibrate import ranges
from converters.quantize import quantize
from converters.torch_source import open_program, run_program, to_tflite
from converters.verify import run_all
from sightline.interpreter import Interpreter
from sightline.preprocess import Frame
from tests.conversion.helpers import save_program

SIZE = 16


class Net(nn.Module):
    """Convolutions of one shape, then max-pooling with a border, around values of both signs."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(depth)))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.first(x.permute(0, 3, 1, 2) / 255)) - 2  # below zero nearly everywhere
        return self.head(self.pool(x).amax((2, 3)))


@pytest.fixture
def frames() -> Frame:
    return np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)


def program(tmp_path: Path, net: nn.Module) -> torch.export.ExportedProgram:
    path = save_program(tmp_path / "net.pt2", net, torch.zeros(1, SIZE, SIZE, 3))
    return open_program(path.read_bytes(), "net.pt2")


def test_weights_in_channels_last_arrive_each_in_its_own_layer(tmp_path: Path, frames: Frame) -> None:
    """litert-torch alone gives one layer another's weights, when they are not contiguous and of the same shape."""
    exported = program(tmp_path, Net(depth=6).to(memory_format=torch.channels_last))
    expected = run_program(exported, frames, "net")
    given = run_all(Interpreter(to_tflite(exported, "net")), frames)
    assert np.abs(given - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_border_of_a_max_pooling_stays_below_every_value_in_integers(tmp_path: Path, frames: Frame) -> None:
    """PyTorch pads with minus infinity, from which no int8 scale can be made; a zero would win against values below."""
    content = to_tflite(program(tmp_path, Net(depth=1)), "net")
    expected = run_all(Interpreter(content), frames)
    int8 = quantize(content, "static_int8", ranges(content, frames), "per_channel")
    given = run_all(Interpreter(int8), frames)
    assert np.abs(given - expected).max() < 0.1 * np.ptp(expected)
