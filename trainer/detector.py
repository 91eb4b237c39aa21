"""A detector that is designed for int8: a timm backbone, a neck that only adds, and a head without anchors.

Depthwise-separable PAN (Liu et al. 2018, with additions where it concatenates) and the decoupled head of FCOS (Tian et
al. 2019), its convolutions shared by the levels and its norms not (as NAS-FCOS and RTMDet do). The graph leaves out
whatever harms int8 or needs no network: concatenation, sigmoid, decoding, suppression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from sightline.errors import ConfigError, ModelError, reason
from trainer.model import Normalized, check_arch, download, has_shape, read_state

STRIDES = (8, 16, 32)  # pixels of the input per cell, for each level
WIDTH = 96  # channels of neck and head
POINT_WIDTH = 48  # channels of a point detector's neck and head
INITIAL_SCORE = 0.01  # before anything is learned: most cells are empty (Lin et al. 2017, "Focal Loss")
INITIAL_LOGIT = -math.log(1 / INITIAL_SCORE - 1)
INITIAL_DISTANCE = 2.0  # of an edge from the centre of its cell, in strides

# layers that quantize badly: class names of torch and timm, and their usual names
_QUANTIZE_BADLY = {
    "SqueezeExcite": "squeeze-and-excite", "SEModule": "squeeze-and-excite", "EffectiveSEModule": "squeeze-and-excite",
    "SiLU": "SiLU", "Swish": "SiLU", "GELU": "GELU", "GELUTanh": "GELU", "Hardswish": "hard swish",
    "HardSwish": "hard swish", "LayerNorm": "layer norm", "LayerNorm2d": "layer norm",
}  # fmt: skip
Outputs = tuple[Tensor, ...]


class Detector(Normalized):
    """float32 [n, height, width, 3], RGB, 0..255 -> for each of `STRIDES` logits [n, h, w, classes] and distances
    [n, h, w, 4], from a cell's centre to left, top, right, bottom, in strides, never negative; h = height / stride.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        """backbone: has a feature map for each stride. channels: of these maps."""
        super().__init__(backbone, mean, std)
        levels = len(STRIDES)
        self.lateral = nn.ModuleList(_block(c, WIDTH, kernel=1) for c in channels)
        self.down = nn.ModuleList(_separable(WIDTH) for _ in range(levels - 1))
        self.up = nn.ModuleList(_separable(WIDTH) for _ in range(levels - 1))
        self.shrink = nn.ModuleList(_separable(WIDTH, stride=2) for _ in range(levels - 1))
        self.classify = _Branch(classes, levels)
        self.locate = _Branch(4, levels)
        _set_bias(self.classify.last, INITIAL_LOGIT)
        _set_bias(self.locate.last, INITIAL_DISTANCE)

    def forward(self, x: Tensor) -> Outputs:
        features = self.backbone(self.normalize(x.permute(0, 3, 1, 2)))
        maps = [lateral(f) for lateral, f in zip(self.lateral, features, strict=True)]
        for i in reversed(range(len(maps) - 1)):  # from coarse maps to fine ones
            maps[i] = self.down[i](maps[i] + nn.functional.interpolate(maps[i + 1], scale_factor=2.0, mode="nearest"))
        for i in range(len(maps) - 1):  # and back
            maps[i + 1] = self.up[i](maps[i + 1] + self.shrink[i](maps[i]))
        outputs: list[Tensor] = []
        for level, f in enumerate(maps):
            edges = self.locate(f, level)
            # a distance is never negative; in training the slope keeps a gradient where it would be
            edges = nn.functional.leaky_relu(edges, 0.1) if self.training else nn.functional.relu(edges)
            outputs += [self.classify(f, level).permute(0, 2, 3, 1), edges.permute(0, 2, 3, 1)]
        return tuple(outputs)


class _Branch(nn.Module):
    """Two separable convolutions and a last one, shared by the levels.

    Each level has its own norms, because its features have their own statistics.
    """

    def __init__(self, out: int, levels: int) -> None:
        super().__init__()
        self.depthwise = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH, bias=False) for _ in "12")
        self.pointwise = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 1, bias=False) for _ in "12")
        norms: Any = [nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in "1234") for _ in range(levels)]
        self.norms = nn.ModuleList(norms)
        self.last = nn.Conv2d(WIDTH, out, 1)
        nn.init.normal_(self.last.weight, std=0.01)

    def forward(self, x: Tensor, level: int) -> Tensor:
        norms: Any = self.norms[level]
        for i, (depthwise, pointwise) in enumerate(zip(self.depthwise, self.pointwise, strict=True)):
            x = nn.functional.relu6(norms[2 * i](depthwise(x)))
            x = nn.functional.relu6(norms[2 * i + 1](pointwise(x)))
        out: Tensor = self.last(x)
        return out


