"""Replays a recording of `edge.outputs.recorder`, and checks that its frames give the same results."""

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
    """The options of a run that change its predictions.

    A recording may set these and no others: anybody can write and seal a recording, so an address or a file name in it
    cannot be trusted.

    top: maximum number of predictions of a result; None = the task's own maximum.
    threshold: minimum score, 0 to 1; None = the model's own.
    track: whether a detector's boxes are tracked.
    """

    top: int | None = None
    threshold: float | None = None
    track: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.top is not None and self.top < 1:
            raise ValueError(f"top: must be at least 1, not {self.top}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:  # NaN fails too
            raise ValueError(f"threshold: must be from 0 to 1, not {self.threshold}")


class Recording:
    """A recording as a source, and as an observer that compares the results.

    Threads: the capture thread calls `open`, `read` and `close`, the results thread calls `compare`. They share only
    what the constructor sets. The main thread reads `compared`, `different` and `verdict` after both have ended.

    options: the options of the recorded run.
    expected: the recorded results, as JSON objects.
    compared: number of results compared.
    different: number of results that differ.
    first_difference: the first difference, for people.
    """

    live = False
    kind: Kind = "images"
    format = "PNG"

    def __init__(self, folder: Path) -> None:
        """Raises IntegrityError or ModelError for an incomplete or damaged recording."""
        place = str(folder / DOCUMENT)
        document = unseal(folder / DOCUMENT, "recording", SCHEMA)
        self._files = checked_table(document, place)
        self.folder, self.name, self.where = folder, folder.name, str(folder)
        self.options = read_record(ReplayOptions, document.get("options"), f"{place}: options", ModelError)
        self._moments = _moments(document, place)
        lines = read_verified(folder, self._files, RESULTS).splitlines()[: len(self._moments)]
        if len(lines) < len(self._moments):
            raise ModelError(
                f"{folder / RESULTS}: has {len(lines)} results, but the recording has {len(self._moments)} frames"
            )
        self.expected = [_result(line, f"{folder / RESULTS}, line {i}") for i, line in enumerate(lines, 1)]
        self.compared = self.different = 0
        self.first_difference = ""
        self._frames_read = 0

    def open(self) -> None:
        self._frames_read = 0

    def read(self, buffer: Frame | None) -> Frame | None:
        if self._frames_read == len(self.expected):
            return None
        self._frames_read += 1
        name = f"{self._frames_read - 1:06}.png"
        return decode_image(read_verified(self.folder, self._files, name), name)

    def moment_ns(self, frame_id: int) -> int:
        """When the frame was captured, on the monotonic clock of the recorded run."""
        return self._moments[frame_id]

    def close(self) -> None:
        pass

    def compare(self, result: Result, slot: Slot | None) -> None:
        """Compare a result with the recorded one: the JSON of the predictions, to the last digit."""
        recorded, now = self.expected[result.frame_id], result.to_json()
        self.compared += 1
        if recorded["predictions"] == now["predictions"]:
            return
        self.different += 1
        if not self.first_difference:
            then, today = (", ".join(f"{p['label']!r} {p['score']}" for p in r["predictions"]) for r in (recorded, now))
            is_other_model = recorded["model"]["sha256"] != now["model"]["sha256"]
            self.first_difference = (
                f"{result.frame_id:06}.png has {today or 'no prediction'} instead of {then or 'no prediction'}"
            )
            self.first_difference += "; the recording is of another model" if is_other_model else ""

    @property
    def verdict(self) -> str:
        """The outcome in one line for people."""
        text = f"replayed: {self.compared - self.different} of {self.compared} results are as recorded"
        left = len(self.expected) - self.compared
        text += f", {left} were not run" if left else ""
        return f"{text}; first difference: {self.first_difference}" if self.different else text


def _moments(document: dict[str, Any], place: str) -> list[int]:
    """The capture time of each frame in nanoseconds. Raises ModelError."""
    moments, frames = document.get("moments_ns"), document.get("frames")
    are_integers = isinstance(moments, list) and all(isinstance(m, int) and not isinstance(m, bool) for m in moments)
    if not isinstance(moments, list) or not are_integers or frames != len(moments):
        raise ModelError(f"{place}: 'moments_ns' must list one integer for each of its 'frames'")
    return moments


def _result(line: bytes, place: str) -> dict[str, Any]:
    """A recorded result. Raises ModelError for a line without the fields that `compare` needs."""
    try:
        result: dict[str, Any] = parse_json(line)
        for prediction in result["predictions"]:
            _ = prediction["label"].strip(), prediction["score"] + 0.0
        result["model"]["sha256"].strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{place}: not a result with predictions and a model") from None
    return result
