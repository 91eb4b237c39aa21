"""A network of the kind that these devices run, in the forms that conversion gives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.quantize.calibrate import observe, ranges
from converters.quantize.quantize import quantize
from converters.sources.from_torch import convert_program
from sightline.device_config import Scheme
from sightline.preprocess import InputSpec


class Block(nn.Module):
    """MobileNetV2's: expand, depthwise, project without activation, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class MobileNet(nn.Module):
    """float32 [1, 32, 32, 3] in 0..255 -> [1, 5], with a linear layer that has no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), Block(8), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU6(), Block(16)
        )
        self.head = nn.Linear(16, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x.permute(0, 3, 1, 2) / 127.5 - 1).mean((2, 3)))


@pytest.fixture(scope="session")
def mobile() -> dict[str, bytes]:
    """{scheme: .tflite} of one MobileNet, each as `--device coral_usb` quantizes it; `per_channel` as the others do."""
    torch.manual_seed(0)
    program = torch.export.export(MobileNet().eval(), (torch.zeros(1, 32, 32, 3),))
    content = convert_program(program, "mobile")
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    limits = ranges(observe(content, frames, InputSpec(32, 32)), "min_max")
    schemes: tuple[Scheme, ...] = ("float32", "float16", "dynamic_int8", "static_int8", "static_int8_float_io")
    models = {s: quantize(content, s, limits, "per_tensor") for s in schemes}
    return {**models, "per_channel": quantize(content, "static_int8", limits, "per_channel")}
