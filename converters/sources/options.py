"""The values of the options that describe a model."""

from __future__ import annotations

import itertools
from pathlib import Path

from converters.sources.base import NORMALIZATIONS
from sightline.documents import read_text
from sightline.errors import ConfigError, DataError
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec

_MAX_LABELS_BYTES = 16 << 20


def parse_normalization(path: Path, text: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) of each channel in grey levels. path: of the model, for the message. Raises ConfigError."""
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    choices = f"one of {', '.join(NORMALIZATIONS)}, or MEAN/STD in grey levels, such as 127.5/127.5"
    if text is None:
        raise ConfigError(
            f"{path}: the file does not state how its input was normalised in training, and a wrong guess gives wrong "
            f"answers silently. Pass --normalization: {choices}."
        )
    try:
        mean, std = (tuple(float(n) for n in part.split(",")) for part in text.split("/"))
        mean, std = (part * 3 if len(part) == 1 else part for part in (mean, std))
        InputSpec(1, 1, mean=mean, std=std)
    except ValueError as e:
        raise ConfigError(f"--normalization {text!r}: {e}. Pass {choices}.") from None
    return mean, std


def read_labels(path: Path) -> tuple[str, ...]:
    """One label a line, up to the first empty line. Raises DataError.

    Lines after an empty one are remarks: Pascal VOC's list has some. The caller checks the number of labels.
    """
    lines = read_text(path, DataError, _MAX_LABELS_BYTES).splitlines()
    labels = tuple(itertools.takewhile(bool, (line.strip() for line in lines)))
    try:
        OutputSpec("classify", "none", labels)
    except ValueError as e:
        raise DataError(f"{path}: {e}") from None
    return labels
