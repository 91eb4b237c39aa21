"""Zones and lines in a camera's image: which tracked objects are inside a zone, and which cross a line.

An object stands where the middle of its box's lower edge is. It is in a zone, or on one side of a line, once
MIN_CONSECUTIVE_FRAMES frames in a row agree: a box that jitters on the border neither enters nor leaves.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sightline.errors import ConfigError
from sightline.predictions import Detection, ModelId, Result
from sightline.strict_config import near

MIN_CONSECUTIVE_FRAMES = 2
GONE_S = 3.0  # out of sight, after which an object has left; longer than the tracker keeps it
Point = tuple[float, float]
Direction = Literal["right", "left"]
State = Literal["enter", "leave", "right", "left"]
# the counts of each kind: objects in the zone now; objects that crossed since the start, by direction
COUNTS: dict[Literal["zone", "line"], tuple[str, ...]] = {"zone": ("inside",), "line": ("right", "left")}
_ZONE = re.compile(r"\s*(?P<name>[\w-]+)\s*:\s*(?P<points>[\d.,\s]+?)(?:\s+on\s+(?P<camera>\S.*?))?\s*")


@dataclass(frozen=True)
class Zone:
    """A zone, or a line.

    kind: `zone` has three corners or more, `line` has two ends.
    points: fractions of the image, from the left and the top.
    camera: '' = every camera.
    """

    kind: Literal["zone", "line"]
    name: str
    points: tuple[Point, ...]
    camera: str = ""

    def contains(self, p: Point) -> bool:
        """For a zone: counts how often a ray to the right meets its edges."""
        inside = False
        for (x1, y1), (x2, y2) in zip(self.points, (*self.points[1:], self.points[0]), strict=True):
            if (y1 > p[1]) != (y2 > p[1]) and p[0] < x1 + (p[1] - y1) / (y2 - y1) * (x2 - x1):
                inside = not inside
        return inside

    def side(self, p: Point) -> float:
        """For a line, from its first end towards its second: above 0 = p is on the right, below 0 = on the left."""
        a, b = self.points
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    def between(self, p: Point, q: Point) -> bool:
        """For a line: whether the way from p to q crosses it, and does not pass one of its ends."""
        a, b = self.points
        way = Zone("line", "", (p, q))
        return self.side(p) * self.side(q) < 0 and way.side(a) * way.side(b) <= 0


def parse_zone(kind: Literal["zone", "line"], text: str, cameras: Sequence[str]) -> Zone:
    """Read the text of --zone or --line. Raises ConfigError."""
    form = "'door: 0.1,0.2 0.6,0.2 0.6,0.9'" if kind == "zone" else "'gate: 0.5,0 0.5,1'"
    match = _ZONE.fullmatch(text)
    try:
        if not match:
            raise ValueError
        points = [tuple(float(v) for v in pair.split(",")) for pair in match["points"].split()]
        if any(len(p) != 2 or not all(0 <= v <= 1 for v in p) for p in points):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--{kind} {text!r}: not a {kind}. Write {form}, in fractions of the image.") from None
    if len(points) != 2 if kind == "line" else len(points) < 3:
        needed = "a line needs two ends" if kind == "line" else "a zone needs three corners or more"
        raise ConfigError(f"--{kind} {text!r}: {needed}, not {len(points)}.")
    if len(set(points)) < len(points):
        raise ConfigError(f"--{kind} {text!r}: two of its points are equal.")
    camera = match["camera"] or ""
    if camera and camera not in cameras:
        raise ConfigError(f"--{kind} {text!r}: no camera {camera!r}{near(camera, cameras)}")
    return Zone(kind, match["name"], tuple((x, y) for x, y in points), camera)


@dataclass(frozen=True)
class ZoneEvent:
    """An object entered or left a zone, or crossed a line.

    state: `enter` or `leave` a zone; `right` or `left`: the direction across a line, from its first end to its second.
    zone: name of the zone or line.
    track: id of the object.
    count: objects in the zone now, or objects that crossed the line in this direction since the start.
    seconds: time that the object spent in the zone; None unless it leaves.
    at: UTC, ISO 8601.
    """

    id: str
    state: State
    zone: str
    device: str
    source: str
    label: str
    track: int
    count: int
    seconds: float | None
    at: str
    model: ModelId

    @property
    def key(self) -> str:
        return self.id

    @property
    def count_name(self) -> str:
        """Which of the zone's COUNTS `count` is."""
        return self.state if self.state in ("right", "left") else "inside"

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "zone": self.zone,
            "device": self.device,
            "source": self.source,
            "label": self.label,
            "track": self.track,
            "count": self.count,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "at": self.at,
            "model": {"name": self.model.name, "version": self.model.version, "sha256": self.model.sha256},
        }


