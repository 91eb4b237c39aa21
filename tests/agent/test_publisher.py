"""What is said of a camera that gives nothing, and of one that waits for its turn; by clocks that the tests set."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.capture.capture import MAX_CONSECUTIVE_HANGS, NO_MOTION, STREAMING
from edge.inference.time_limit import MINIMUM_S, STUCK_FACTOR, stuck_after_s
from edge.monitoring.health import Monitor
from edge.results.counters import Counters
from edge.results.publisher import ResultOptions, Results
from edge.results.sink import Sink
from sightline.errors import DeviceError
from sightline.predictions import Cause, ModelId, Result

AWAY = Cause("camera", "unplugged?")


class Kept(Sink):
    def __init__(self) -> None:
        super().__init__("kept", lossless=True)
        self.codes: list[str] = []

    def put(self, item: Any) -> None:
        assert isinstance(item, Result) and item.cause is not None
        self.codes.append(f"{item.source} {item.cause.code}")


def camera(name: str, state: Cause = STREAMING, *, silent_s: float = 0.0, interval_s: float = 0.06, **more: Any) -> Any:
    """A capture whose thread read its last frame `silent_s` ago."""
    one = SimpleNamespace(
        source=SimpleNamespace(name=name, live=True, kind="camera"),
        mailbox=SimpleNamespace(ended=False, take_dropped=dict),
        state=state, read_ns=time.monotonic_ns() - int(1e9 * silent_s), interval_s=interval_s, hangs=0,
        check=lambda now_ns: None, options=SimpleNamespace(max_fps=0.0),
    )  # fmt: skip
    vars(one).update(more)
    return one


def results(*cameras: Any, inference_s: float = 0.01, result_s: float = 60.0) -> tuple[Results, Kept]:
    """A thread that does not run. result_s: how long ago the last result of each camera was."""
    model = SimpleNamespace(
        manifest=SimpleNamespace(output=SimpleNamespace(threshold=0.5)), identity=ModelId("m", "1", "ab" * 32),
        inference_s=inference_s,
    )  # fmt: skip
    kept = Kept()
    delay_s = [result_s]  # of the clock, at first
    made = Results(
        model, cameras, [kept], Counters(), ResultOptions("d", 50),  # type: ignore[arg-type]
        clock_ns=lambda: time.monotonic_ns() - int(1e9 * delay_s[0]),
    )  # fmt: skip
    delay_s[0] = 0.0
    made.alive_ns = time.monotonic_ns()
    made.last_inference_s = [time.monotonic() - result_s] * len(cameras)
    return made, kept


def test_a_camera_whose_frames_wait_for_their_turn_is_not_silent() -> None:
    """Four cameras behind a model of 0.3 s: each has a result every 1.2 s."""
    one, kept = results(*(camera(name) for name in "abcd"), inference_s=0.3, result_s=1.15)
    one.inferring_since_ns = time.monotonic_ns() - 250_000_000
    one.report_silence()
    assert kept.codes == []


def test_a_camera_that_gives_nothing_is_silent_however_busy_the_model_is() -> None:
    one, kept = results(camera("a", silent_s=1.1), camera("b"), camera("c", AWAY), inference_s=0.3)
    one.report_silence()
    assert kept.codes == ["a no_frame", "c camera"]
    one.report_silence()
    assert len(kept.codes) == 2, "once a second"


def test_a_camera_that_is_slow_by_itself_is_not_silent_between_two_frames() -> None:
    one, kept = results(camera("a", silent_s=2.5, interval_s=1.5), camera("b", silent_s=3.1, interval_s=1.5))
    one.report_silence()
    assert kept.codes == ["b no_frame"]


def test_a_slow_model_is_not_stuck_and_one_limit_says_when_it_is() -> None:
    cameras = [camera("a")]
    one, kept = results(*cameras, inference_s=1.4)
    assert stuck_after_s(1.4) == 1.4 * STUCK_FACTOR and stuck_after_s(0.001) == MINIMUM_S
    monitor = Monitor(one, cameras, [], Counters(), SimpleNamespace(), "d", Path("/nowhere"))  # type: ignore[arg-type]
    one.last_inference_s = [time.monotonic() - 7.0]
    for seconds, stuck in ((2.5, False), (27.0, False), (28.5, True)):
        one.inferring_since_ns = time.monotonic_ns() - int(1e9 * seconds)
        one.alive_ns = time.monotonic_ns()
        one.report_silence()
        assert (kept.codes == ["a inference_stuck"]) == stuck
        assert bool(monitor.liveness()) == stuck
        assert bool(monitor.readiness()) == stuck, "7 s without a look are two turns and a bit"


def test_nobody_looks_at_a_camera_though_it_gives_frames() -> None:
    cameras = [camera("a"), camera("b", options=SimpleNamespace(max_fps=0.05))]
    one, _ = results(*cameras, result_s=10.0)
    stale = Cause("stale", "1200 ms old when its turn came")
    one.causes = [stale, None]
    monitor = Monitor(one, cameras, [], Counters(), SimpleNamespace(), "d", Path("/nowhere"))  # type: ignore[arg-type]
    assert monitor.readiness() == {"a": {"code": "stale", "text": stale.text}}, "b wants a look each 20 s"


@pytest.mark.parametrize("other", [STREAMING, NO_MOTION])
def test_a_driver_that_blocks_again_and_again_does_not_end_the_cameras_that_work(other: Cause) -> None:
    one, _ = results(camera("a", AWAY, hangs=MAX_CONSECUTIVE_HANGS + 5), camera("b", other))
    one.report_silence()


@pytest.mark.parametrize("others", [(), (AWAY,)])
def test_where_no_other_camera_works_the_process_ends(others: tuple[Cause, ...]) -> None:
    blocked = Cause("camera", "a: the camera driver blocked for 10 s, 3 times in a row")
    cameras = [
        camera("a", blocked, hangs=MAX_CONSECUTIVE_HANGS),
        *(camera(f"other {i}", state) for i, state in enumerate(others)),
    ]
    with pytest.raises(DeviceError, match=r"blocked for 10 s, 3 times in a row.*Restart the agent"):
        results(*cameras)[0].report_silence()
    cameras[0].hangs -= 1
    results(*cameras)[0].report_silence()
