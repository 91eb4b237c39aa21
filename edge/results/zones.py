"""Who is where, and who went across: zones and lines in a camera's picture, for boxes that are followed.

A thing stands where the middle of its box's lower edge is. It is in a zone, or on a side of a line, once two looks in a
row say so: a box that jitters on the border goes neither in nor out.
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

MIN_CONSECUTIVE_FRAMES = 2  # looks in a row
GONE_S = 3.0  # out of sight, longer than a tracker keeps it: it has left
Point = tuple[float, float]
# what is counted of each kind: who is in the zone now; who went across since the start, to which side
COUNTS: dict[Literal["zone", "line"], tuple[str, ...]] = {"zone": ("inside",), "line": ("right", "left")}
_PLACE = re.compile(r"\s*(?P<name>[\w-]+)\s*:\s*(?P<points>[\d.,\s]+?)(?:\s+on\s+(?P<camera>\S.*?))?\s*")


@dataclass(frozen=True)
class Zone:
    """kind: `zone`, three corners or more, or `line`, two ends. points: fractions of the picture, from the left and the
    top. camera: '' = each one."""

    kind: Literal["zone", "line"]
    name: str
    points: tuple[Point, ...]
    camera: str = ""

    def contains(self, p: Point) -> bool:
        """Of a zone, by how often a ray to the right meets its edges."""
        inside = False
        for (x1, y1), (x2, y2) in zip(self.points, (*self.points[1:], self.points[0]), strict=True):
            if (y1 > p[1]) != (y2 > p[1]) and p[0] < x1 + (p[1] - y1) / (y2 - y1) * (x2 - x1):
                inside = not inside
        return inside

    def side(self, p: Point) -> float:
        """Of a line, looking from its first end to its second: above 0 = on the right, below = on the left."""
        a, b = self.points
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    def between(self, p: Point, q: Point) -> bool:
        """Whether the way from p to q goes through a line, and not past one of its ends."""
        a, b = self.points
        way = Zone("line", "", (p, q))
        return self.side(p) * self.side(q) < 0 and way.side(a) * way.side(b) <= 0


def parse_zone(kind: Literal["zone", "line"], text: str, cameras: Sequence[str]) -> Zone:
    """Raises ConfigError for what is none."""
    shape = "'door: 0.1,0.2 0.6,0.2 0.6,0.9'" if kind == "zone" else "'gate: 0.5,0 0.5,1'"
    found = _PLACE.fullmatch(text)
    try:
        if not found:
            raise ValueError
        points = [tuple(float(v) for v in pair.split(",")) for pair in found["points"].split()]
        if any(len(p) != 2 or not all(0 <= v <= 1 for v in p) for p in points):
            raise ValueError
    except ValueError:
        raise ConfigError(f"--{kind} {text!r}: not as {shape}, in fractions of the picture") from None
    if len(points) != 2 if kind == "line" else len(points) < 3:
        needed = "a line has two ends" if kind == "line" else "a zone has three corners or more"
        raise ConfigError(f"--{kind} {text!r}: {needed}, here are {len(points)}")
    if len(set(points)) < len(points):
        raise ConfigError(f"--{kind} {text!r}: two of its points are the same")
    camera = found["camera"] or ""
    if camera and camera not in cameras:
        raise ConfigError(f"--{kind} {text!r}: no camera {camera!r}{near(camera, cameras)}")
    return Zone(kind, found["name"], tuple((x, y) for x, y in points), camera)


@dataclass(frozen=True)
class ZoneEvent:
    """Something went in, out, or across. state: `enter` or `leave` a zone; `right` or `left`, across a line, to that
    side of who looks from its first end to its second. count: in the zone now, or across the line in this direction
    since the start. seconds: that it was in the zone. at: UTC, ISO 8601."""

    id: str
    state: Literal["enter", "leave", "right", "left"]
    place: str
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
    def counts(self) -> str:
        """Which of the place's numbers `count` is."""
        return self.state if self.state in ("right", "left") else "inside"

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "state": self.state,
            "place": self.place,
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
class _Seen:
    """One track at one place. side: what counts, 0 = nothing yet; new, looks: what the last looks say. point: where it
    was when `side` was last so. since_ns: in the zone."""

    label: str
    side: int = 0
    new: int = 0
    looks: int = 0
    point: Point = (0.0, 0.0)
    last_ns: int = 0
    since_ns: int = 0


class ZoneCounter:
    """One place in one camera's picture. inside: things that are in the zone. crossed: {direction: how many}."""

    def __init__(self, place: Zone) -> None:
        self.place = place
        self.inside = 0
        self.crossed = {"right": 0, "left": 0}
        self._seen: dict[int, _Seen] = {}

    def see(self, result: Result) -> Iterable[ZoneEvent]:
        """What this result lets pass. A frame that nobody looked at lets nothing pass."""
        if result.cause is not None or not result.width or not result.height:
            return
        for d in result.predictions:
            if not isinstance(d, Detection) or d.track is None:
                continue
            point = ((d.box.x + d.box.width / 2) / result.width, (d.box.y + d.box.height) / result.height)
            seen = self._seen.setdefault(d.track, _Seen(d.label, point=point))
            seen.last_ns = result.moment
            side = self._side(point)
            seen.looks = seen.looks + 1 if side == seen.new else 1
            seen.new = side
            if side == seen.side:
                seen.point = point
            elif side and seen.looks >= MIN_CONSECUTIVE_FRAMES:
                yield from self._passed(result, d.track, seen, point, side)
        for track in [t for t, s in self._seen.items() if result.moment - s.last_ns > GONE_S * 1e9]:
            seen = self._seen.pop(track)
            if self.place.kind == "zone" and seen.side > 0:
                self.inside -= 1
                yield self._passage(result, "leave", track, seen, self.inside)

    def _side(self, point: Point) -> int:
        """1 and -1: in the zone and out of it, right of the line and left of it; 0: on the line."""
        if self.place.kind == "zone":
            return 1 if self.place.contains(point) else -1
        side = self.place.side(point)
        return (side > 0) - (side < 0)

    def _passed(self, result: Result, track: int, seen: _Seen, point: Point, side: int) -> Iterable[ZoneEvent]:
        before, came_from = seen.side, seen.point
        seen.side, seen.point = side, point
        if self.place.kind == "zone":
            if side > 0:
                self.inside += 1
                seen.since_ns = result.moment
                yield self._passage(result, "enter", track, seen, self.inside)
            elif before > 0:
                self.inside -= 1
                yield self._passage(result, "leave", track, seen, self.inside)
        elif before and self.place.between(came_from, point):
            direction: Literal["right", "left"] = "right" if side > 0 else "left"
            self.crossed[direction] += 1
            yield self._passage(result, direction, track, seen, self.crossed[direction])

    def _passage(
        self, result: Result, state: Literal["enter", "leave", "right", "left"], track: int, seen: _Seen, count: int
    ) -> ZoneEvent:
        seconds = (result.moment - seen.since_ns) / 1e9 if state == "leave" else None
        return ZoneEvent(
            secrets.token_hex(8), state, self.place.name, result.device, result.source, seen.label, track, count,
            seconds, result.captured_at, result.model,
        )  # fmt: skip
