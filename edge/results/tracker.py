"""Which box is the one of the frame before: ids that stay, at 5 frames a second and at 60.

After ByteTrack (Zhang et al. 2022): sure boxes are matched with what is followed first, then the unsure ones with what
is left, since a thing that is half hidden scores low and is still there. Between frames each box moves on by a Kalman
filter of constant velocity, in seconds: frames may be dropped and rates may change. Boxes are matched a little larger
than they are (Yang et al. 2023, "Hard to Track Objects with Irregular Motions and Similar Appearances", section 3), so
that a fast thing at few frames a second still meets itself. Matching takes the best pair first, within a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.predictions import Detection

Floats = NDArray[np.float64]
LOW = 0.1  # of a score: below it a box is not even asked about
SAME = 0.6  # overlap from which two boxes show one thing, whatever they call it


@dataclass(frozen=True)
class TrackerConfig:
    """confirm: looks until it counts, the first one included. keep_s: seconds that a thing may be out of sight. grow:
    of a box on each side, for matching, in its own size. meet, meet_unsure: overlap that is needed, of grown boxes.
    most: tracks at a time."""

    confirm: int = 2
    keep_s: float = 2.0
    grow: float = 0.3
    meet: float = 0.15
    meet_unsure: float = 0.4
    most: int = 200


# of a box's size: of an edge as measured, and of what it may speed up in a second
MEASURED, ACCELERATION = 0.05, 3.0


class Tracker:
    """Of one camera. Each state is an array over the tracks: what would be objects is rows."""

    def __init__(self, config: TrackerConfig = TrackerConfig()) -> None:
        self.config = config
        self._next = 1
        self._at_ns: int | None = None
        self._ids = np.empty(0, np.int64)
        self._classes = np.empty(0, np.int64)
        self._looks = np.empty(0, np.int64)  # in a row, until it is confirmed
        self._confirmed = np.empty(0, bool)
        self._seen_s = np.empty(0)  # seconds since it was seen
        self._state = np.empty((0, 4))  # middle x, y, width, height
        self._speed = np.empty((0, 4))
        self._covariance = np.empty((0, 4, 3))  # of each: place, place with speed, speed

    def __call__(self, found: Sequence[Detection], at_ns: int, sure: float) -> tuple[Detection, ...]:
        """The boxes with the id of what they show, where it is followed.

        found: also those that score less than `sure`, down to LOW; of them those are left out that nothing explains
        which is followed, and those that a better one covers. at_ns: of capture, on a clock that nobody sets.
        """
        self._move((at_ns - self._at_ns) / 1e9 if self._at_ns is not None else 0.0)
        self._at_ns = at_ns
        boxes = np.asarray([(d.box.x, d.box.y, d.box.width, d.box.height) for d in found], np.float64).reshape(-1, 4)
        boxes[:, :2] += boxes[:, 2:] / 2
        scores = np.asarray([d.score for d in found])
        classes = np.asarray([d.index for d in found], np.int64)
        track_of = np.full(len(found), -1)
        unsure = scores < sure
        unsure[unsure] = ~_covered(boxes[unsure], scores[unsure], boxes, scores)
        for some, meet in ((scores >= sure, self.config.meet), (unsure, self.config.meet_unsure)):
            rows = np.flatnonzero(some)
            free = np.ones(len(self._ids), bool)
            free[track_of[track_of >= 0]] = False
            left = np.flatnonzero(free)
            found_rows, columns = self._pairs(boxes[rows], classes[rows], left, meet)
            track_of[rows[found_rows]] = left[columns]
        matched = np.flatnonzero(track_of >= 0)
        self._correct(track_of[matched], boxes[matched])
        known = matched[self._confirmed[track_of[matched]]]
        ids = dict(zip(known.tolist(), self._ids[track_of[known]].tolist(), strict=True))
        self._forget()
        new = np.flatnonzero((track_of < 0) & (scores >= sure))[: max(0, self.config.most - len(self._ids))]
        self._begin(boxes[new], classes[new])
        return tuple(
            Detection(d.label, d.index, d.score, d.box, ids[i]) if i in ids else d
            for i, d in enumerate(found)
            if d.score >= sure or i in ids
        )

    def _move(self, seconds: float) -> None:
        """By what each did last, and with less certainty."""
        self._seen_s += seconds
        self._state += self._speed * seconds
        self._state[:, 2:] = np.maximum(self._state[:, 2:], 1.0)
        place, both, speed = (self._covariance[:, :, k] for k in range(3))
        size = self._size()
        jolt = (ACCELERATION * size) ** 2
        jolt[:, 2:] *= 0.05  # things change their size slowly
        place += 2 * seconds * both + seconds**2 * speed + seconds**4 / 4 * jolt
        both += seconds * speed + seconds**3 / 2 * jolt
        speed += seconds**2 * jolt

    def _correct(self, tracks: NDArray[np.int64], boxes: Floats) -> None:
        """With what was measured (Kalman 1960), each coordinate by itself."""
        place, both, speed = (self._covariance[tracks, :, k] for k in range(3))
        noise = (MEASURED * self._size()[tracks]) ** 2
        error = boxes - self._state[tracks]
        gain, gain_speed = place / (place + noise), both / (place + noise)
        self._state[tracks] += gain * error
        self._speed[tracks] += gain_speed * error
        new = [(1 - gain) * place, (1 - gain) * both, speed - gain_speed * both]
        self._covariance[tracks] = np.stack(new, axis=2)
        self._seen_s[tracks] = 0
        self._looks[tracks] += 1
        self._confirmed |= self._looks >= self.config.confirm

    def _forget(self) -> None:
        """What was out of sight for too long, and what was seen once and not again."""
        fresh = self._seen_s == 0
        keep = fresh | (self._confirmed & (self._seen_s <= self.config.keep_s))
        if not keep.all():
            self._each(lambda a: a[keep])

    def _begin(self, boxes: Floats, classes: NDArray[np.int64]) -> None:
        n = len(boxes)
        if not n:
            return
        size = np.concatenate([boxes[:, 2:], boxes[:, 2:]], axis=1)
        covariance = np.stack([(MEASURED * size) ** 2, np.zeros((n, 4)), (2 * size) ** 2], axis=2)
        self._ids = np.concatenate([self._ids, np.arange(self._next, self._next + n)])
        self._next += n
        self._classes = np.concatenate([self._classes, classes])
        self._looks = np.concatenate([self._looks, np.ones(n, np.int64)])
        self._confirmed = np.concatenate([self._confirmed, np.full(n, self.config.confirm <= 1)])
        self._seen_s = np.concatenate([self._seen_s, np.zeros(n)])
        self._state = np.concatenate([self._state, boxes])
        self._speed = np.concatenate([self._speed, np.zeros((n, 4))])
        self._covariance = np.concatenate([self._covariance, covariance])

    def _size(self) -> Floats:
        """[n, 4]: what each coordinate is measured by: the width, or the height."""
        return np.concatenate([self._state[:, 2:], self._state[:, 2:]], axis=1)

    def _each(self, change: object) -> None:
        for name in ("_ids", "_classes", "_looks", "_confirmed", "_seen_s", "_state", "_speed", "_covariance"):
            setattr(self, name, change(getattr(self, name)))  # type: ignore[operator]

    def _pairs(
        self, boxes: Floats, classes: NDArray[np.int64], tracks: NDArray[np.int64], meet: float
    ) -> tuple[list[int], list[int]]:
        """(boxes, tracks) of the pairs that overlap enough, the best first, each once."""
        if not len(boxes) or not len(tracks):
            return [], []
        overlap = overlaps(boxes, self._state[tracks], self.config.grow)
        overlap[classes[:, None] != self._classes[tracks][None, :]] = 0
        # one that is confirmed goes before one that may be noise
        order = overlap + 0.5 * self._confirmed[tracks][None, :] * (overlap > 0)
        pairs: dict[int, int] = {}
        rows, columns = np.nonzero(overlap >= meet)
        used = set[int]()
        best = np.argsort(-order[rows, columns], kind="stable")
        for row, column in zip(rows[best].tolist(), columns[best].tolist(), strict=True):
            if row not in pairs and column not in used:
                pairs[row] = column
                used.add(column)
        return list(pairs), list(pairs.values())


def _covered(boxes: Floats, scores: Floats, others: Floats, their_scores: Floats) -> NDArray[np.bool_]:
    """Which boxes lie where a better one of the others lies: second thoughts about what that shows."""
    if not len(boxes):
        return np.zeros(0, bool)
    better = their_scores[None, :] > scores[:, None]
    return np.asarray(((overlaps(boxes, others) >= SAME) & better).any(axis=1))


def overlaps(a: Floats, b: Floats, grow: float = 0.0) -> Floats:
    """[n, m]: intersection over union of [n, 4] and [m, 4] (middle x, y, width, height), each `grow` of its own size
    larger on every side."""
    size_a, size_b = a[:, None, 2:] * (1 + 2 * grow), b[None, :, 2:] * (1 + 2 * grow)
    low = np.maximum(a[:, None, :2] - size_a / 2, b[None, :, :2] - size_b / 2)
    high = np.minimum(a[:, None, :2] + size_a / 2, b[None, :, :2] + size_b / 2)
    shared = np.maximum(high - low, 0).prod(axis=2)
    return np.asarray(shared / np.maximum(size_a.prod(axis=2) + size_b.prod(axis=2) - shared, 1e-9))
