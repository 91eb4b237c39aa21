"""From frames to events: what begins, what lasts, what is over, and what nobody saw."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from edge.outputs.send_filter import SendFilter
from edge.outputs.snapshots import Snapshots
from edge.results.event_rules import MARGIN, NO_INFERENCE_S, UPDATE_S, Event, EventTracker, Rule, parse_rule
from sightline.errors import ConfigError
from sightline.predictions import Cause, Classification, Code, ModelId, Result
from sightline.text import slug, slugs
from tests.conftest import Sightline

MODEL = ModelId("m", "1", "ab" * 32)
LABELS, CAMERAS = ("fox", "red fox", "cap>=off", "nothing"), ("door", "line 2")


def result(seconds: float, score: float | None, *, code: Code = "camera", label: str = "fox") -> Result:
    """score: of the label; None = nobody looked."""
    seen = () if score is None else (Classification(label, 0, score),)
    cause = Cause(code, "away") if score is None else None
    ns = int(seconds * 1e9) + 1
    return Result("d", "door", ns, f"at {seconds:g}", ns, MODEL, 8, 6, {}, seen, {}, cause)


def run(rule: Rule, *frames: tuple[float, float | None]) -> list[tuple[float, str, str]]:
    """(when, state, ended by) of each event."""
    watcher = EventTracker(rule)
    found = []
    for seconds, score in frames:
        if event := watcher.update(result(seconds, score)):
            found.append((seconds, event.state, event.ended_by))
    return found


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("fox>=0.8", ("fox", 0.8, 0.0, "")),
        ("  fox  >=  80 %  for  2 s ", ("fox", 0.8, 2.0, "")),
        ("red fox>=0.5 for 500ms on line 2", ("red fox", 0.5, 0.5, "line 2")),
        ("'cap>=off'>=1 for 1min on door", ("cap>=off", 1.0, 60.0, "door")),
        ('"fox">=.25', ("fox", 0.25, 0.0, "")),
    ],
)
def test_a_rule_is_read(text: str, rule: tuple[object, ...]) -> None:
    read = parse_rule(text, LABELS, CAMERAS)
    assert (read.label, read.score, read.for_s, read.camera) == rule


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("fox", "not a rule"),
        ("fox>0.8", "not a rule"),
        ("fox>=0.8 for 2", "not a rule"),
        ("fox>=0.8 for 2 hours", "not a rule"),
        ("fox>=1.2.3", "not a rule"),
        (">=0.8", "not a rule"),
        ("fox>=0", "above 0"),
        ("fox>=80", "at most 1"),
        ("foxx>=0.8", "did you mean fox"),
        ("fox>=0.8 on dor", "did you mean door"),
    ],
)
def test_what_is_no_rule_is_named(text: str, word: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_rule(text, LABELS, CAMERAS)
    assert word in str(error.value) and "--on" in str(error.value)


def test_it_begins_after_its_time_and_ends_after_it() -> None:
    rule = Rule("", "fox", 0.8, for_s=2)
    frames = [(t / 10, 0.9) for t in range(50)] + [(t / 10, 0.1) for t in range(50, 100)]
    assert run(rule, *frames) == [(2.0, "new", ""), (7.0, "end", "score")]


def test_one_bad_frame_neither_begins_nor_ends_anything() -> None:
    rule = Rule("", "fox", 0.8, for_s=1)
    flicker = [(t / 10, 0.9 if t % 5 else 0.1) for t in range(100)]
    assert run(rule, *flicker) == [], "never a second without a miss"
    steady = [(t / 10, 0.9) for t in range(20)] + [(2 + t / 10, 0.9 if t % 5 else 0.1) for t in range(70)]
    assert run(rule, *steady) == [(1.0, "new", "")], "and never a second of misses"


def test_a_score_around_the_limit_is_one_event() -> None:
    rule = Rule("", "fox", 0.8)
    hovering = [(t / 10, 0.8 + (0.5 * MARGIN if t % 2 else -0.9 * MARGIN)) for t in range(1, 80)]
    assert run(rule, *hovering) == [(0.1, "new", "")]


def test_a_low_limit_can_be_left_too() -> None:
    assert run(Rule("", "fox", 0.05), (0, 0.06), (1, 0.0), (2, 0.0), (3, 0.0))[-1] == (2, "end", "score")


def test_another_label_is_none_of_its_business() -> None:
    watcher = EventTracker(Rule("", "fox", 0.5))
    assert watcher.update(result(0, 0.9, label="red fox")) is None


def test_it_is_told_again_while_it_lasts_with_its_best_score() -> None:
    watcher = EventTracker(Rule("", "fox", 0.5))
    events = [e for t in range(25) if (e := watcher.update(result(t, 0.6 if t != 3 else 0.95)))]
    assert [(e.state, e.seconds) for e in events] == [("new", 0.0), ("update", UPDATE_S), ("update", 2 * UPDATE_S)]
    assert [e.best for e in events] == [0.6, 0.95, 0.95]
    assert len({e.id for e in events}) == 1 and {e.began_at for e in events} == {"at 0"}


def test_a_camera_that_is_away_neither_begins_nor_ends_it_until_nobody_can_say() -> None:
    rule = Rule("", "fox", 0.5, for_s=2)
    assert run(rule, (0, 0.9), (1, None), (2.5, 0.9), (3, 0.9)) == [], "not seen is not two seconds of fox"
    away = [(3 + t, None) for t in range(40)]
    found = run(rule, (0, 0.9), (1, 0.9), (2, 0.9), *away)
    assert found == [(2, "new", ""), (3 + NO_INFERENCE_S, "end", "no_inference")]
    short = [(3 + t, None) for t in range(20)]
    assert run(rule, (0, 0.9), (1, 0.9), (2, 0.9), *short, (23, 0.9)) == [(2, "new", ""), (23, "update", "")]


@pytest.mark.parametrize("every", [2, 3, 18])
def test_damaged_frames_in_between_say_neither_yes_nor_no(every: int) -> None:
    """At ten frames a second each `every`-th cannot be decoded."""
    rule = Rule("", "fox", 0.8, for_s=2)
    frames = [(t / 10, None if t % every == 0 else 0.9 if t < 60 else 0.1) for t in range(1, 120)]
    (new, end) = run(rule, *frames)
    assert new[1:] == ("new", "") and new[0] == pytest.approx(2.1, abs=0.15)
    assert end[1:] == ("end", "score") and end[0] == pytest.approx(8.0, abs=0.21)


def test_of_a_long_time_without_a_look_a_second_counts_and_after_half_a_minute_nothing_does() -> None:
    rule = Rule("", "fox", 0.8, for_s=2)
    gap = [(t, None) for t in range(1, 20)]
    assert run(rule, (0, 0.9), *gap, (20, 0.9), (20.9, 0.9)) == []
    assert run(rule, (0, 0.9), *gap, (20, 0.9), (21.1, 0.9)) == [(21.1, "new", "")]
    gap = [(t, None) for t in range(1, 31)]
    assert run(rule, (0, 0.9), *gap, (31, 0.9), (32.9, 0.9)) == []
    assert run(rule, (0, 0.9), *gap, (31, 0.9), (33, 0.9)) == [(33, "new", "")]
    during = [(0, 0.9), (2, 0.9), (3, 0.1), *[(t, None) for t in range(4, 20)]]
    assert [state for _, state, _ in run(rule, *during, (20, 0.1), (20.9, 0.1))] == ["new", "update"], "nor an end"
    assert run(rule, *during, (20, 0.1), (21.1, 0.1))[-1] == (21.1, "end", "score")


def test_turns_of_more_than_a_second_make_events() -> None:
    """Each frame that the model looks at counts, however many other cameras it looks at in between."""
    rule = Rule("", "fox", 0.8, for_s=2)
    assert run(rule, *[(1.4 * t, 0.9) for t in range(5)])[0] == (2.8, "new", "")


def test_where_nothing_moves_it_lasts() -> None:
    watcher = EventTracker(Rule("", "fox", 0.5))
    watcher.update(result(0, 0.9))
    still = [watcher.update(result(t, None, code="no_motion")) for t in range(1, 100)]
    assert not any(still)
    look = watcher.update(result(100, 0.1))
    assert look is not None and look.state == "update", "one look does not end it"
    end = watcher.update(result(101.5, 0.1))
    assert end is not None and (end.state, end.ended_by) == ("end", "score")


def test_the_end_of_the_agent_is_the_end_of_its_events() -> None:
    watcher = EventTracker(Rule("", "fox", 0.5))
    assert watcher.stop("now") is None
    watcher.update(result(0, 0.9))
    watcher.update(result(3, 0.9))
    end = watcher.stop("now")
    assert end is not None and (end.state, end.ended_by, end.seconds, end.at) == ("end", "stopped", 3.0, "now")


def test_a_clip_has_its_own_seconds_however_fast_it_is_replayed(bundle: Path, clip: Path, tmp_path: Path,
                                                                sightline: Sightline) -> None:  # fmt: skip
    """20 frames each of blue, green and red, at 30 a second; replayed in a fraction of that."""
    out = tmp_path / "events.jsonl"
    rules = [f"--on={label}>=0.5 for 500ms" for label in ("blue", "green", "red")]
    done = sightline("run", bundle, "--source", clip, "--no-page", *rules, "--output", out)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(e["label"], e["state"], e["ended_by"]) for e in events] == [
        ("blue", "new", None), ("green", "new", None), ("blue", "end", "score"), ("red", "new", None),
        ("green", "end", "stopped"), ("red", "end", "stopped"),
    ]  # fmt: skip
    lasted = {e["label"]: e["seconds"] for e in events if e["state"] == "end"}
    assert lasted["blue"] == pytest.approx(1.17, abs=0.15), "half a second is left, and a second without"


def event(camera: str = "door") -> Event:
    return Event("0" * 16, "new", "fox>=0.5", "d", camera, "fox", 0.9, 0.9, "a", "a", 0.0, MODEL)


def test_what_goes_out_is_what_was_asked_for() -> None:
    frames = [result(t / 10, 0.9, label="fox" if t < 25 else "red fox") for t in range(50)]
    assert sum(map(SendFilter("results"), frames)) == 50 and not SendFilter("results")(event())
    assert sum(map(SendFilter("events"), frames)) == 0 and SendFilter("events")(event())
    changes = SendFilter("changes")
    assert [r.captured_at for r in frames if changes(r)] == ["at 0", "at 2.5"] and not changes(event())
    flapping = [result(t / 10, 0.9, label=("fox", "red fox")[t % 2]) for t in range(51)]
    changes = SendFilter("changes")
    assert sum(map(changes, flapping)) <= 6, "one a second"


def test_names_for_files_and_topics_are_harmless_and_apart() -> None:
    assert slug("../../etc/x#+") == "etc_x"
    assert slug("") == slug("日本") == "_"
    assert len(slug("a" * 500)) == 40
    assert list(slugs(["a b", "a+b", "a/b", "c"]).values()) == ["a_b", "a_b_2", "a_b_3", "c"]


def frame(i: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(i).integers(0, 255, (120, 160, 3), np.uint8)


def test_snapshots_stay_within_their_budget_and_the_oldest_go(tmp_path: Path) -> None:
    (tmp_path / "mine.jpg").write_bytes(b"not theirs")
    for start in range(2):  # a second process knows what the first has left
        snapshots = Snapshots(tmp_path, 100_000)
        names, until = [], time.monotonic() + 10
        for i in range(8):
            at = f"2026-01-0{start + 1}T00:00:0{i}.000Z"
            while not (name := snapshots.put(frame(i), at, "a/b", f"{i:016x}")):
                assert time.monotonic() < until
            names.append(name)
        snapshots.close()
        there = sorted(p.name for p in tmp_path.glob("2026*"))
        assert there and there == names[-len(there) :]
        assert sum((tmp_path / name).stat().st_size for name in there) <= 100_000
        assert snapshots.failed is None and snapshots.unwritten == 0
    assert (tmp_path / "mine.jpg").exists()


def test_snapshots_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "x", 10_000_000)
    (tmp_path / "x").rmdir()
    (tmp_path / "x").write_text("")
    snapshots.put(frame(0), "2026-01-01T00:00:00.000Z", "door", "0" * 16)
    snapshots.close()
    assert snapshots.lost == 1 and snapshots.failed is not None
    with pytest.raises(ConfigError, match="cannot be used as a folder"):
        Snapshots(tmp_path / "x", 1)
