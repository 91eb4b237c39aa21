"""What PyTorch models have that a conversion must not lose: layouts of memory, borders of minus infinity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.evaluate.run_images import run_all
from converters.quantize.calibrate import observe, ranges
from converters.quantize.quantize import quantize
from converters.sources.from_torch import outputs, to_tflite
from sightline.preprocess import Frame, InputSpec
from tests.support.conversion import save_program

pytestmark = pytest.mark.slow

SIZE = 16
SPEC = InputSpec(SIZE, SIZE)


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


def program(tmp_path: Path, net: nn.Module) -> Path:
    return save_program(tmp_path / "net.pt2", net, torch.zeros(1, SIZE, SIZE, 3))


def test_weights_in_channels_last_arrive_each_in_its_own_layer(tmp_path: Path, frames: Frame) -> None:
    """litert-torch alone gives one layer another's weights, when they are not contiguous and of the same shape."""
    exported = program(tmp_path, Net(depth=6).to(memory_format=torch.channels_last))
    expected = outputs(exported, SPEC.normalize(frames))
    actual = run_all(to_tflite(exported), frames, SPEC, "net")
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_border_of_a_max_pooling_stays_below_every_value_in_integers(tmp_path: Path, frames: Frame) -> None:
    """PyTorch pads with minus infinity, from which no int8 scale can be made; a zero would win against values below."""
    content = to_tflite(program(tmp_path, Net(depth=1)))
    expected = run_all(content, frames, SPEC, "net")
    int8 = quantize(content, "static_int8", ranges(observe(content, frames, SPEC), "min_max"), "per_channel")
    actual = run_all(int8, frames, SPEC, "net")
    assert np.abs(actual - expected).max() < 0.1 * np.ptp(expected)


class Nchw(nn.Module):
    """What PyTorch's own models take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).amax((2, 3))


def test_a_program_of_pytorchs_own_layout_takes_the_same_images(tmp_path: Path, frames: Frame) -> None:
    path = save_program(tmp_path / "net.pt2", Nchw(), torch.zeros(1, 3, SIZE, SIZE))
    spec = InputSpec(SIZE, SIZE, mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0))
    inputs = (frames.astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std)
    with torch.no_grad():
        expected = Nchw()(torch.from_numpy(inputs).permute(0, 3, 1, 2)).numpy()
    assert np.allclose(outputs(path, spec.normalize(frames)), expected, atol=1e-5)
    assert np.allclose(run_all(to_tflite(path), frames, spec, "net"), expected, atol=1e-4)
