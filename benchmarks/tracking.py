"""Quality of the tracker, compared with a plain IoU tracker: `python -m benchmarks.tracking`.

A synthetic scene at 5, 15 and 30 frames a second. Objects cross, stop, turn and appear, and a wall hides them for a
second. Boxes jitter, are missing, have low scores, or show nothing. It prints one JSON line for each rate, with MOTA
(Bernardin & Stiefelhagen 2008), IDF1 (Ristani et al. 2016) and id switches of both trackers, and the milliseconds a
frame for 50 objects.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.agent import show
from edge.results.tracker import Tracker, overlaps
from sightline.predictions import Box, Detection

WIDTH, HEIGHT, SECONDS, HIGH_SCORE = 1280, 720, 30, 0.5
Truth = tuple[int, float, float, float, float]  # an object: id, and centre x, y, width, height in pixels
Follow = Callable[[Sequence[Detection], int], Sequence[Detection]]


def scene(fps: int, objects: int = 8, seed: int = 0) -> tuple[list[list[Truth]], list[list[Detection]]]:
    """The objects in each frame, and the detections in each frame."""
    rng = np.random.default_rng(seed)
    walks = []
    for k in range(objects):
        start, size = rng.uniform((100, 100), (1100, 600)), rng.uniform((40, 60), (110, 150))
        legs = rng.uniform(-220, 220, (SECONDS // 3 + 1, 2)) * (1 if k % 3 else (1.8, 0.3))
        legs[rng.random(len(legs)) < 0.15] = 0
        walks.append((start, size, legs, rng.uniform(0, 6)))
    truth: list[list[Truth]] = []
    detections: list[list[Detection]] = []
    for f in range(SECONDS * fps):
        t = f / fps
        present: list[Truth] = []
        boxes: list[Detection] = []
        for k, (start, size, legs, begin) in enumerate(walks):
            if t < begin:
                continue
            whole, part = divmod(t, 3)
            way = start + legs[: int(whole)].sum(0) * 3 + legs[int(whole)] * part
            size_px = np.asarray((WIDTH, HEIGHT))
            x, y = np.abs((way + size_px) % (2 * size_px) - size_px)  # objects turn at the edge of the image
            present.append((k, x, y, *size))
            hidden = 560 < x < 680  # a wall
            score = rng.normal(0.75, 0.1) if not hidden else rng.normal(0.2, 0.1)
            if rng.random() < (0.05 if not hidden else 0.6):
                continue
            jitter = rng.normal(0, 0.03, 4) * (*size, *size)
            boxes.append(box(x + jitter[0], y + jitter[1], size[0] + jitter[2], size[1] + jitter[3], score))
        for _ in range(rng.poisson(0.2)):
            boxes.append(box(*rng.uniform((0, 0, 30, 30), (WIDTH, HEIGHT, 90, 90)), rng.uniform(0.1, 0.65)))
        truth.append(present)
        detections.append([b for b in boxes if b.score >= 0.1])
    return truth, detections


def box(x: float, y: float, width: float, height: float, score: float) -> Detection:
    width, height = max(width, 2.0), max(height, 2.0)
    return Detection("thing", 0, float(np.clip(score, 0, 1)), Box(x - width / 2, y - height / 2, width, height))


class Plain:
    """Matches each box to the last frame's box with the largest IoU of at least 0.3. It keeps boxes for a second."""

    def __init__(self, fps: int) -> None:
        self._keep, self._next, self._known = fps, 1, list[tuple[int, np.ndarray, int]]()  # type: ignore[type-arg]

    def __call__(self, detections: Sequence[Detection], at_ns: int) -> Sequence[Detection]:
        confident = [d for d in detections if d.score >= HIGH_SCORE]
        boxes = centres(confident)
        ids: dict[int, int] = {}
        if self._known and confident:
            overlap = overlaps(boxes, np.asarray([b for _, b, _ in self._known]))
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[row, column] >= 0.3:
                    ids[int(row)] = int(column)
        remembered = []
        for column, (i, known, age) in enumerate(self._known):
            row = next((r for r, c in ids.items() if c == column), None)
            if row is not None:
                remembered.append((i, boxes[row], 0))
            elif age < self._keep:
                remembered.append((i, known, age + 1))
        tracks = {row: self._known[column][0] for row, column in ids.items()}
        for row in range(len(confident)):
            if row not in tracks:
                tracks[row], self._next = self._next, self._next + 1
                remembered.append((tracks[row], boxes[row], 0))
        self._known = remembered
        return [Detection(d.label, d.index, d.score, d.box, tracks[i]) for i, d in enumerate(confident)]


