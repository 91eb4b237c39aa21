"""Object tracking: an object keeps its id from frame to frame, at 5 frames a second and at 60.

After ByteTrack (Zhang et al. 2022): boxes of high score are matched with the tracks first, then those of low score with
the tracks that are left, since a half hidden object scores low. Between frames a Kalman filter of constant velocity
moves each box, in seconds: frames may be dropped and rates may change. Boxes are enlarged for matching (Yang et al.
2023, "Hard to Track Objects with Irregular Motions and Similar Appearances", section 3), so that a fast object at few
frames a second still overlaps with itself. Matching takes the best pair first, within a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sightline.predictions import Detection

Floats = NDArray[np.float64]
LOW = 0.1  # score: boxes below it are not decoded
SAME_OBJECT_IOU = 0.6  # from which two boxes show one object, whatever their classes


@dataclass(frozen=True)
class TrackerConfig:
    """Limits of the tracker.

    confirm_frames: detections in a row until an object gets an id.
    keep_s: seconds that an object may be out of sight.
    grow: enlargement of a box on each side for matching, as a fraction of its size.
    min_iou, min_iou_low: overlap of enlarged boxes that a match needs, for boxes of high and of low score.
    max_tracks: maximum number of tracks at a time.
    """

    confirm_frames: int = 2
    keep_s: float = 2.0
    grow: float = 0.3
    min_iou: float = 0.15
    min_iou_low: float = 0.4
    max_tracks: int = 200


# as fractions of a box's size: the noise of a measured edge, and the acceleration in a second
NOISE, ACCELERATION = 0.05, 3.0


class Tracker:
    """Tracks the objects of one camera. Each attribute is an array with one row a track.

    Only one thread may use an object: the publisher's.
    """

    def __init__(self, config: TrackerConfig = TrackerConfig()) -> None:
        self.config = config
        self._next = 1
        self._at_ns: int | None = None
        self._ids = np.empty(0, np.int64)
        self._classes = np.empty(0, np.int64)
        self._hits = np.empty(0, np.int64)  # detections in a row, until it is confirmed
        self._confirmed = np.empty(0, bool)
        self._unseen_s = np.empty(0)  # seconds since the last detection
        self._state = np.empty((0, 4))  # centre x, y, width, height
        self._speed = np.empty((0, 4))
        self._covariance = np.empty((0, 4, 3))  # of each: position, position with speed, speed

    @property
    def tracks(self) -> int:
        """Number of tracks in memory."""
        return len(self._ids)

    def __call__(self, detections: Sequence[Detection], at_ns: int, threshold: float) -> tuple[Detection, ...]:
        """The detections, with the id of their object where it is tracked.

        detections: also those below `threshold`, down to LOW. Of these, only those of tracked objects are returned,
        unless a better one covers them.
        at_ns: monotonic time of capture.
        threshold: score from which a detection is returned in any case, and may begin a track.
        """
        self._move((at_ns - self._at_ns) / 1e9 if self._at_ns is not None else 0.0)
        self._at_ns = at_ns
        boxes = np.asarray([(d.box.x, d.box.y, d.box.width, d.box.height) for d in detections], np.float64).reshape(
            -1, 4
        )
        boxes[:, :2] += boxes[:, 2:] / 2
        scores = np.asarray([d.score for d in detections])
        classes = np.asarray([d.index for d in detections], np.int64)
        track_of = np.full(len(detections), -1)
        low = scores < threshold
        low[low] = ~_covered(boxes[low], scores[low], boxes, scores)
        for selected, min_iou in ((scores >= threshold, self.config.min_iou), (low, self.config.min_iou_low)):
            rows = np.flatnonzero(selected)
            free = np.ones(len(self._ids), bool)
            free[track_of[track_of >= 0]] = False
            left = np.flatnonzero(free)
            matched_rows, columns = self._pairs(boxes[rows], classes[rows], left, min_iou)
            track_of[rows[matched_rows]] = left[columns]
        matched = np.flatnonzero(track_of >= 0)
        self._correct(track_of[matched], boxes[matched])
        known = matched[self._confirmed[track_of[matched]]]
        ids = dict(zip(known.tolist(), self._ids[track_of[known]].tolist(), strict=True))
        self._forget()
        new = np.flatnonzero((track_of < 0) & (scores >= threshold))[: max(0, self.config.max_tracks - len(self._ids))]
        self._begin(boxes[new], classes[new])
        return tuple(
            Detection(d.label, d.index, d.score, d.box, ids[i]) if i in ids else d
            for i, d in enumerate(detections)
            if d.score >= threshold or i in ids
        )

    def _move(self, seconds: float) -> None:
        """Predict each box by its speed, with growing uncertainty."""
        self._unseen_s += seconds
        self._state += self._speed * seconds
        self._state[:, 2:] = np.maximum(self._state[:, 2:], 1.0)
        position, both, speed = (self._covariance[:, :, k] for k in range(3))
        size = self._size()
        jolt = (ACCELERATION * size) ** 2
        jolt[:, 2:] *= 0.05  # objects change their size slowly
        position += 2 * seconds * both + seconds**2 * speed + seconds**4 / 4 * jolt
        both += seconds * speed + seconds**3 / 2 * jolt
        speed += seconds**2 * jolt

    def _correct(self, tracks: NDArray[np.int64], boxes: Floats) -> None:
        """Correct the prediction with the measured boxes (Kalman 1960), each coordinate by itself."""
        position, both, speed = (self._covariance[tracks, :, k] for k in range(3))
        noise = (NOISE * self._size()[tracks]) ** 2
        error = boxes - self._state[tracks]
        gain, gain_speed = position / (position + noise), both / (position + noise)
        self._state[tracks] += gain * error
        self._speed[tracks] += gain_speed * error
        new = [(1 - gain) * position, (1 - gain) * both, speed - gain_speed * both]
        self._covariance[tracks] = np.stack(new, axis=2)
        self._unseen_s[tracks] = 0
        self._hits[tracks] += 1
        self._confirmed |= self._hits >= self.config.confirm_frames

    def _forget(self) -> None:
        """Delete objects out of sight for too long, and those that were detected once and not again."""
        fresh = self._unseen_s == 0
        keep = fresh | (self._confirmed & (self._unseen_s <= self.config.keep_s))
        if not keep.all():
            self._each(lambda a: a[keep])

    def _begin(self, boxes: Floats, classes: NDArray[np.int64]) -> None:
        n = len(boxes)
        if not n:
            return
        size = np.concatenate([boxes[:, 2:], boxes[:, 2:]], axis=1)
        covariance = np.stack([(NOISE * size) ** 2, np.zeros((n, 4)), (2 * size) ** 2], axis=2)
        self._ids = np.concatenate([self._ids, np.arange(self._next, self._next + n)])
        self._next += n
        self._classes = np.concatenate([self._classes, classes])
        self._hits = np.concatenate([self._hits, np.ones(n, np.int64)])
        self._confirmed = np.concatenate([self._confirmed, np.full(n, self.config.confirm_frames <= 1)])
        self._unseen_s = np.concatenate([self._unseen_s, np.zeros(n)])
        self._state = np.concatenate([self._state, boxes])
        self._speed = np.concatenate([self._speed, np.zeros((n, 4))])
        self._covariance = np.concatenate([self._covariance, covariance])

    def _size(self) -> Floats:
        """[n, 4]: the size that each coordinate relates to: the width or the height."""
        return np.concatenate([self._state[:, 2:], self._state[:, 2:]], axis=1)

    def _each(self, change: object) -> None:
        for name in ("_ids", "_classes", "_hits", "_confirmed", "_unseen_s", "_state", "_speed", "_covariance"):
            setattr(self, name, change(getattr(self, name)))  # type: ignore[operator]

    def _pairs(
        self, boxes: Floats, classes: NDArray[np.int64], tracks: NDArray[np.int64], min_iou: float
    ) -> tuple[list[int], list[int]]:
        """(boxes, tracks) of the pairs that overlap enough, each box and track once, the best pair first."""
        if not len(boxes) or not len(tracks):
            return [], []
        overlap = overlaps(boxes, self._state[tracks], self.config.grow)
        overlap[classes[:, None] != self._classes[tracks][None, :]] = 0
        # a confirmed track goes before one that may be noise
        order = overlap + 0.5 * self._confirmed[tracks][None, :] * (overlap > 0)
        pairs: dict[int, int] = {}
        rows, columns = np.nonzero(overlap >= min_iou)
        used = set[int]()
        best = np.argsort(-order[rows, columns], kind="stable")
        for row, column in zip(rows[best].tolist(), columns[best].tolist(), strict=True):
            if row not in pairs and column not in used:
                pairs[row] = column
                used.add(column)
        return list(pairs), list(pairs.values())


def _covered(boxes: Floats, scores: Floats, others: Floats, their_scores: Floats) -> NDArray[np.bool_]:
    """Which boxes lie where a better one of the others lies, and show the same object."""
    if not len(boxes):
        return np.zeros(0, bool)
    better = their_scores[None, :] > scores[:, None]
    return np.asarray(((overlaps(boxes, others) >= SAME_OBJECT_IOU) & better).any(axis=1))


def overlaps(a: Floats, b: Floats, grow: float = 0.0) -> Floats:
    """[n, m]: intersection over union of [n, 4] and [m, 4] (centre x, y, width, height), each enlarged by `grow`
    of its own size on every side."""
    size_a, size_b = a[:, None, 2:] * (1 + 2 * grow), b[None, :, 2:] * (1 + 2 * grow)
    low = np.maximum(a[:, None, :2] - size_a / 2, b[None, :, :2] - size_b / 2)
    high = np.minimum(a[:, None, :2] + size_a / 2, b[None, :, :2] + size_b / 2)
    shared = np.maximum(high - low, 0).prod(axis=2)
    return np.asarray(shared / np.maximum(size_a.prod(axis=2) + size_b.prod(axis=2) - shared, 1e-9))
