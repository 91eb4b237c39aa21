"""Real networks that classify colours without training: only their last layer is solved for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from sightline.data.classification import read_class_folders
from sightline.data.dataset import read_frames
from sightline.preprocess import InputSpec


def colours(pictures: Path, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every image, uint8 [n, size, size, 3], and its class."""
    data = read_class_folders(pictures)
    every = [*data.train, *data.val]
    return read_frames(pictures, every, InputSpec(size, size)), np.asarray([p.label for p in every])


def solve(features: NDArray[np.float32], classes: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The linear layer that gives 4 for the class and 0 for others: (weights [features, classes], bias [classes])."""
    x = np.concatenate([features, np.ones((len(features), 1))], 1).astype(np.float64)
    y = 4 * np.eye(classes.max() + 1)[classes]
    solution = np.linalg.solve(x.T @ x + 1e-2 * len(x) * np.eye(x.shape[1]), x.T @ y)
    return solution[:-1].astype(np.float32), solution[-1].astype(np.float32)


def fitted(arch: str, pictures: Path, size: int, seed: int = 0) -> nn.Module:
    """A network of timm, float32 [n, 3, size, size] in -1..1 -> logits of the colours; right on every image."""
    torch.manual_seed(seed)
    net = timm.create_model(arch, num_classes=3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # some start at zero, and with them whole blocks
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    frames, classes = colours(pictures, size)
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        for _ in range(30):  # the statistics of its batch norms
            net.train()(x)
        features = net.eval().forward_head(net.forward_features(x), pre_logits=True)
        head = net.get_classifier()
        weight, bias = solve(features.numpy(), classes)
        head.weight.copy_(torch.from_numpy(weight.T))
        head.bias.copy_(torch.from_numpy(bias))
        assert (net(x).argmax(1).numpy() == classes).mean() == 1
    return net


def save_onnx(
    path: Path, net: nn.Module, size: int, *, dynamic_batch: bool = False, external_data: bool = False
) -> Path:
    import warnings

    shapes = ({0: torch.export.Dim("n")},) if dynamic_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's exporter
        torch.onnx.export(
            net, (torch.zeros(1, 3, size, size),), path,
            dynamic_shapes=shapes, external_data=external_data, verbose=False,
        )  # fmt: skip
    return path


def labels(path: Path, names: Sequence[str]) -> Path:
    """Write one label a line. Returns the path."""
    path.write_text("\n".join(names) + "\n", encoding="utf-8")
    return path
