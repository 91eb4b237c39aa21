"""Which frames of a camera get an inference, at times that the test chooses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge.capture.frame_gate import KEY_FRAME_FACTOR, NO_MOTION, FrameGate, FrozenError
from edge.capture.options import CaptureOptions
from sightline.preprocess import Frame

S = 1_000_000_000


def camera(**changes: Any) -> Any:
    return SimpleNamespace(**({"name": "door", "live": True, "kind": "camera", "format": ""} | changes))


def image(seed: int) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)


def due(gate: FrameGate, fps: int, seconds: int) -> int:
    """Number of due frames of a camera with this rate."""
    return sum(gate.is_due(1 + i * S // fps) for i in range(fps * seconds))


@pytest.mark.parametrize(("max_fps", "expected"), [(10, 30), (29, 87), (60, 90), (0, 90), (0.5, 2)])
def test_max_fps_is_a_schedule_and_no_distance(max_fps: float, expected: int) -> None:
    gate = FrameGate(CaptureOptions(max_fps=max_fps), camera())
    assert due(gate, 30, 3) == pytest.approx(expected, abs=1)


def test_a_replay_passes_whole() -> None:
    replay = camera(live=False, kind="file")
    gate = FrameGate(CaptureOptions(max_fps=1, motion=50, frozen_s=1), replay)
    assert due(gate, 30, 3) == 90
    assert all(gate.rejection(image(0), i * S, replay, 0) is None for i in range(20))


def test_a_reopened_camera_has_its_first_frame_due_at_once() -> None:
    gate = FrameGate(CaptureOptions(max_fps=0.1), camera())
    assert gate.is_due(S) and not gate.is_due(2 * S)
    gate.reopened()
    assert gate.is_due(3 * S)


@pytest.mark.parametrize(
    ("kind", "stream_format", "limit_s"),
    [("camera", "", 2), ("stream", "MJPG 8x8", 2), ("stream", "h264 8x8", 2 * KEY_FRAME_FACTOR)],
)
def test_a_frozen_camera_is_a_fault_after_its_limit(kind: str, stream_format: str, limit_s: int) -> None:
    source = camera(kind=kind, format=stream_format)
    gate = FrameGate(CaptureOptions(frozen_s=2), source)
    assert all(gate.rejection(image(0), i * S, source, 0) is None for i in range(limit_s))
    with pytest.raises(FrozenError, match=f"door: frozen, the same image for {limit_s} s"):
        gate.rejection(image(0), limit_s * S, source, 0)
    just_opened = gate.rejection(image(0), limit_s * S, source, limit_s * S - 1)
    assert just_opened is not None and just_opened.code == "frozen", "reopened, it may still send its last image"
    assert gate.rejection(image(1), limit_s * S, source, 0) is None


@pytest.mark.parametrize(("kind", "frozen_s"), [("test", 1), ("file", 1), ("camera", 0)])
def test_a_still_image_is_no_fault_where_it_may_be_one(kind: str, frozen_s: float) -> None:
    source = camera(kind=kind)
    gate = FrameGate(CaptureOptions(frozen_s=frozen_s), source)
    assert all(gate.rejection(image(0), i * S, source, 0) is None for i in range(100))


def test_without_motion_there_is_no_inference() -> None:
    source = camera()
    gate = FrameGate(CaptureOptions(motion=5, frozen_s=0), source)
    assert gate.rejection(image(0), S, source, 0) is None
    assert gate.rejection(image(0), 2 * S, source, 0) == NO_MOTION
    assert gate.rejection(image(1), 3 * S, source, 0) is None
