"""Models whose answers are known without training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.support.colour_net import ColourNet


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


class SpotNet(nn.Module):
    """A detector whose answers are known: float32 [1, height, width, 3], RGB, 0..255 -> for strides 8 and 16 logits
    [1, h, w, 2] of (red, blue) cells, and distances [1, h, w, 4] of one stride to each side."""

    def __init__(self, labels: str = "red, blue", reach: float = 1.0, doubt: float = 6.0) -> None:
        """labels: in their order. reach: of a box to each side, in strides. doubt: with 13, half of a cell is
        not enough to see something."""
        super().__init__()
        self.scores = nn.Conv2d(3, 2, 1)
        self.edges = nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.scores.weight[:] = 0.1 * torch.tensor([[1.0, -0.5, -0.5], [-0.5, -0.5, 1.0]])[:, :, None, None]
            if labels == "blue, red":
                self.scores.weight[:] = self.scores.weight.flip(0)
            self.scores.bias[:] = -doubt
            self.edges.weight[:] = 1e-5
            self.edges.bias[:] = reach

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.permute(0, 3, 1, 2)
        outputs: list[Tensor] = []
        for stride in (8, 16):
            cells = nn.functional.avg_pool2d(x, stride)
            for head in (self.scores, self.edges):
                outputs.append(head(cells).permute(0, 2, 3, 1))
        return tuple(outputs)
