"""`sightline run` as a user runs it: in a process of its own, with its streams, its signals and its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

import sightline.predictions
from edge import agent
from edge.capture.capture import Capture
from edge.capture.mailbox import Inbox
from edge.inference.model import open_model
from edge.results import publisher as results_thread
from edge.results.counters import Counters
from edge.results.sink import Sink
from sightline.bundle import read_bundle
from sightline.device_config import load_device
from sightline.predictions import Result
from sightline.preprocess import Frame
from tests.conftest import LABELS, Sightline, coloured

SCHEMA = json.loads(Path(sightline.predictions.__file__).with_name("prediction.schema.json").read_text())


def results(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def check(lines: list[dict[str, Any]]) -> None:
    """Each one against the published schema, and their numbers against each other."""
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    for line in lines:
        validator.validate(line)
    ids = [line["frame_id"] for line in lines]
    assert ids == sorted(ids)


def without_time(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in line.items() if k not in ("captured_at", "captured_monotonic_ns", "latency_ms")}
        for line in lines
    ]


@contextmanager
def agent_process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`sightline run`, killed at the end should it still be there."""
    command = [sys.executable, "-m", "sightline", "run", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def quiet(stderr: str) -> bool:
    return not any(word in stderr for word in ("Traceback", "Exception", "rror:", "Fatal", "could not acquire"))


def fast_clip(path: Path, frames: int, fps: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (32, 32))
    rng = np.random.default_rng(3)
    for i in range(frames):
        writer.write(coloured(LABELS[i * 3 // frames], rng, 32, 32))
    writer.release()
    return path


def test_every_line_is_a_prediction_by_the_schema(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    lines = results(done.stdout)
    check(lines)
    assert [line["frame_id"] for line in lines] == list(range(60))
    first = lines[0]
    assert (first["device"], first["source"]) == ("desktop", "camera.mp4")
    assert first["image"] == {"width": 160, "height": 120}
    assert set(first["latency_ms"]) == {"capture", "preprocess", "wait", "inference", "decode", "total"}
    assert {line["status"] for line in lines} == {"ok"}
    assert all(len(line["predictions"]) == 3 and not line["dropped"] for line in lines)


def test_each_line_says_which_file_ran(bundle: Path, clip: Path, sightline: Sightline) -> None:
    read = read_bundle(bundle)
    for scheme, file in read.manifest.variants.items():
        done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--frames", 1, "--scheme", scheme)
        (line,) = results(done.stdout)
        assert line["model"] == {
            "name": read.manifest.name,
            "version": read.manifest.version,
            "sha256": read.files[file]["sha256"],
        }


def test_a_live_source_gives_the_same_form(bundle: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", "test:64x48@100", "--json", "--no-page", "--frames", 30)
    assert done.returncode == 0, done.stderr
    lines = results(done.stdout)
    check(lines)
    assert len(lines) == 30
    assert {line["source"] for line in lines} == {"test:64x48@100"}


def test_the_same_clip_gives_the_same_results_twice(bundle: Path, clip: Path, sightline: Sightline) -> None:
    first, second = (
        results(sightline("run", bundle, "--source", clip, "--json", "--no-page").stdout) for _ in range(2)
    )
    assert len(first) == 60
    assert without_time(first) == without_time(second)


def test_a_clip_as_pictures_gives_what_the_clip_gives(
    bundle: Path, clip: Path, sightline: Sightline, tmp_path: Path
) -> None:
    video = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(60):
        cv2.imwrite(str(folder / f"{i:03}.png"), video.read()[1])
    video.release()
    from_clip, from_pictures = (
        results(sightline("run", bundle, "--source", source, "--json", "--no-page").stdout) for source in (clip, folder)
    )
    assert {line.pop("source") for line in from_clip} == {"camera.mp4"}
    assert {line.pop("source") for line in from_pictures} == {"frames"}
    assert without_time(from_pictures) == without_time(from_clip)


def test_a_picture_that_cannot_be_read_is_a_line_with_its_cause(
    bundle: Path, pictures: Path, sightline: Sightline, tmp_path: Path
) -> None:
    for i in range(3):
        whole = (pictures / "red" / f"{i:03}.png").read_bytes()
        (tmp_path / f"{i}.png").write_bytes(whole if i != 1 else whole[: len(whole) // 2])
    done = sightline("run", bundle, "--source", tmp_path, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    lines = results(done.stdout)
    check(lines)
    assert [line["status"] for line in lines] == ["ok", "not_inferred", "ok"]
    assert [line["frame_id"] for line in lines] == [0, 1, 2]
    assert "1.png" in lines[1]["cause"] and lines[1]["image"] is None
    assert "not inferred (1)" in done.stderr


def test_the_number_of_frames_can_be_limited(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--frames", 7)
    assert done.returncode == 0, done.stderr
    assert [line["frame_id"] for line in results(done.stdout)] == list(range(7))
    assert done.stderr.startswith("7 frames in ")


def test_top_and_threshold_choose_what_is_said(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--frames", 2, "--top", 1)
    assert [len(line["predictions"]) for line in results(done.stdout)] == [1, 1]
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--frames", 2, "--threshold", 1)
    lines = results(done.stdout)
    check(lines)
    assert [(line["status"], line["predictions"]) for line in lines] == [("ok", [])] * 2


@pytest.mark.slow
def test_a_file_gets_what_stdout_gets_and_keeps_what_it_had(
    bundle: Path, clip: Path, sightline: Sightline, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    first = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--output", output)
    assert first.returncode == 0, first.stderr
    assert output.read_text(encoding="utf-8") == first.stdout
    second = sightline("run", bundle, "--source", clip, "--no-page", "--output", output, "--frames", 5)
    assert second.returncode == 0, second.stderr
    assert len(output.read_text().splitlines()) == 65
    assert output.read_text().startswith(first.stdout)


def test_a_full_disk_is_told_at_the_end_and_stdout_goes_on(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--output", "/dev/full")
    assert len(results(done.stdout)) == 60
    assert "output /dev/full: 60 results lost (No space left on device)" in done.stderr
    assert quiet(done.stderr)


def test_the_summary_has_the_closing_figures(bundle: Path, clip: Path, sightline: Sightline, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "summary.json"
    done = sightline("run", bundle, "--source", clip, "--no-page", "--summary", path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(path.read_text())
    assert (summary["frames"], summary["dropped"], summary["not_inferred"]) == (60, {}, {})
    assert (summary["device"], summary["scheme"], summary["reconnects"]) == ("desktop", "static_int8", 0)
    assert summary["fps"] == pytest.approx(60 / summary["seconds"], rel=0.05)
    for stage in summary["latency_ms"].values():
        assert 0 < stage["p50"] <= stage["p95"] <= stage["p99"]


def test_text_is_one_line_a_change(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--no-page")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[2:4] for line in lines] == [["0", "blue"], ["20", "green"], ["40", "red"]]


@pytest.mark.slow
def test_a_clip_in_real_time_drops_nothing_in_silence(bundle: Path, sightline: Sightline, tmp_path: Path) -> None:
    clip, summary = fast_clip(tmp_path / "fast.mp4", 1500, 5000), tmp_path / "summary.json"
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--realtime", "--summary", summary)
    assert done.returncode == 0, done.stderr
    lines = results(done.stdout)
    check(lines)
    dropped = sum(sum(line["dropped"].values()) for line in lines)
    assert lines[-1]["frame_id"] == 1499
    assert lines[-1]["frame_id"] + 1 - len(lines) == dropped
    assert dropped > 0  # no machine looks at 5000 frames a second
    assert json.loads(summary.read_text())["dropped"] == {"overwritten": dropped}
    assert f"dropped: {dropped} overwritten" in done.stderr
    before = -1
    for line in lines:
        assert line["frame_id"] - before - 1 == sum(line["dropped"].values())
        before = line["frame_id"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_the_summary(bundle: Path, number: signal.Signals, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    options = ("--source", "test:", "--json", "--page-port", 0, "--summary", summary)
    with agent_process(bundle, *options) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        began = time.monotonic()
        process.send_signal(number)
        rest, stderr = process.communicate(timeout=20)
        assert time.monotonic() - began < 3
    assert process.returncode == 0, stderr
    lines = results(first + rest)
    check(lines)
    assert f"{len(lines)} frames in " in stderr
    assert quiet(stderr)
    assert json.loads(summary.read_text())["frames"] == len(lines)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--json", "--source", "test:"], ["--source", "CLIP", "--loop"]])
def test_a_reader_that_has_what_it_wanted_ends_it_quietly(bundle: Path, clip: Path, options: list[str]) -> None:
    """`sightline run .. | head -n 1`"""
    with agent_process(bundle, *(str(clip) if o == "CLIP" else o for o in options), "--no-page") as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        exit_code = process.wait(timeout=10)
        stderr = process.stderr.read()
        assert exit_code == 0, stderr
    assert quiet(stderr), stderr


def assert_ends_in_time(process: subprocess.Popen[str]) -> None:
    """SIGTERM ends it within eight seconds, with exit code 0."""
    began = time.monotonic()
    process.terminate()
    process.wait(timeout=10)
    assert time.monotonic() - began < 8
    assert process.returncode == 0


@pytest.mark.slow
def test_a_reader_that_is_stuck_does_not_keep_it_from_ending(bundle: Path) -> None:
    """The pipe is full, the thread that writes stdout hangs in it: SIGTERM must end the agent all the same."""
    with agent_process(bundle, "--source", "test:64x48@240", "--json", "--no-page") as process:
        time.sleep(2.5)
        assert process.poll() is None
        assert_ends_in_time(process)


@pytest.mark.slow
def test_a_clip_whose_reader_is_stuck_can_be_stopped(bundle: Path, clip: Path) -> None:
    """A replay waits for its reader; not for ever once it was told to stop."""
    with agent_process(bundle, "--source", clip, "--loop", "--json", "--no-page") as process:
        time.sleep(1.5)
        assert process.poll() is None
        assert_ends_in_time(process)


def test_a_name_that_is_not_utf8_is_played_or_refused_in_words(bundle: Path, clip: Path, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/camera\xff.mp4"
    Path(os.fsdecode(path)).write_bytes(clip.read_bytes())
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", path, "--json", "--no-page"]
    done = subprocess.run(command, capture_output=True, timeout=60)
    stderr = done.stderr.decode(errors="replace")
    assert done.returncode in (0, 2), stderr
    assert "Traceback" not in stderr
    if done.returncode == 2:
        assert stderr.startswith("error: ") and "camera" in stderr
    else:
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        check(lines)
        assert len(lines) == 60


class Kept(Sink):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__("kept", lossless=True)
        self.kept: list[Result] = []

    def put(self, result: Result) -> None:
        self.kept.append(result)


class Slowly:
    """Three frames, from a disk that takes its time; or from a camera."""

    name, kind, format = "slowly", "test", ""

    def __init__(self, *, live: bool) -> None:
        self.live, self.left = live, 3

    def open(self) -> None:
        pass

    def read(self, buffer: Frame | None) -> Frame | None:
        time.sleep(0.1 if self.left == 2 else 0.6)
        self.left -= 1
        return coloured("red", np.random.default_rng(0)) if self.left >= 0 else None

    def close(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("live", [True, False])
def test_a_silent_camera_is_said_to_be_silent_and_a_slow_replay_is_not(
    bundle: Path, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay gives the same results each time, on a slow disk too."""
    config = load_device("desktop")[1]
    model, kept = open_model(read_bundle(bundle), config), Kept()
    inbox, counters = Inbox([not live]), Counters()
    capture = Capture(Slowly(live=live), inbox.mailboxes[0])
    capture.start()
    results = results_thread.Results(
        model, [capture], [kept], counters, results_thread.ResultOptions("desktop", 50, silence_s=0.2)
    )
    try:
        agent.run(model, [capture], inbox, results, threading.Event())
    finally:
        capture.stop()
    lines = [one.to_json() for one in kept.kept]
    check(lines)
    assert [line["frame_id"] for line in lines if line["status"] == "ok"] == [0, 1, 2]
    silent = [line["cause"] for line in lines if line["status"] == "not_inferred"]
    assert counters.frames == 3
    if live:
        assert set(silent) == {"opening", "the camera sends no frames"}
        assert sum(counters.not_inferred.values()) == len(silent) >= 2
    else:
        assert silent == []
