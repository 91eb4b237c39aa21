"""A recording that `edge.outputs.recorder` kept, replayed: do the same frames give the same answers?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.capture.mailbox import Slot
from edge.capture.sources.base import Kind
from sightline.documents import parse_json
from sightline.errors import ModelError
from sightline.files import checked_table, read_verified, unseal
from sightline.images import decode_image
from sightline.predictions import Result
from sightline.preprocess import Frame
from sightline.strict_config import read_record

SCHEMA = 1
DOCUMENT, RESULTS = "record.json", "results.jsonl"


@dataclass(frozen=True)
class ReplayOptions:
    """The options of a run that change its predictions. A recording may set these and no others: anybody can write and
    seal one, so an address or a file name in it would be a stranger's.

    top: predictions of a result, at most; None = as many as the task has. threshold: 0 to 1; None = the model's own.
    track: whether a detector's boxes are followed.
    """

    top: int | None = None
    threshold: float | None = None
    track: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.top is not None and self.top < 1:
            raise ValueError(f"top: a number from 1 is needed, not {self.top}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:  # NaN is not in between
            raise ValueError(f"threshold: a number from 0 to 1 is needed, not {self.threshold}")


class Recording:
    """A replay of what `Recorder` kept: a source, and an observer that compares."""

    live = False
    kind: Kind = "pictures"
    format = "PNG"

    def __init__(self, folder: Path) -> None:
        """Raises IntegrityError or ModelError for a recording that is not whole."""
        place = str(folder / DOCUMENT)
        document = unseal(folder / DOCUMENT, "recording", SCHEMA)
        self._files = checked_table(document, place)
        self.folder, self.name, self.where = folder, folder.name, str(folder)
        self.options = read_record(ReplayOptions, document.get("options"), f"{place}: options", ModelError)
        self._moments = _moments(document, place)
        lines = read_verified(folder, self._files, RESULTS).splitlines()[: len(self._moments)]
        if len(lines) < len(self._moments):
            raise ModelError(
                f"{folder / RESULTS}: has {len(lines)} results, but the recording has {len(self._moments)}"
            )
        self.expected = [_result(line, f"{folder / RESULTS}, line {i}") for i, line in enumerate(lines, 1)]
        self.compared = self.different = 0
        self.first_difference = ""
        self._given = 0

    def open(self) -> None:
        self._given = 0

    def read(self, buffer: Frame | None) -> Frame | None:
        if self._given == len(self.expected):
            return None
        self._given += 1
        name = f"{self._given - 1:06}.png"
        return decode_image(read_verified(self.folder, self._files, name), name)

    def moment_ns(self, frame_id: int) -> int:
        """When it was captured, on the clock of what was recorded."""
        return self._moments[frame_id]

    def close(self) -> None:
        pass

    def compare(self, result: Result, slot: Slot | None) -> None:
        """Compare a result with the one that was recorded: the predictions' JSON, to the last digit."""
        was, now = self.expected[result.frame_id], result.to_json()
        self.compared += 1
        if was["predictions"] == now["predictions"]:
            return
        self.different += 1
        if not self.first_difference:
            then, today = (", ".join(f"{p['label']!r} {p['score']}" for p in r["predictions"]) for r in (was, now))
            other = was["model"]["sha256"] != now["model"]["sha256"]
            self.first_difference = (
                f"{result.frame_id:06}.png gives {today or 'nothing'} instead of {then or 'nothing'}"
            )
            self.first_difference += "; another model runs than was recorded" if other else ""

    @property
    def verdict(self) -> str:
        """One line for people."""
        text = f"replayed: {self.compared - self.different} of {self.compared} results are as recorded"
        left = len(self.expected) - self.compared
        text += f", {left} were not run" if left else ""
        return f"{text}; the first that is not: {self.first_difference}" if self.different else text


def _moments(document: dict[str, Any], place: str) -> list[int]:
    """The time of each frame in nanoseconds. Raises ModelError."""
    moments, frames = document.get("moments_ns"), document.get("frames")
    whole = isinstance(moments, list) and all(isinstance(m, int) and not isinstance(m, bool) for m in moments)
    if not isinstance(moments, list) or not whole or frames != len(moments):
        raise ModelError(f"{place}: 'moments_ns' must list a whole number for each of its 'frames'")
    return moments


def _result(line: bytes, place: str) -> dict[str, Any]:
    """A result as it was recorded. Raises ModelError for what cannot be compared with one."""
    try:
        result: dict[str, Any] = parse_json(line)
        for prediction in result["predictions"]:
            _ = prediction["label"].strip(), prediction["score"] + 0.0
        result["model"]["sha256"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{place}: not a result with predictions and a model") from None
    return result
