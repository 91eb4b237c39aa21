"""The agent as an iterator in a user's program, and the examples as users run them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import pytest

import edge
from edge import predictions
from sightline.errors import InputError
from tests.conftest import BGR, LABELS

ROOT = Path(__file__).parents[2]


def test_a_clip_gives_each_frame_with_its_result(bundle: Path, clip: Path) -> None:
    matches = []
    with predictions(bundle, clip.as_posix()) as results:
        assert results.labels == LABELS
        for result in results:
            assert results.frame is not None and results.frame.shape == (120, 160, 3)
            mean = results.frame.mean((0, 1))
            nearest = min(BGR, key=lambda label: float(abs(mean - BGR[label]).max()))
            matches.append((result.frame_id, result.predictions[0].label == nearest))
            time.sleep(0.002)  # a program that does something: nothing is lost
    assert matches == [(i, True) for i in range(60)]
    assert results.missed == 0


def test_a_camera_drops_what_is_not_taken_and_leaves_nothing_behind(bundle: Path) -> None:
    before = threading.active_count()
    with predictions(bundle, "test:64x48@100") as results:
        next(results)
        time.sleep(0.5)
        ids = [result.frame_id for result, _ in zip(results, range(20), strict=False)]
    assert results.missed > 10
    assert ids == sorted(ids) and time.monotonic() > 0
    assert threading.active_count() == before


def test_a_program_that_stops_early_can_exit(bundle: Path, clip: Path) -> None:
    began = time.monotonic()
    with predictions(bundle, str(clip), loop=True) as results:
        for _ in results:
            break
    assert time.monotonic() - began < 3


def test_the_threshold_may_be_changed_on_the_way(bundle: Path, clip: Path) -> None:
    with predictions(bundle, str(clip), loop=True) as results:
        assert next(results).predictions
        results.threshold = 1.0
        assert any(not result.predictions for result, _ in zip(results, range(20), strict=False))


def test_a_fault_is_raised_where_it_belongs(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.mp4"):
        predictions(bundle, "absent.mp4")
    (tmp_path / "text.mp4").write_bytes(b"text\n" * 100)
    with predictions(bundle, str(tmp_path / "text.mp4")) as results, pytest.raises(InputError, match="not a video"):
        next(results)
    assert list(results) == []


def test_the_package_lists_its_names() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = edge.nothing_like_it


def example(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"examples.{name}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_the_printing_example_prints_changes(bundle: Path, clip: Path) -> None:
    done = example("print_predictions", bundle, clip)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["blue", "green", "red"]


@pytest.mark.slow
def test_the_robot_stops_for_its_label_and_at_the_end(bundle: Path, clip: Path) -> None:
    done = example("robot", bundle, clip, "green")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["drive 1.0", "drive 0.0", "drive 1.0", "drive 0.0"]


def test_the_drawing_example_writes_a_clip(bundle: Path, clip: Path, tmp_path: Path) -> None:
    done = example("draw", bundle, clip, tmp_path / "out.mp4")
    assert done.returncode == 0, done.stderr
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 60
    assert frames[5][-6:, -20:].mean() < 60 < frames[5][:60].mean(), "dark below, the image above"
