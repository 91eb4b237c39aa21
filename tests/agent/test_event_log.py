"""Events on stderr: what changed, once."""

from __future__ import annotations

import json
from typing import Any

from edge.outputs.event_log import Events, Log
from sightline.predictions import Cause, Code, ModelId, Result

MODEL = ModelId("colours", "1", "0" * 64)


def result(code: Code | None = None, camera: str = "door", text: str = "unplugged?") -> Result:
    cause = Cause(code, text) if code else None
    return Result("desktop", camera, 0, "", 0, MODEL, None if cause else 64, None if cause else 48, {}, (), {}, cause)


def logged(*results: Result) -> list[dict[str, Any]]:
    lines: list[str] = []
    events = Events(Log(lines.append, on_terminal=False))
    for one in results:
        events(one, None)
    return [json.loads(line) for line in lines]


def test_what_changed_is_told_once() -> None:
    seen, lost = result(), result("camera")
    lines = logged(result("opening"), seen, seen, lost, lost, result("frozen", text="frozen for 10 s"), seen)
    assert [(line["event"], line["level"]) for line in lines] == [
        ("camera_up", "info"),
        ("camera_lost", "warning"),
        ("camera_frozen", "warning"),
    ], "seen again within 30 s is left out"
    assert lines[1]["camera"] == "door" and lines[1]["text"] == "unplugged?" and lines[1]["cause_code"] == "camera"
    assert lines[0]["text"] == "camera is up, 64x48"


def test_nothing_that_moves_and_one_bad_image_are_no_events() -> None:
    assert [
        line["event"] for line in logged(result(), result("no_motion"), result(), result("unreadable"), result())
    ] == ["camera_up"]


def test_each_camera_has_its_own() -> None:
    lines = logged(result(), result(camera="yard"), result("camera", camera="yard"), result())
    assert [(line["camera"], line["event"]) for line in lines] == [
        ("door", "camera_up"),
        ("yard", "camera_up"),
        ("yard", "camera_lost"),
    ]


def test_repeats_are_counted() -> None:
    clock = [0.0]
    lines: list[str] = []
    log = Log(lines.append, on_terminal=True, clock=lambda: clock[0])
    for _ in range(100):
        log.event("camera_lost", "unplugged?", camera="door")
        clock[0] += 1
    assert len(lines) == 4, "every 30 s"
    assert lines[0].endswith("door: unplugged?")
    assert lines[1].endswith("door: unplugged? (29 repeats before this)")
