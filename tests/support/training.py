"""A training that takes a second: the smallest timm model that has batch norm, on 32 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

ARCH = "test_byobnet"
EPOCHS = 4


def arguments(pictures: Path, out: Path, **options: object) -> list[str]:
    """The command line; an option may be changed, and None takes it out."""
    usual: dict[str, object] = {
        "arch": ARCH,
        "weights": "none",
        "image_size": 32,
        "epochs": EPOCHS,
        "batch": 16,
        "patience": 0,
    }
    texts = [str(pictures), "--out", str(out)]
    for key, value in {**usual, **options}.items():
        if value is not None:
            texts += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return texts


def learn(pictures: Path, out: Path, **options: object) -> None:
    """`sightline train` in this process: errors come as they are raised."""
    from trainer.cli import train

    train.main(arguments(pictures, out, **options), standalone_mode=False)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What the run's program holds: parameters and buffers."""
    return {k: v.detach() for k, v in torch.export.load(run / "model.pt2").state_dict.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit for bit, NaN included."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )
