"""Models whose answers are known without training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColourNet(nn.Module):
    """float32 [n, height, width, 3], RGB, 0..255 -> logits for (blue, green, red): the mean of each channel, through
    two convolutions and a linear layer, so that there is something to quantize."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in (self.first, self.second, self.head):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.02)
                layer.bias.zero_()
            for channel in range(3):
                self.first.weight[channel, channel] += 1 / 9
                self.second.weight[channel, channel] += 1.0
                self.head.weight[2 - channel, channel] += 8.0  # RGB in, (blue, green, red) out

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) / 255 - 0.2
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        return self.head(x.mean((2, 3)))


class HardNet(ColourNet):
    """The same function, written so that int8 by minima and maxima breaks it: the channels between the convolutions
    differ 1000:1, and after the second one of them answers to a few bright pixels with values that nothing needs."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            scales = 10 ** torch.linspace(0, -3, 8)[[7, 5, 6, 0, 1, 2, 3, 4]]  # what counts is what is small
            self.first.weight[3:, 0] += 1 / 9
            self.first.weight *= scales.view(-1, 1, 1, 1)
            self.second.weight /= scales.view(1, -1, 1, 1)
            self.second.weight[7] = 0
            self.second.weight[7, 3, 0, 0] = 400.0 / scales[3]
            self.second.bias[7] = -400.0 * 0.72
            self.head.weight[:, 7] = 0


class Neighbours(nn.Module):
    """float32 [n, height, width, 3] -> [n, 3]. Ops that TFLite fuses with the one before, and ops that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        for norm in (self.norm, self.norm2):
            norm.running_var.uniform_(0.5, 2, generator=generator)
            norm.running_mean.uniform_(-0.5, 0.5, generator=generator)
            nn.init.uniform_(norm.weight, -2, 2, generator=generator)
        with torch.no_grad():
            self.first.weight.div_(100)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.norm(self.first(x.permute(0, 3, 1, 2))), inplace=True)
        y = nn.functional.hardswish(self.norm2(self.second(x)), inplace=True)
        x = nn.functional.relu6(x + y)
        x = nn.functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))
