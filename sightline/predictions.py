"""What a model saw, and the one JSON form in which it leaves the device (`prediction.schema.json` is its schema)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("prediction.schema.json")  # what `Result.to_json` gives


@dataclass(frozen=True)
class Classification:
    """One class with its score. `score` is a probability in 0..1 for a softmax or sigmoid head."""

    label: str
    index: int
    score: float

    def to_json(self) -> dict[str, Any]:
        return {"kind": "classification", "label": self.label, "index": self.index, "score": round(self.score, 5)}


@dataclass(frozen=True)
class Box:
    """x, y, width, height: pixels of the frame, from the left and the top of its first pixel."""

    x: float
    y: float
    width: float
    height: float

    def to_json(self) -> dict[str, float]:
        sides = {"x": self.x, "y": self.y, "width": self.width, "height": self.height}
        return {k: round(v, 2) for k, v in sides.items()}


@dataclass(frozen=True)
class Detection:
    """One thing and where it is. score: 0..1. track: the same number for the same thing, as long as it is followed;
    None where it is not."""

    label: str
    index: int
    score: float
    box: Box
    track: int | None = None

    def to_json(self) -> dict[str, Any]:
        score, box = round(self.score, 5), self.box.to_json()
        known = {"kind": "detection", "label": self.label, "index": self.index, "score": score, "box": box}
        return known if self.track is None else {**known, "track": self.track}


@dataclass(frozen=True)
class Region:
    """All that is of one class. score: the share of `over` that it covers, 0..1. box: around it. mask: bool [rows,
    columns], which lies over the part `over` of the frame; both in pixels of the frame."""

    label: str
    index: int
    score: float
    box: Box
    over: Box
    mask: NDArray[np.bool_] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        rows, columns = self.mask.shape
        flat = np.concatenate([[False], self.mask.reshape(-1), [False]])
        edges = np.flatnonzero(flat[1:] != flat[:-1])  # where runs of what it is not, and of what it is, change
        runs = np.diff([0, *edges.tolist(), self.mask.size]).tolist()
        return {
            "kind": "region",
            "label": self.label,
            "index": self.index,
            "score": round(self.score, 5),
            "box": self.box.to_json(),
            "mask": {"columns": columns, "rows": rows, "over": self.over.to_json(), "runs": runs},
        }


@dataclass(frozen=True)
class Point:
    """x, y: pixels of the frame. score: 0..1."""

    name: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Pose:
    """One person, or whatever else the model knows. score: 0..1. box: around it, or around its points."""

    label: str
    index: int
    score: float
    box: Box
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        points = [
            {"name": p.name, "x": round(p.x, 2), "y": round(p.y, 2), "score": round(p.score, 5)} for p in self.points
        ]
        return {
            "kind": "pose",
            "label": self.label,
            "index": self.index,
            "score": round(self.score, 5),
            "box": self.box.to_json(),
            "points": points,
        }


Prediction = Classification | Detection | Region | Pose


@dataclass(frozen=True)
class ModelId:
    """Which model spoke: the bundle's name and version, and the sha256 of the very file that ran."""

    name: str
    version: str
    sha256: str


Code = Literal["opening", "camera", "no_frame", "frozen", "no_motion", "unreadable", "stale", "inference_stuck"]


@dataclass(frozen=True)
class Cause:
    """Why nobody looked. code: one of a closed list, for programs: `opening` and `camera` (away, being opened again),
    `no_frame` (open, but silent), `frozen` (the same picture for too long), `no_motion` (nothing changed, so nobody had
    to look), `unreadable` (this picture alone), `stale` (too old when its turn came), `inference_stuck`.
    text: for people."""

    code: Code
    text: str


@dataclass(frozen=True)
class Result:
    """One frame's outcome.

    frame_id: counts the frames of this source from 0, the dropped ones included. captured_at: UTC, ISO 8601.
    captured_ns: the same moment on this machine's monotonic clock, in nanoseconds, which no adjustment moves.
    width, height: of the frame in pixels; None when there was no frame. latency_ms: milliseconds per stage.
    dropped: frames lost since the last result, by cause. status: `not_inferred` says that nobody looked, and `cause`
    why: an empty `predictions` with status `ok` means that the model looked and saw nothing.
    """

    device: str
    source: str
    frame_id: int
    captured_at: str
    captured_ns: int
    model: ModelId
    width: int | None
    height: int | None
    latency_ms: dict[str, float]
    predictions: tuple[Prediction, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    cause: Cause | None = None
    moment_ns: int = 0

    @property
    def moment(self) -> int:
        """Nanoseconds on the source's own clock, by which what lasts is measured: a clip's seconds are its own, however
        fast it is replayed."""
        return self.moment_ns or self.captured_ns

    @property
    def status(self) -> Literal["ok", "not_inferred"]:
        return "not_inferred" if self.cause else "ok"

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "device": self.device,
            "source": self.source,
            "frame_id": self.frame_id,
            "captured_at": self.captured_at,
            "captured_monotonic_ns": self.captured_ns,
            "model": {"name": self.model.name, "version": self.model.version, "sha256": self.model.sha256},
            "image": None if self.width is None else {"width": self.width, "height": self.height},
            "latency_ms": {stage: round(ms, 3) for stage, ms in self.latency_ms.items()},
            "dropped": self.dropped,
            "status": self.status,
            "cause": self.cause.text if self.cause else None,
            "cause_code": self.cause.code if self.cause else None,
            "predictions": [p.to_json() for p in self.predictions],
        }
