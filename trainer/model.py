"""A timm backbone as a Sightline model: raw RGB bytes in, normalisation in the graph, one score per class out."""

from __future__ import annotations

import difflib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sightline.errors import ConfigError, DataError, ModelError, reason
from sightline.program_file import checked_program
from sightline.run_folder import Run


class Normalized(nn.Module):
    """A backbone that takes raw RGB bytes.

    The input is NHWC, as in TFLite and cameras. Permuted it is exactly PyTorch's channels_last, so nothing is copied.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """mean, std: per channel, of images in 0..1, as timm's configs state them."""
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(std).view(1, 3, 1, 1) * 255))

    def normalize(self, x: Tensor) -> Tensor:
        """(x - mean) * scale as one convolution: in int8 a subtraction and a multiplication would round twice."""
        return nn.functional.conv2d(x, self.scale.view(3, 1, 1, 1), -(self.mean * self.scale).flatten(), groups=3)


class Classifier(Normalized):
    """float32 [n, height, width, 3], RGB, 0..255 -> float32 [n, classes], logits."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.normalize(x.permute(0, 3, 1, 2)))
        return logits


def build(arch: str, classes: int, weights: str, size: int) -> Classifier:
    """A classifier on any timm image model, for images of size x size.

    weights: `timm` (downloaded from its hub), `none`, or the file of a state dict.

    Raises ConfigError for an unknown arch, with near matches, and for an arch that does not support the size. Raises
    ModelError if the weights cannot be loaded or do not fit.
    """
    check_arch(arch)
    try:
        backbone = _create(arch, False, classes, size)
    except (RuntimeError, AssertionError, ValueError) as e:
        raise ConfigError(f"{arch} cannot take images of {size}x{size}: {reason(e)}") from None
    config = _pretrained_config(backbone)
    _reset_head(backbone)
    if weights == "timm":
        backbone = _download(arch, lambda: _create(arch, True, classes, size))
        _reset_head(backbone)
    elif weights != "none":
        load_weights(backbone, Path(weights))
    return Classifier(backbone, config["mean"], config["std"]).to(memory_format=torch.channels_last)


def _pretrained_config(backbone: nn.Module) -> dict[str, Any]:
    config: Any = backbone.pretrained_cfg
    return dict(config)


def _reset_head(backbone: nn.Module) -> None:
    """Start a new classifier near zero.

    timm's own start gave a first loss of 8, where log(10) = 2.3 is chance. It cost mobilenetv4 its first five epochs.
    """
    get_classifier: Any = backbone.get_classifier
    head = get_classifier()
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)


def check_arch(arch: str) -> None:
    """Raises ConfigError, with near matches, if timm has no such model."""
    name, _, tag = arch.partition(".")
    known = timm.list_pretrained(f"{name}.*") if tag and name in timm.list_models() else timm.list_models()
    name = arch if tag and known else name
    if name not in known:
        matches = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        hint = f" (did you mean {', '.join(matches)}?)" if matches else ""
        raise ConfigError(f"timm has no model {arch!r}{hint}; `timm.list_models()` names all {len(known)}")


def make(arch: str) -> nn.Module:
    """The architecture with random weights."""
    return timm.create_model(arch)


def native_size(arch: str) -> int:
    """Side of the square input for which timm configured the model, in pixels."""
    return int(timm.get_pretrained_cfg(arch).input_size[1])  # type: ignore[union-attr]


def _create(arch: str, pretrained: bool, classes: int, size: int) -> nn.Module:
    """Transformers need `img_size`, because they are made for one size. Other models do not have this argument."""
    try:
        return timm.create_model(arch, pretrained=pretrained, num_classes=classes, img_size=size)
    except TypeError as e:
        if "img_size" not in str(e):
            raise
    return timm.create_model(arch, pretrained=pretrained, num_classes=classes)


def download(arch: str) -> dict[str, Tensor]:
    """The state dict of timm's pretrained weights for an architecture. Raises ModelError."""
    return _download(arch, lambda: timm.create_model(arch, pretrained=True)).state_dict()


def _download(arch: str, create: Callable[[], nn.Module]) -> nn.Module:
    config = timm.get_pretrained_cfg(arch)
    if config is None or not config.has_weights:
        raise ModelError(f"timm has no weights for {arch}. Pass --weights none, or a file.")
    try:
        return create()
    except Exception as e:  # the hub client raises its own, requests' and urllib's errors, by version
        source = config.hf_hub_id or config.url
        raise ModelError(
            f"the weights of {arch} cannot be downloaded ({source}): {type(e).__name__}: "
            f"{reason(e)}. Offline? Pass --weights FILE (a state dict as .safetensors or .pt, "
            "downloaded elsewhere) or --weights none."
        ) from None


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a state dict of the same architecture. A classifier for other classes keeps its random weights.

    Raises ModelError.
    """
    state = read_state(path)
    own = backbone.state_dict()
    head = {
        k
        for name in _as_tuple(_pretrained_config(backbone).get("classifier"))
        for k in own
        if k.startswith(f"{name}.") and not has_shape(state.get(k), own[k])
    }
    needed = own.keys() - head
    fitting = {k: v for k, v in state.items() if k in needed and has_shape(v, own[k])}
    if len(fitting) < len(needed):
        wrong = sorted(needed - fitting.keys())
        raise ModelError(
            f"{path}: is not for this architecture: {len(wrong)} of {len(needed)} tensors are missing or have another "
            f"shape. The first is {wrong[0]!r}."
        )
    backbone.load_state_dict(fitting, strict=False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, or of a .pt or .pth that torch loads without pickle. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as e:  # zipfile's, pickle's, safetensors' and torch's own errors
        raise ModelError(f"{path}: not a readable state dict: {reason(e)}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: has no state dict (a mapping of names to tensors)")
    return {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}


def has_shape(value: Tensor | None, own: Tensor) -> bool:
    """Whether the value has the shape of the model's own tensor."""
    return value is not None and value.shape == own.shape


def load_program(model: nn.Module, run: Run) -> None:
    """Give the model the weights of a run's program. Raises ModelError if the run has another architecture."""
    where = f"{run.path / 'model.pt2'}"
    content = run.read("model.pt2")
    try:
        state = torch.export.load(io.BytesIO(checked_program(content, where))).state_dict
    except ModelError:
        raise
    except Exception as e:  # zipfile's, json's, torch's own
        raise ModelError(f"{where}: is not a program that torch.export saved: {reason(e)}") from None
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        raise ModelError(f"{where}: does not have the architecture that its recipe names: {reason(e)}") from None


def _as_tuple(names: str | Iterable[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def check_classifier(model: nn.Module, size: int, classes: int) -> None:
    """Raise early for a model that cannot take images of this size, or does not give one score per class."""
    model.eval()
    try:
        with torch.no_grad():
            out = model(torch.zeros(1, size, size, 3))
    except (RuntimeError, AssertionError, ValueError) as e:
        raise ConfigError(f"this model cannot take images of {size}x{size}: {reason(e)}") from None
    if not isinstance(out, Tensor) or out.shape != (1, classes):
        raise DataError(f"this model is not a classifier: its output is {getattr(out, 'shape', type(out))}")
