"""A model's predictions, and the JSON form in which they leave the device (schema: `prediction.schema.json`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1
SCHEMA_FILE = Path(__file__).with_name("prediction.schema.json")  # of `Result.to_json`


@dataclass(frozen=True)
class Classification:
    """One class of the image.

    label, index: of the class.
    score: a probability in 0..1 for a softmax or sigmoid head.
    """

    label: str
    index: int
    score: float

    def to_json(self) -> dict[str, Any]:
        return {"kind": "classification", "label": self.label, "index": self.index, "score": round(self.score, 5)}


@dataclass(frozen=True)
class Box:
    """A rectangle. x, y, width, height: pixels of the frame, from the left and the top of its first pixel."""

    x: float
    y: float
    width: float
    height: float

    def to_json(self) -> dict[str, float]:
        sides = {"x": self.x, "y": self.y, "width": self.width, "height": self.height}
        return {k: round(v, 2) for k, v in sides.items()}


@dataclass(frozen=True)
class Detection:
    """One object.

    label, index: of its class.
    score: 0..1.
    box: around it.
    track: number of the object, the same in each frame while it is tracked; None without tracking.
    """

    label: str
    index: int
    score: float
    box: Box
    track: int | None = None

    def to_json(self) -> dict[str, Any]:
        score, box = round(self.score, 5), self.box.to_json()
        document = {"kind": "detection", "label": self.label, "index": self.index, "score": score, "box": box}
        return document if self.track is None else {**document, "track": self.track}


@dataclass(frozen=True)
class Region:
    """All pixels of one class.

    label, index: of the class.
    score: share of `over` that the class covers, 0..1.
    box: around the class.
    over: the part of the frame that the mask covers.
    mask: bool [rows, columns], stretched over `over`.
    """

    label: str
    index: int
    score: float
    box: Box
    over: Box
    mask: NDArray[np.bool_] = field(compare=False)

    def to_json(self) -> dict[str, Any]:
        rows, columns = self.mask.shape
        flat = np.concatenate([[False], self.mask.reshape(-1), [False]])
        edges = np.flatnonzero(flat[1:] != flat[:-1])  # where runs of other classes and runs of this class change
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
    """One point of a pose. x, y: pixels of the frame. score: 0..1."""

    name: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Pose:
    """One person, or another kind of body.

    label, index: of its class.
    score: 0..1.
    box: around the body, or around its points.
    points: in the order of the model.
    """

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
    """Which model made a prediction.

    name, version: of the bundle.
    sha256: of the .tflite file that ran.
    """

    name: str
    version: str
    sha256: str


Code = Literal["opening", "camera", "no_frame", "frozen", "no_motion", "unreadable", "stale", "inference_stuck"]


@dataclass(frozen=True)
class Cause:
    """Why a frame got no inference.

    code: for programs. `opening`: the camera is being opened. `camera`: it failed and is being reopened. `no_frame`: it
        is open, but delivers no frames. `frozen`: it has delivered the same image for too long. `no_motion`: nothing
        moved, so inference was skipped. `unreadable`: this image cannot be decoded. `stale`: the frame was too old when
        its turn came. `inference_stuck`: the model does not return.
    text: for people.
    """

    code: Code
    text: str


@dataclass(frozen=True)
class Result:
    """The result for one frame.

    device: name of the device config.
    source: name of the camera or file, without credentials.
    frame_id: counts the frames of this source from 0, including dropped ones.
    captured_at: UTC, ISO 8601.
    captured_ns: the same moment on this machine's monotonic clock, in nanoseconds.
    model: which one ran.
    width, height: of the frame in pixels; None if there was no frame.
    latency_ms: milliseconds of each stage.
    predictions: best first. Empty with status `ok`: inference ran and found nothing.
    dropped: number of frames lost since the last result, by cause.
    cause: why there was no inference; None if there was.
    moment_ns: time on the source's own clock in nanoseconds; 0 = `captured_ns`.
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
        """Nanoseconds on the source's own clock. Durations use it: a clip has its own time, however fast it plays."""
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
