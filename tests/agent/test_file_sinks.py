"""Sinks that are slow, full, or dead, and what that costs: never the loop, and never a result in silence."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.waiting import wait_until
from edge.outputs.file_sinks import JsonLines, Rotation, Text
from edge.results.sink import QUEUE_LENGTH, Sink
from sightline.predictions import Box, Cause, Classification, ModelId, Region, Result

MODEL = ModelId("colours", "1", "0" * 64)


def result(frame_id: int, label: str = "blue", cause: str | None = None) -> Result:
    predictions = () if cause or not label else (Classification(label, 0, 0.9),)
    moment = "2026-01-01T00:00:00.000Z"
    if cause:
        return Result("desktop", "a.mp4", frame_id, moment, 1, MODEL, None, None, {}, (), {}, Cause("camera", cause))
    return Result("desktop", "a.mp4", frame_id, moment, 1, MODEL, 160, 120, {"total": 1.0}, predictions)


class Slow(Sink):
    """Takes `seconds` for each result, and nothing at all before `gate` is open."""

    def __init__(self, *, lossless: bool, seconds: float = 0.0, queue_length: int = QUEUE_LENGTH) -> None:
        super().__init__("slow", lossless=lossless, queue_length=queue_length)
        self.seconds, self.written = seconds, list[int]()
        self.gate, self.entered = threading.Event(), threading.Event()

    def write(self, result: Result) -> bool:
        self.entered.set()
        assert self.gate.wait(30)
        time.sleep(self.seconds)
        self.written.append(result.frame_id)
        return True


class Broken(Sink):
    """Cannot write the results in `bad`: a fault of the machine, or of our own."""

    def __init__(self, error: Exception, bad: range, *, lossless: bool) -> None:
        super().__init__("broken", lossless=lossless)
        self.error, self.bad, self.written = error, bad, list[int]()

    def write(self, result: Result) -> bool:
        if result.frame_id in self.bad:
            raise self.error
        self.written.append(result.frame_id)
        return True


def test_a_slow_sink_costs_a_camera_results_and_no_time() -> None:
    sink = Slow(lossless=False, queue_length=4)
    sink.start()
    sink.put(result(0))
    assert sink.entered.wait(3)
    began = time.monotonic()
    for i in range(1, 50):
        sink.put(result(i))
    assert time.monotonic() - began < 0.2
    assert sink.dropped == 45
    sink.gate.set()
    sink.close()
    assert sink.written == [0, 1, 2, 3, 4]
    assert sink.dropped + len(sink.written) == 50


def test_a_slow_sink_costs_a_replay_time_and_no_result() -> None:
    sink = Slow(lossless=True, seconds=0.005, queue_length=4)
    sink.start()
    began = time.monotonic()
    threading.Timer(0.5, sink.gate.set).start()
    for i in range(60):
        sink.put(result(i))
    assert time.monotonic() - began > 0.7
    sink.close()
    assert sink.written == list(range(60))
    assert sink.dropped == 0


@pytest.mark.slow
def test_a_replays_last_results_are_written_however_slow_the_sink_is() -> None:
    """`sightline run clip.mp4 --json | a program that takes its time`."""
    sink = Slow(lossless=True, seconds=0.05)
    sink.gate.set()
    sink.start()
    for i in range(100):
        sink.put(result(i))
    sink.close()
    assert sink.written == list(range(100))


@pytest.mark.slow
def test_what_a_stuck_sink_did_not_write_is_counted_at_the_end() -> None:
    sink = Slow(lossless=False)
    sink.start()
    for i in range(10):
        sink.put(result(i))
    assert sink.entered.wait(3)
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 5
    dropped = sink.dropped
    sink.gate.set()
    assert 9 <= dropped <= 10


@pytest.mark.parametrize("lossless", [False, True])
def test_a_sink_that_fails_for_a_while_goes_on_afterwards(lossless: bool) -> None:
    sink = Broken(OSError(28, "No space left on device"), range(2, 5), lossless=lossless)
    sink.start()
    for i in range(5):
        sink.put(result(i))
    wait_until(lambda: sink.dropped == 3, 3)
    assert sink.failed == "No space left on device"
    sink.put(result(5))
    sink.close()
    assert sink.failed is None
    assert (sink.written, sink.dropped) == ([0, 1, 5], 3)


@pytest.mark.parametrize("lossless", [False, True])
def test_a_fault_of_our_own_in_a_sink_is_told_and_counted(lossless: bool) -> None:
    sink = Broken(UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), range(1), lossless=lossless)
    sink.start()
    for i in range(3):
        sink.put(result(i))
    wait_until(lambda: sink.dropped + len(sink.written) == 3, 3)
    sink.close()
    assert sink.dropped >= 1


@pytest.mark.parametrize("lossless", [False, True])
def test_a_full_disk_is_told_and_stops_nobody(lossless: bool) -> None:
    sink = JsonLines(Path("/dev/full"), lossless=lossless, queue_length=4)
    sink.start()
    began = time.monotonic()
    for i in range(20):
        sink.put(result(i))
    assert time.monotonic() - began < 1
    sink.close()
    assert time.monotonic() - began < 2
    assert (sink.failed, sink.dropped) == ("No space left on device", 20)


def test_json_lines_are_appended_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"before": true}\n')
    sink = JsonLines(path, lossless=True)
    sink.start()
    for i in range(20):
        sink.put(result(i, label="Grün <b>"))
    sink.close()
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n") and "Grün <b>" in text
    before, *lines = [json.loads(line) for line in text.splitlines()]
    assert before == {"before": True}
    assert lines == [result(i, label="Grün <b>").to_json() for i in range(20)]


def test_a_line_that_a_power_cut_tore_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"whole": 1}\n{"to')
    sink = JsonLines(path, lossless=True)
    sink.start()
    sink.put(result(0))
    sink.close()
    whole, torn, new = path.read_text().splitlines()
    assert (whole, torn) == ('{"whole": 1}', '{"to')
    assert json.loads(new)["status"] == "ok"


def test_each_line_is_in_the_file_as_soon_as_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = JsonLines(path, lossless=False)
    sink.start()
    sink.put(result(0))
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    sink.close()


def test_a_file_is_opened_again_after_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a stick that is mounted later" / "out.jsonl"
    sink = JsonLines(path, lossless=False)
    sink.start()
    sink.put(result(0))
    wait_until(lambda: sink.failed is not None)
    assert sink.failed == "No such file or directory"
    path.parent.mkdir()
    sink.put(result(1))
    sink.close()
    assert (sink.failed, sink.dropped) == (None, 1)
    assert [json.loads(line)["frame_id"] for line in path.read_text().splitlines()] == [1]


FULL_FOR_A_WHILE = """
import resource, sys
from pathlib import Path
from edge.outputs.file_sinks import JsonLines
from tests.agent.test_file_sinks import result

