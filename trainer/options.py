"""The options of `sightline train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sightline.preprocess import Resize

TaskName = Literal["classify", "detect", "points"]
Augment = Literal["none", "light", "default", "strong"]


@dataclass(frozen=True)
class TrainOptions:
    """The command line of `sightline train`. None: the default depends on the other options.

    data: folder of the labelled images.
    out: run folder to write.
    parent: finished run to fine-tune with int8 rounding.
    image_size: pixels of both sides of the input.
    resize: how images are fitted into the input.
    corrupt: what happens with images and boxes that cannot be used.
    resume: continue from the last finished epoch of `out`.
    as_json: print the result as JSON.
    explicit: names of the options that are on the command line.
    The others are those of `Recipe`.
    """

    data: Path
    out: Path
    task: TaskName | None = None
    arch: str = "mobilenetv4_conv_small"
    weights: str = "timm"
    image_size: int | None = None
    resize: Resize = "letterbox"
    parent: Path | None = None
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    patience: int | None = None
    augment: Augment = "default"
    flip: bool = True
    corrupt: Literal["refuse", "skip"] = "refuse"
    seed: int = 0
    resume: bool = False
    as_json: bool = False
    explicit: frozenset[str] = frozenset()

    @property
    def detects(self) -> bool:
        """Whether the data set has boxes."""
        return self.task in ("detect", "points")