def _set_bias(conv: nn.Conv2d, value: float) -> None:
    assert conv.bias is not None
    nn.init.constant_(conv.bias, value)


def _block(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())


def _separable(width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_block(width, width, 3, stride, groups=width), _block(width, width, 1))


def build_detector(arch: str, classes: int, weights: str, size: int) -> Detector:
    """A detector on any timm backbone that has feature maps at strides 8, 16 and 32.

    weights: of the backbone: `timm` (downloaded from its hub), `none`, or the file of a state dict.

    Raises ConfigError for an arch without these feature maps, ModelError if the weights cannot be loaded or do not fit.
    """
    backbone, channels, mean, std = _backbone(arch, weights, size, STRIDES)
    return Detector(backbone, channels, classes, mean, std).to(memory_format=torch.channels_last)


def _backbone(
    arch: str, weights: str, size: int, strides: Sequence[int]
) -> tuple[nn.Module, list[int], tuple[float, ...], tuple[float, ...]]:
    """(backbone with a feature map for each stride, channels of the maps, mean and std of its normalisation)."""
    check_arch(arch)
    if size % STRIDES[-1]:
        raise ConfigError(
            f"--image-size {size}: must be a multiple of {STRIDES[-1]} for a detector, such as {_multiple(size)}"
        )
    try:
        info: Any = timm.create_model(arch, features_only=True).feature_info
        reductions, channels = list(info.reduction()), list(info.channels())
        chosen = [reductions.index(stride) for stride in strides]
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError) as e:
        raise ConfigError(
            f"{arch} cannot be a detector's backbone: it has no feature maps at strides 8, 16 and 32 ({reason(e)}). "
            "mobilenetv4_conv_small, mobilenetv2_100 and resnet18 have them."
        ) from None
    # computes only these maps; its state is that of the classifier, with other names
    backbone = timm.create_model(arch, features_only=True, out_indices=tuple(chosen))
    if weights == "timm":
        state = download(arch)
    else:
        state = read_state(Path(weights)) if weights != "none" else {}
    if state:
        _load(backbone, state, weights)
    config = timm.get_pretrained_cfg(arch)
    mean, std = (config.mean, config.std) if config else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return backbone, [channels[i] for i in chosen], mean, std


class PointDetector(Normalized):
    """float32 [n, height, width, 3], RGB, 0..255 -> logits [n, height / 8, width / 8, classes] of centres."""

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__(backbone, mean, std)
        self.lateral = nn.ModuleList(_block(c, POINT_WIDTH, kernel=1) for c in channels)
        self.mix = nn.Sequential(_separable(POINT_WIDTH), _separable(POINT_WIDTH))
        self.last = nn.Conv2d(POINT_WIDTH, classes, 1)
        nn.init.normal_(self.last.weight, std=0.01)
        _set_bias(self.last, INITIAL_LOGIT)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.backbone(self.normalize(x.permute(0, 3, 1, 2)))
        wide = nn.functional.interpolate(self.lateral[1](coarse), scale_factor=2.0, mode="nearest")
        logits: Tensor = self.last(self.mix(self.lateral[0](fine) + wide))
        return logits.permute(0, 2, 3, 1)


def build_point_detector(arch: str, classes: int, weights: str, size: int) -> PointDetector:
    """Like `build_detector`, but the backbone needs only the maps at strides 8 and 16."""
    backbone, channels, mean, std = _backbone(arch, weights, size, STRIDES[:2])
    return PointDetector(backbone, channels, classes, mean, std).to(memory_format=torch.channels_last)


def quantization_risk(model: nn.Module) -> str | None:
    """The layers that lose much in int8 or do not run on the Edge TPU; None if there are none."""
    kinds = {type(m).__name__ for m in model.modules()}
    names = sorted({_QUANTIZE_BADLY[kind] for kind in kinds & _QUANTIZE_BADLY.keys()})
    return ", ".join(names) or None


def _load(backbone: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Load a classifier's state: in a model of feature maps timm names tensors with underscores instead of dots."""
    flat = {name.replace(".", "_"): value for name, value in state.items()}
    own = backbone.state_dict()
    fitting = {
        name: flat[name.replace(".", "_")] for name in own if has_shape(flat.get(name.replace(".", "_")), own[name])
    }
    if len(fitting) < len(own):
        wrong = sorted(own.keys() - fitting.keys())
        raise ModelError(
            f"{where}: is not for this architecture: {len(wrong)} of {len(own)} tensors are missing or have another "
            f"shape. The first is {wrong[0]!r}."
        )
    backbone.load_state_dict(fitting)


def _multiple(size: int) -> int:
    return max(STRIDES[-1], round(size / STRIDES[-1]) * STRIDES[-1])