sink = JsonLines(Path(sys.argv[1]), lossless=True)
full, room = resource.getrlimit(resource.RLIMIT_FSIZE), 1000
for i in range(8):
    resource.setrlimit(resource.RLIMIT_FSIZE, full if i >= 5 else (room, full[1]))
    try:
        sink.write(result(i))
        print(i)
    except OSError:
        pass
"""


def test_a_disk_that_was_full_for_a_while_costs_no_line_afterwards(tmp_path: Path) -> None:
    """The half line that still fitted must not stick to the next whole one."""
    path = tmp_path / "out.jsonl"
    done = subprocess.run([sys.executable, "-c", FULL_FOR_A_WHILE, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    written = [int(i) for i in done.stdout.split()]
    assert 0 in written and 4 not in written and written[-3:] == [5, 6, 7]
    whole = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            whole.append(json.loads(line)["frame_id"])
    assert whole == written


@pytest.mark.slow
def test_files_are_closed_at_the_end_and_not_by_chance(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sink = JsonLines(tmp_path / "out.jsonl", lossless=True)
        sink.start()
        sink.put(result(0))
        sink.close()
        del sink
        gc.collect()
    assert [str(w.message) for w in caught if w.category is ResourceWarning] == []


def test_text_says_only_what_changes(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Text(lossless=True)
    for i, label in enumerate(("blue", "blue", "green", "green", "blue")):
        sink.write(result(i, label))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["frame", n, c] for n, c in zip("024", ("blue", "green", "blue"), strict=True)
    ]
    assert all("90%" in line for line in lines)


def test_a_label_cannot_steer_the_terminal_or_write_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    Text(lossless=True).write(result(0, "\x1b[2Jfox\n12:00:00  frame 7      cat 99%"))
    (line,) = capsys.readouterr().out.splitlines()
    assert "\\x1b[2Jfox\\n12:00:00" in line


def test_text_says_why_nobody_looked_and_that_nothing_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Text(lossless=True)
    for one in (result(0), result(1, cause="unplugged"), result(2, cause="unplugged"), result(3, label="")):
        sink.write(one)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "not inferred: unplugged" in lines[1] and "nothing above the threshold" in lines[2]


def test_text_of_a_camera_is_calm_and_ends_with_the_truth(capsys: pytest.CaptureFixture[str]) -> None:
    sink = Text(lossless=False)
    until = time.monotonic() + 1.2
    i = 0
    while time.monotonic() < until:
        sink.write(result(i, ("blue", "green")[i % 2]))
        i += 1
        time.sleep(0.01)
    while time.monotonic() < until + 0.6:
        sink.write(result(i, "red"))
        time.sleep(0.05)
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 5
    assert "red" in lines[-1]


def test_a_reader_that_left_is_not_forgotten_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop ends when stdout is a broken pipe: a result that was not worth a line must not make it whole again."""
    reader, writer = os.pipe()
    os.close(reader)
    stdout = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", stdout)
    sink = Text(lossless=True)
    sink.start()
    sink.put(result(0, "blue"))
    wait_until(lambda: sink.dropped == 1)
    for i in range(1, 5):
        sink.put(result(i, "blue"))
    sink.close()
    with contextlib.suppress(BrokenPipeError):
        stdout.close()
    assert sink.failed == "Broken pipe" and sink.reader_gone