def centres(detections: Sequence[Detection]) -> np.ndarray:  # type: ignore[type-arg]
    rows = [(d.box.x + d.box.width / 2, d.box.y + d.box.height / 2, d.box.width, d.box.height) for d in detections]
    return np.asarray(rows, np.float64).reshape(-1, 4)


def judge(truth: list[list[Truth]], detections: list[list[Detection]], follow: Follow, fps: int) -> dict[str, float]:
    """MOTA, IDF1 and id switches. A box counts for an object from an IoU of 0.5 on."""
    total = missed = wrong = switches = 0
    last: dict[int, int] = {}
    together: dict[tuple[int, int], int] = {}
    of_truth, of_tracks = dict[int, int](), dict[int, int]()
    for f, (present, boxes) in enumerate(zip(truth, detections, strict=True)):
        tracked = [d for d in follow(boxes, int(f / fps * 1e9)) if d.track is not None]
        total += len(present)
        for k, *_ in present:
            of_truth[k] = of_truth.get(k, 0) + 1
        for d in tracked:
            of_tracks[d.track or 0] = of_tracks.get(d.track or 0, 0) + 1
        pairs = []
        if present and tracked:
            overlap = overlaps(np.asarray([t[1:] for t in present]), centres(tracked))
            bonus = np.asarray([[last.get(t[0]) == d.track for d in tracked] for t in present])
            rows, columns = linear_sum_assignment(-(overlap + bonus) * (overlap >= 0.5))
            pairs = [(r, c) for r, c in zip(rows, columns, strict=True) if overlap[r, c] >= 0.5]
        for r, c in pairs:
            k, track = present[r][0], tracked[c].track or 0
            switches += k in last and last[k] != track
            last[k] = track
            together[k, track] = together.get((k, track), 0) + 1
        missed += len(present) - len(pairs)
        wrong += len(tracked) - len(pairs)
    objects, tracks = sorted(of_truth), sorted(of_tracks)
    table = np.asarray([[together.get((k, t), 0) for t in tracks] for k in objects]).reshape(len(objects), -1)
    rows, columns = linear_sum_assignment(-table)
    idf1 = 2 * table[rows, columns].sum() / (sum(of_truth.values()) + sum(of_tracks.values()))
    return {"mota": 1 - (missed + wrong + switches) / total, "idf1": float(idf1), "switches": switches}


def compare(fps: int, seeds: int = 3) -> tuple[dict[str, float], dict[str, float]]:
    """(our figures, the plain tracker's figures): means over several scenes."""
    ours, plain = [], []
    for seed in range(seeds):
        truth, detections = scene(fps, seed=seed)
        tracker = Tracker()
        ours.append(judge(truth, detections, lambda boxes, at, t=tracker: t(boxes, at, HIGH_SCORE), fps))  # type: ignore[misc]
        plain.append(judge(truth, detections, Plain(fps), fps))
    means = [{k: statistics.mean(r[k] for r in results) for k in results[0]} for results in (ours, plain)]
    return means[0], means[1]


def main() -> None:
    for fps in (5, 15, 30):
        ours, plain = compare(fps)
        show(f"tracking/{fps}_fps", ratio=ours["idf1"] / plain["idf1"], **ours,
             **{f"plain_{k}": v for k, v in plain.items()})  # fmt: skip
    _, detections = scene(30, objects=50)
    tracker, times = Tracker(), []
    for f, boxes in enumerate(detections):
        began = time.perf_counter()
        tracker(boxes, int(f / 30 * 1e9), HIGH_SCORE)
        times.append(1000 * (time.perf_counter() - began))
    ms = statistics.median(times[300:])
    show("tracking/50_things", ratio=ms / 0.5, ms=ms)


if __name__ == "__main__":
    main()
