"""A small model that needs no training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColourNet(nn.Module):
    """Computes the mean of each colour channel with two convolutions and a linear layer, so that it can be quantized.

    float32 [n, height, width, 3], RGB, 0..255 -> float32 [n, 3], logits for (blue, green, red).
    """

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
