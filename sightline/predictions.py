"""What a model saw, and the one JSON form in which it leaves the device (`prediction.schema.json` is its schema)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
        b = self.box
        box = {"x": round(b.x, 2), "y": round(b.y, 2), "width": round(b.width, 2), "height": round(b.height, 2)}
        score = round(self.score, 5)
        known = {"kind": "detection", "label": self.label, "index": self.index, "score": score, "box": box}
        return known if self.track is None else {**known, "track": self.track}


Prediction = Classification | Detection


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