def region(frame_id: int) -> Result:
    """With a mask of a megabyte."""
    mask = Region("sky", 0, 0.5, Box(0, 0, 1, 1), Box(0, 0, 1, 1), np.zeros((1000, 1000), bool))
    return replace(result(frame_id), predictions=(mask,))


def test_a_stopped_sink_keeps_megabytes_and_not_hundreds_of_masks() -> None:
    sink = Slow(lossless=False)
    sink.start()
    for i in range(100):
        sink.put(region(i))
    waiting = sink.pending
    sink.gate.set()
    sink.close()
    assert 10 <= waiting <= 17
    assert sink.dropped + len(sink.written) == 100


def test_a_pipe_whose_reader_leaves_does_not_count_as_stdout(tmp_path: Path) -> None:
    """`--output FIFO`: its next reader gets what comes then."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = JsonLines(path, lossless=False)
    sink.start()
    sink.put(result(0))
    wait_until(lambda: sink.pending == 0)
    os.close(reader)
    sink.put(result(1))
    wait_until(lambda: sink.dropped == 1)
    assert (sink.failed, sink.reader_gone) == ("Broken pipe", False)
    sink.put(result(2))  # waits in `open` until there is a reader
    with path.open(encoding="utf-8") as again:
        assert json.loads(again.readline())["frame_id"] == 2
    sink.close()


@pytest.mark.parametrize("days", [0, 1])
def test_a_file_that_cannot_be_rotated_grows_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("{}\n")
    os.utime(path, (0, 0))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    sink = JsonLines(path, lossless=True, rotation=Rotation(0 if days else 500, days))
    with monkeypatch.context() as m:
        m.setattr(Path, "replace", refuse)
        for i in range(10):
            assert sink.write(result(i))
        assert sink.problem == "the file grows, because it cannot be rotated: Permission denied"
    assert len(path.read_text().splitlines()) == 11
    sink.write(result(10))
    sink.finish()
    assert sink.problem is None and len(path.read_text().splitlines()) == 1