@dataclass
class _Track:
    """One object at one zone or line.

    side: the confirmed side; 0 = none yet. See `ZoneCounter._side`.
    candidate, frames: the side of the last frames, and the number of frames in a row with it.
    point: where the object was when `candidate` last agreed with `side`.
    last_ns: when it was last detected.
    since_ns: when it entered the zone.
    """

    label: str
    side: int = 0
    candidate: int = 0
    frames: int = 0
    point: Point = (0.0, 0.0)
    last_ns: int = 0
    since_ns: int = 0


class ZoneCounter:
    """Counts objects at one zone or line of one camera. Only one thread may use an object: the publisher's.

    inside: number of objects in the zone.
    crossed: number of objects that crossed the line, by direction.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.inside = 0
        self.crossed: dict[Direction, int] = {"right": 0, "left": 0}
        self._tracks: dict[int, _Track] = {}

    @property
    def tracks(self) -> int:
        """Number of objects in memory."""
        return len(self._tracks)

    def update(self, result: Result) -> Iterable[ZoneEvent]:
        """The events of the camera's next result. A frame without inference has none."""
        if result.cause is not None or not result.width or not result.height:
            return
        for d in result.predictions:
            if not isinstance(d, Detection) or d.track is None:
                continue
            point = ((d.box.x + d.box.width / 2) / result.width, (d.box.y + d.box.height) / result.height)
            track = self._tracks.setdefault(d.track, _Track(d.label, point=point))
            track.last_ns = result.moment
            side = self._side(point)
            track.frames = track.frames + 1 if side == track.candidate else 1
            track.candidate = side
            if side == track.side:
                track.point = point
            elif side and track.frames >= MIN_CONSECUTIVE_FRAMES:
                yield from self._change_side(result, d.track, track, point, side)
        for i in [i for i, t in self._tracks.items() if result.moment - t.last_ns > GONE_S * 1e9]:
            track = self._tracks.pop(i)
            if self.zone.kind == "zone" and track.side > 0:
                self.inside -= 1
                yield self._event(result, "leave", i, track, self.inside)

    def _side(self, point: Point) -> int:
        """1 and -1: inside and outside of the zone, right and left of the line. 0: on the line."""
        if self.zone.kind == "zone":
            return 1 if self.zone.contains(point) else -1
        side = self.zone.side(point)
        return (side > 0) - (side < 0)

    def _change_side(self, result: Result, i: int, track: _Track, point: Point, side: int) -> Iterable[ZoneEvent]:
        side_before, point_before = track.side, track.point
        track.side, track.point = side, point
        if self.zone.kind == "zone":
            if side > 0:
                self.inside += 1
                track.since_ns = result.moment
                yield self._event(result, "enter", i, track, self.inside)
            elif side_before > 0:
                self.inside -= 1
                yield self._event(result, "leave", i, track, self.inside)
        elif side_before and self.zone.between(point_before, point):
            direction: Direction = "right" if side > 0 else "left"
            self.crossed[direction] += 1
            yield self._event(result, direction, i, track, self.crossed[direction])

    def _event(self, result: Result, state: State, i: int, track: _Track, count: int) -> ZoneEvent:
        seconds = (result.moment - track.since_ns) / 1e9 if state == "leave" else None
        return ZoneEvent(
            secrets.token_hex(8), state, self.zone.name, result.device, result.source, track.label, i, count,
            seconds, result.captured_at, result.model,
        )  # fmt: skip
