"""Zones and lines: who enters, leaves, crosses and which way; and who only jitters on the border."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.broker import broker, free_port, subscriber
from benchmarks.support.waiting import wait_until
from edge.results.zones import GONE_S, Zone, ZoneCounter, ZoneEvent, parse_zone
from sightline.errors import ConfigError
from sightline.predictions import Box, Cause, Detection, ModelId, Result
from tests.agent.conftest import write_crossing
from tests.conftest import Sightline

MODEL = ModelId("m", "1", "ab" * 32)
ZONE = Zone("zone", "door", ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)))
LINE = Zone("line", "gate", ((0.5, 0.0), (0.5, 1.0)))  # from the top down: who looks along it has x < 0.5 on the right


def at(seconds: float, *things: tuple[int, float, float], away: bool = False) -> Result:
    """things: (track, x, y) of where they stand, in fractions of an image of 100x100."""
    boxes = tuple(Detection("fox", 0, 0.9, Box(100 * x - 5, 100 * y - 20, 10, 20), k) for k, x, y in things)
    cause = Cause("camera", "away") if away else None
    ns = int(seconds * 1e9) + 1
    return Result("d", "yard", 0, f"at {seconds:g}", ns, MODEL, 100, 100, {}, () if away else boxes, {}, cause)


def walk(place: Zone, *way: tuple[float, float], every: float = 0.1) -> list[tuple[str, int]]:
    counter = ZoneCounter(place)
    return [(p.state, p.count) for i, (x, y) in enumerate(way) for p in counter.update(at(i * every, (1, x, y)))]


def line_of(a: tuple[float, float], b: tuple[float, float], steps: int = 20) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.linspace(a, b, steps)]


def test_through_a_zone_is_in_and_out() -> None:
    counter = ZoneCounter(ZONE)
    way = line_of((0.1, 0.5), (0.9, 0.5), 81)
    events = [p for i, (x, y) in enumerate(way) for p in counter.update(at(i / 10, (7, x, y)))]
    assert [(p.state, p.count, p.track, p.zone) for p in events] == [
        ("enter", 1, 7, "door"),
        ("leave", 0, 7, "door"),
    ]
    assert events[1].seconds == pytest.approx(5.0, abs=0.3) and events[0].seconds is None
    assert len({p.key for p in events}) == 2


def test_what_is_in_the_zone_from_the_start_is_in_it() -> None:
    assert walk(ZONE, (0.5, 0.5), (0.5, 0.5)) == [("enter", 1)]


def test_a_line_knows_its_directions() -> None:
    assert walk(LINE, *line_of((0.2, 0.5), (0.8, 0.5))) == [("left", 1)]
    assert walk(LINE, *line_of((0.8, 0.5), (0.2, 0.5))) == [("right", 1)]
    there_and_back = [
        *line_of((0.2, 0.5), (0.8, 0.5)),
        *line_of((0.8, 0.5), (0.2, 0.5)),
        *line_of((0.2, 0.5), (0.8, 0.5)),
    ]
    assert walk(LINE, *there_and_back) == [("left", 1), ("right", 1), ("left", 2)]


def test_past_the_end_of_a_line_is_not_across() -> None:
    short = Zone("line", "gate", ((0.5, 0.4), (0.5, 0.6)))
    assert walk(short, *line_of((0.2, 0.9), (0.8, 0.9))) == []
    assert walk(short, *line_of((0.2, 0.5), (0.8, 0.5))) == [("left", 1)]
    around = [*line_of((0.2, 0.5), (0.4, 0.9)), *line_of((0.4, 0.9), (0.6, 0.9)), *line_of((0.6, 0.9), (0.8, 0.5))]
    assert walk(short, *around) == []


def test_a_fast_one_crosses_between_two_looks() -> None:
    assert walk(LINE, (0.1, 0.5), (0.2, 0.5), (0.9, 0.5), (0.95, 0.5), every=0.2) == [("left", 1)]


@pytest.mark.parametrize("place", [LINE, Zone("zone", "half", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))])
def test_one_that_jitters_on_the_border_goes_nowhere(place: Zone) -> None:
    way = [(0.4, 0.5)] * 3 + [(0.5 + (0.01 if i % 2 else -0.01), 0.5) for i in range(50)] + [(0.4, 0.5)] * 3
    assert walk(place, *way) == []


def test_one_that_vanishes_in_a_zone_has_left_it_in_the_end() -> None:
    counter = ZoneCounter(ZONE)
    states = []
    for i in range(60):
        states += [(i / 10, p.state) for p in counter.update(at(i / 10, *([(1, 0.5, 0.5)] if i < 10 else [])))]
    assert states[0] == (0.1, "enter") and states[1][1] == "leave"
    assert states[1][0] == pytest.approx(0.9 + GONE_S, abs=0.15)
    assert (counter.tracks, counter.inside) == (0, 0), "nothing is kept of it"


def test_a_camera_that_is_away_lets_nobody_out() -> None:
    counter = ZoneCounter(ZONE)
    list(counter.update(at(0, (1, 0.5, 0.5))))
    list(counter.update(at(0.1, (1, 0.5, 0.5))))
    assert [p for i in range(100) for p in counter.update(at(0.2 + i / 10, away=True))] == []
    assert counter.inside == 1


def test_many_are_counted_apart() -> None:
    counter = ZoneCounter(ZONE)
    seen: list[ZoneEvent] = []
    for i in range(30):
        things = [(k, 0.1 + i * 0.03, 0.3 + k * 0.05) for k in range(8)]
        seen += counter.update(at(i / 10, *things))
    assert max(p.count for p in seen) == 8 and counter.inside == 0
    assert sum(p.state == "enter" for p in seen) == sum(p.state == "leave" for p in seen) == 8


def test_what_is_not_followed_is_nobody() -> None:
    counter = ZoneCounter(ZONE)
    untracked = Result(
        "d", "yard", 0, "t", 1, MODEL, 100, 100, {}, (Detection("fox", 0, 0.9, Box(45, 30, 10, 20)),)
    )  # fmt: skip
    assert list(counter.update(untracked)) == [] == list(counter.update(untracked))


@pytest.mark.parametrize(
    ("kind", "text", "word"),
    [
        ("zone", "0.1,0.2 0.3,0.4 0.5,0.6", "not a zone"),
        ("zone", "door: 0.1,0.2 0.3,0.4", "three corners"),
        ("zone", "door: 0.1,0.2 0.3,0.4 1.5,0.6", "fractions"),
        ("zone", "door: 0.1,0.2 0.1,0.2 0.5,0.6", "are equal"),
        ("line", "gate: 0.1,0.2 0.3,0.4 0.5,0.6", "two ends"),
        ("line", "gate: 0.1;0.2 0.3;0.4", "not a line"),
        ("line", "gate: 0.1,0.2 0.3,0.4 on yart", "did you mean yard"),
    ],
)
def test_what_is_no_zone_is_named(kind: str, text: str, word: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_zone(kind, text, ["yard"])  # type: ignore[arg-type]
    assert word in str(error.value) and f"--{kind}" in str(error.value)


def test_a_zone_is_read() -> None:
    place = parse_zone("zone", " door : 0,0  0.5,0 0.5,1 on yard ", ["yard"])
    assert place == Zone("zone", "door", ((0, 0), (0.5, 0), (0.5, 1)), "yard")
    hollow = parse_zone("zone", "u: 0,0 1,0 1,1 0.7,1 0.7,0.3 0.3,0.3 0.3,1 0,1", [])
    assert hollow.contains((0.1, 0.9)) and not hollow.contains((0.5, 0.9)) and hollow.contains((0.5, 0.1))


@pytest.mark.slow
def test_the_agent_counts_who_goes_across(detector: Path, tmp_path: Path, sightline: Sightline) -> None:
    clip, out = write_crossing(tmp_path / "moving.avi", 80, 3), tmp_path / "events.jsonl"
    done = sightline("run", detector, "--source", f"yard={clip}", "--track", "--no-page", "--output", out,
                     "--line", "gate: 0.5,0 0.5,1", "--zone", "left: 0,0 0.45,0 0.45,1 0,1 on yard")  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in out.read_text().splitlines()]
    states = [(p["zone"], p["state"]) for p in events]
    assert ("gate", "left") in states and ("gate", "right") not in states
    assert ("left", "enter") in states and ("left", "leave") in states
    assert {p["label"] for p in events} == {"red"} and {p["source"] for p in events} == {"yard"}


@pytest.mark.slow
def test_the_counts_reach_mqtt(detector: Path, tmp_path: Path) -> None:
    port, clip = free_port(), write_crossing(tmp_path / "moving.avi", 120, 2)
    command = [sys.executable, "-m", "sightline", "run", str(detector), "--source", f"yard={clip}", "--realtime",
               "--loop", "--track", "--no-page", "--line", "gate: 0.5,0 0.5,1", "--zone", "left: 0,0 0.45,0 0.45,1 0,1",
               "--mqtt", f"127.0.0.1:{port}", "--name", "pi", "--outbox", str(tmp_path / "o.sqlite")]  # fmt: skip
    with (
        broker(tmp_path, port),
        subscriber(port) as (_, received),
        subprocess.Popen(command, stdout=-3, stderr=-3) as process,
    ):

        def counts() -> list[dict[str, dict[str, int]]]:
            return [r.json["zones"] for r in received if r.topic == "sightline/pi/yard/state"]

        try:
            wait_until(lambda: any(c["gate"]["left"] > 0 for c in counts()), 25)
            wait_until(lambda: any(c["left"]["inside"] > 0 for c in counts()), 10)
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
    assert all(set(c) == {"gate", "left"} for c in counts())
    events = [r.json["event"] for r in received if r.topic == "sightline/pi/yard/event"]
    assert {e["zone"] for e in events} == {"gate", "left"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--zone", "a: 0,0 1,0 1,1", "--output", "x"], "need --track"),
        (["--track", "--zone", "a: 0,0 1,0 1,1"], "need an output"),
        (["--track", "--zone", "a: 0,0 1,0 1,1", "--line", "a: 0,0 1,1", "--output", "x"], "the same name"),
    ],
)
def test_options_that_do_not_fit_are_refused(detector: Path, options: list[str], word: str, tmp_path: Path,
                                             sightline: Sightline) -> None:  # fmt: skip
    options = [str(tmp_path / "x") if o == "x" else o for o in options]
    done = sightline("run", detector, "--source", "test:", "--no-page", *options)
    assert done.returncode == 2 and word in done.stderr
