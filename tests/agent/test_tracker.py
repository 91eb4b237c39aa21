"""Ids that stay: through crossings, a wall, missed looks and other rates; and things that were never there."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tracking import HIGH_SCORE, compare
from edge.results.tracker import LOW, Tracker, TrackerConfig, overlaps
from sightline.predictions import Box, Detection


def thing(
    x: float, y: float = 100, score: float = 0.9, label: int = 0, width: float = 40, height: float = 80
) -> Detection:
    return Detection("ab"[label], label, score, Box(x, y, width, height))


def ids(tracker: Tracker, found: list[Detection], seconds: float) -> list[int | None]:
    return [d.track for d in tracker(found, int(seconds * 1e9), HIGH_SCORE)]


@pytest.mark.parametrize("fps", [5, 15, 60])
def test_two_that_cross_keep_their_ids(fps: int) -> None:
    tracker = Tracker()
    seen: list[list[int | None]] = []
    for f in range(4 * fps):
        t = f / fps
        found = [thing(100 + 120 * t, 100), thing(560 - 120 * t, 130)]
        seen.append(ids(tracker, found if f % 2 else found[::-1], t)[:: 1 if f % 2 else -1])
    assert {tuple(s) for s in seen[2:]} == {tuple(seen[-1])} and None not in seen[-1]
    assert len(set(seen[-1])) == 2


@pytest.mark.parametrize("fps", [5, 30])
def test_one_behind_a_wall_comes_out_as_itself(fps: int) -> None:
    tracker = Tracker()
    before = after = None
    for f in range(4 * fps):
        t = f / fps
        found = [] if 1.5 < t < 2.7 else [thing(100 + 100 * t)]
        got = ids(tracker, found, t)
        before = got[0] if t < 1.5 and got else before
        after = got[0] if t > 3 else after
    assert before is not None and before == after


def test_one_that_scores_low_for_a_while_is_followed_on_and_one_that_always_does_is_nothing() -> None:
    tracker = Tracker()
    for f in range(60):
        low = 20 <= f < 40
        found = [thing(100 + 2 * f, score=0.2 if low else 0.9), thing(600, score=0.3)]
        got = tracker(found, f * 33_000_000, HIGH_SCORE)
        if f >= 2:
            assert [d.track for d in got] == [1], f
    assert LOW < 0.2


def test_one_look_is_no_track_and_a_class_is_not_another() -> None:
    tracker = Tracker()
    assert ids(tracker, [thing(100)], 0.0) == [None]
    assert ids(tracker, [thing(101), thing(102, label=1)], 0.03) == [1, None]
    assert ids(tracker, [thing(103, label=1)], 0.06) == [2]
    for i in range(5):  # noise: never twice at one place
        assert ids(tracker, [thing(300 + 150 * i, 300)], 0.1 + i / 30) == [None]


def test_after_its_time_it_is_another() -> None:
    tracker = Tracker(TrackerConfig(keep_s=1.0))
    for f in range(5):
        ids(tracker, [thing(100)], f / 30)
    assert ids(tracker, [], 0.9) == []
    assert ids(tracker, [thing(100)], 1.0) == [1]
    assert ids(tracker, [], 2.5) == []
    assert ids(tracker, [thing(100)], 2.6) == [None]


def test_a_pause_of_hours_and_a_flood_of_boxes_are_borne() -> None:
    tracker = Tracker()
    rng = np.random.default_rng(0)
    for f in range(20):
        flood = [thing(*rng.uniform(0, 5000, 2)) for _ in range(400)]
        got = tracker(flood, f * 33_000_000, HIGH_SCORE)
        assert len(got) == 400
    assert tracker.tracks <= 200, "memory has an end"
    assert ids(tracker, [thing(100)], 1e5) == [None]
    assert tracker.tracks == 1
    (track,) = ids(tracker, [thing(101)], 1e5 + 0.03)
    assert track is not None and ids(tracker, [thing(102)], 1e5 + 0.06) == [track], "its state is finite"


def test_boxes_of_no_size_and_equal_ones_break_nothing() -> None:
    tracker = Tracker()
    for f in range(10):
        found = [thing(100, width=0, height=0), thing(100), thing(100), thing(-1e6, 1e6)]
        followed = ids(tracker, found, f / 30)
    assert all(i is not None for i in followed[1:3]), "their state is finite"


def test_overlaps_are_those_of_two_rectangles() -> None:
    a = np.asarray([[10.0, 10, 10, 10]])
    b = np.asarray([[10.0, 10, 10, 10], [15, 10, 10, 10], [30, 10, 10, 10]])
    assert overlaps(a, b)[0] == pytest.approx([1, 1 / 3, 0])
    assert overlaps(a, b, grow=0.5)[0] == pytest.approx([1, 300 / 500, 0])


@pytest.mark.slow
@pytest.mark.parametrize(("fps", "idf1"), [(5, 0.55), (15, 0.85), (30, 0.88)])
def test_on_a_made_scene_it_is_better_than_overlap_alone(fps: int, idf1: float) -> None:
    ours, plain = compare(fps, seeds=2)
    assert ours["idf1"] > max(idf1, 1.2 * plain["idf1"]) and ours["mota"] > plain["mota"]
    assert ours["switches"] < plain["switches"] / 4


def test_a_second_thought_about_the_same_thing_is_no_thing_of_its_own() -> None:
    """Something that was taken for another class for a while: once that is unsure, the better box alone is shown."""
    tracker = Tracker()
    for f in range(5):
        tracker([thing(100, score=0.9), thing(102, score=0.6, label=1)], int(f * 1e8), HIGH_SCORE)
    found = tracker([thing(100, score=0.9), thing(102, score=0.2, label=1)], int(5e8), HIGH_SCORE)
    assert [d.label for d in found] == ["a"]
    apart = tracker([thing(100, score=0.9), thing(124, score=0.2, label=1)], int(6e8), HIGH_SCORE)
    assert [d.label for d in apart] == ["a", "b"], "half hidden behind another it is still followed"
