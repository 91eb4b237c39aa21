"""Events that an agent which was killed had no time to end."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.waiting import wait_until
from edge.results.event_rules import Event
from edge.results.open_events import OpenEvents
from sightline.predictions import ModelId

EVENT = Event(
    "5b0c", "new", "fox>=0.8", "pi", "door", "fox", 0.9, 0.9, "10:00", "10:00", 0.0, ModelId("m", "1", "ab" * 32)
)


def agent(path: Path) -> OpenEvents:
    kept = OpenEvents(path, lossless=False)
    kept.start()
    return kept


def killed(kept: OpenEvents) -> None:
    """All that came is written, and the end does nothing more: its thread is never told to end."""
    wait_until(lambda: kept.pending == 0, 5)


def test_an_agent_that_was_killed_left_its_events_open(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite.events"
    kept = agent(path)
    assert kept.unfinished("11:00") == []
    other = replace(EVENT, id="77aa")
    for event in (EVENT, replace(EVENT, state="update", seconds=10.0), other, replace(other, state="end")):
        kept.put(event)
    killed(kept)
    end = replace(EVENT, state="end", score=None, at="11:00", ended_by="stopped")
    assert end.key == "5b0c-end"
    kept = agent(path)
    assert kept.unfinished("11:00") == [end]
    killed(kept)
    kept = agent(path)
    assert kept.unfinished("11:00") == [end], "it was not sure that the end had arrived"
    kept.put(other)
    kept.put(replace(other, state="end"))
    kept.close()
    assert not path.exists() and kept.failed is None
    assert agent(path).unfinished("11:00") == []


def written(**changes: object) -> bytes:
    return json.dumps([{**asdict(EVENT), **changes}]).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[{]", b"[{}]", b"[1]", b"3", b'[{"model": 1}]', b"[" * 200_000, b"\xff\xfe\x00", written(id=[1]),
        written(seconds=float("nan")), written(best="much"), written(label="\ud800"), written(at=None),
        written(best=10**400), written(label=["fox"]),
        written(model={"name": 1, "version": "1", "sha256": ""}),
    ],
)  # fmt: skip
def test_a_file_that_says_nothing_ends_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "e"
    path.write_bytes(content)
    assert OpenEvents(path, lossless=False).unfinished("11:00") == []
    path.write_bytes(written())
    assert len(OpenEvents(path, lossless=False).unfinished("11:00")) == 1, "and the unchanged one is an event"


@pytest.mark.parametrize("kind", ["a pipe", "a folder"])
def test_what_is_no_file_ends_nothing(tmp_path: Path, kind: str) -> None:
    (os.mkfifo if kind == "a pipe" else os.mkdir)(tmp_path / "e")
    assert OpenEvents(tmp_path / "e", lossless=False).unfinished("11:00") == []


def test_a_file_that_cannot_be_removed_does_not_hinder_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    kept = agent(tmp_path / "e")
    monkeypatch.setattr(Path, "unlink", refuse)
    kept.close()


def messages(outbox: Path, state: str) -> dict[str, dict[str, Any]]:
    """The events that wait in an outbox, by their id."""
    if not outbox.exists():
        return {}
    with closing(sqlite3.connect(outbox)) as db, suppress(sqlite3.Error):  # not all there yet
        events = [json.loads(body)["event"] for (body,) in db.execute("SELECT body FROM messages ORDER BY id")]
        return {event["id"]: event for event in events if event["state"] == state}
    return {}


def test_the_next_start_ends_them(bundle: Path, tmp_path: Path) -> None:
    outbox, kept = tmp_path / "outbox.sqlite", tmp_path / "outbox.sqlite.events"
    rules = [f"--on={label}>=0.01" for label in ("blue", "green", "red")]
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", "test:64x48@30", "--no-page", *rules]
    command += ["--webhook", "http://127.0.0.1:9/", "--outbox", str(outbox)]  # nobody listens there
    until = time.monotonic() + 60

    def run_until(condition: Callable[[], bool]) -> None:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(condition, until - time.monotonic(), process=process)
            finally:
                process.kill()

    run_until(lambda: kept.exists() and len(messages(outbox, "new")) >= len(json.loads(kept.read_bytes())) > 0)
    left = {event["id"] for event in json.loads(kept.read_bytes())}
    assert left <= messages(outbox, "new").keys() and not messages(outbox, "end")
    run_until(lambda: left <= messages(outbox, "end").keys())
    ends = messages(outbox, "end")
    assert [(ends[i]["ended_by"], ends[i]["seconds"], ends[i]["score"]) for i in left] == [
        ("stopped", 0.0, None)
    ] * len(left)
