"""The loop itself, with a scripted interpreter: old frames, a stuck one, another model."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge.results.publisher
from benchmarks.support.waiting import wait_until
from edge import agent
from edge.capture.capture import Capture
from edge.capture.mailbox import Inbox
from edge.inference.model import Model, open_model
from edge.inference.time_limit import MINIMUM_S
from edge.results.counters import Counters
from edge.results.publisher import ResultOptions, Results
from edge.results.sink import Sink
from sightline.bundle import read_bundle
from sightline.device_config import load_device
from sightline.predictions import Result
from sightline.preprocess import Frame
from tests.conftest import LABELS, coloured


class ResultSink(Sink):
    def __init__(self) -> None:
        super().__init__("results", lossless=True)
        self.results: list[Result] = []

    def put(self, result: Result) -> None:
        self.results.append(result)

    def codes(self) -> list[str]:
        return [r.cause.code if r.cause else "ok" for r in self.results]


class Frames:
    """A camera that gives `label`s at its own pace, for ever or `count` times; then it is silent."""

    kind = "camera"

    def __init__(self, name: str, pause_s: float, label: str = "red", count: int = 10**9, live: bool = True) -> None:
        self.name, self.pause_s, self.label, self.left, self.live = name, pause_s, label, count, live
        self._rng = np.random.default_rng(0)
        self.over = threading.Event()

    def open(self) -> None:
        pass

    def read(self, buffer: Frame | None) -> Frame | None:
        self.over.wait(self.pause_s if self.left else 30)
        self.left -= 1
        return None if self.over.is_set() else coloured(self.label, self._rng)

    def close(self) -> None:
        pass


class Held:
    """The bundle's interpreter, whose `invoke` waits for `go`, and then for `seconds`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.go = threading.Event()
        self.go.set()
        self.seconds = 0.0
        self.invoked = 0

    def invoke(self) -> None:
        assert self.go.wait(20)
        time.sleep(self.seconds)
        self.invoked += 1
        self._inner.invoke()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclasses.dataclass
class Running:
    sink: ResultSink
    counters: Counters
    interpreter: Held
    model: Model
    progress: list[float]


@contextmanager
def running(
    bundle: Path, *sources: Frames, held: bool = False, stuck_after_s: float | None = None, **options: Any
) -> Iterator[Running]:
    """The loop in a thread. held: the interpreter waits for `go` from the first frame on.
    stuck_after_s: of an inference; None = as the model sets it. options: of the loop."""
    model = open_model(read_bundle(bundle), load_device("desktop")[1])
    interpreter = Held(model.interpreter)
    if held:
        interpreter.go.clear()
    model = dataclasses.replace(model, interpreter=interpreter)  # type: ignore[arg-type]
    inbox, counters, sink, stopping = Inbox([not s.live for s in sources]), Counters(), ResultSink(), threading.Event()
    cameras = [Capture(s, mailbox) for s, mailbox in zip(sources, inbox.mailboxes, strict=True)]  # type: ignore[arg-type]
    results = Results(model, cameras, [sink], counters, ResultOptions("desktop", 50))
    results.stuck_after_s = stuck_after_s or results.stuck_after_s
    progress: list[float] = []
    loop_options = agent.LoopOptions(on_turn=lambda: progress.append(time.monotonic()), **options)
    for camera in cameras:
        camera.start()
    loop = threading.Thread(
        target=agent.run, args=(model, cameras, inbox, results, stopping, loop_options), daemon=True
    )
    loop.start()
    try:
        yield Running(sink, counters, interpreter, model, progress)
    finally:
        stopping.set()
        interpreter.go.set()
        for source in sources:
            source.over.set()
        loop.join(5)
        for camera in cameras:
            camera.stop()
        assert not loop.is_alive()


def test_two_cameras_get_the_same_rate_and_their_own_names(bundle: Path) -> None:
    with running(bundle, Frames("fast", 0.001, "red"), Frames("slow", 0.004, "blue")) as r:
        r.interpreter.seconds = 0.01
        wait_until(lambda: r.counters.frames >= 80)
        counts = r.counters.cameras
    assert abs(counts["fast"] - counts["slow"]) <= 0.1 * counts["fast"]
    for result in r.sink.results:
        if not result.cause:
            assert result.predictions[0].label == {"fast": "red", "slow": "blue"}[result.source]


def test_a_frame_that_is_too_old_gets_no_inference_but_a_cause(bundle: Path) -> None:
    with running(bundle, Frames("a", 0.02, count=2), held=True, max_age_ms=100) as r:
        time.sleep(0.3)  # the first is in the interpreter, the second one waits
        r.interpreter.go.set()
        wait_until(lambda: "stale" in r.sink.codes())
    stale = next(x for x in r.sink.results if x.cause and x.cause.code == "stale")
    assert stale.frame_id == 1 and stale.predictions == () and stale.cause and "ms old" in stale.cause.text
    assert r.interpreter.invoked == 1


@pytest.mark.slow
def test_a_stuck_interpreter_is_reported_at_once_and_stops_the_progress(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.results.publisher, "SILENCE_S", 0.3)
    with running(bundle, Frames("a", 0.02), stuck_after_s=0.6) as r:
        wait_until(lambda: r.counters.frames >= 5)
        assert len(r.progress) >= 5
        r.interpreter.go.clear()
        wait_until(lambda: r.sink.codes().count("inference_stuck") >= 2)
        before = len(r.progress)
        time.sleep(0.3)
        assert len(r.progress) == before, "a supervisor must not hear that the agent works"
        frames_before = r.counters.frames
        r.interpreter.go.set()
        wait_until(lambda: r.counters.frames > frames_before + 3)
        assert len(r.progress) > before


@pytest.mark.slow
def test_cameras_behind_a_slow_model_do_not_count_as_silent(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its turn after 0.8 s, which is longer than a silence."""
    monkeypatch.setattr(edge.results.publisher, "SILENCE_S", 0.5)
    with running(bundle, Frames("a", 0.02), Frames("b", 0.02)) as r:
        r.interpreter.seconds = 0.4
        wait_until(lambda: r.counters.frames >= 6, timeout_s=10)
        assert set(r.sink.codes()) <= {"ok", "opening"}


def test_a_silent_camera_is_no_lack_of_progress(bundle: Path) -> None:
    with running(bundle, Frames("a", 0.01, count=1)) as r:
        wait_until(lambda: r.counters.frames == 1)
        before = len(r.progress)
        time.sleep(0.5)
        assert len(r.progress) - before >= 3


@pytest.mark.slow
def test_a_sink_that_blocks_the_results_stops_the_progress(bundle: Path) -> None:
    with running(bundle, Frames("a", 0.01)) as r:
        wait_until(lambda: r.counters.frames >= 3)
        gate = threading.Event()
        r.sink.put = lambda result: gate.wait(20)  # type: ignore[method-assign,assignment,return-value]
        time.sleep(MINIMUM_S / 2 + 0.3)
        before = len(r.progress)
        time.sleep(0.3)
        assert len(r.progress) == before
        gate.set()


def test_another_model_takes_over_between_two_frames(bundle: Path) -> None:
    """The new one takes another dtype: frames prepared for the old one are prepared again, and none is lost."""
    other = open_model(read_bundle(bundle), load_device("desktop")[1], "float32")
    other = dataclasses.replace(other, inference_s=1.0)
    waiting: list[Model] = []
    replay = Frames("a", 0.002, count=200, live=False)
    with running(bundle, replay, take_model=lambda: waiting.pop() if waiting else None) as r:
        wait_until(lambda: r.counters.frames >= 20)
        waiting.append(other)
        wait_until(lambda: r.counters.frames >= 60)
    results = r.sink.results
    assert [x.frame_id for x in results] == list(range(len(results)))
    assert {x.predictions[0].label for x in results} == {LABELS[2]}
    hashes = [x.model.sha256 for x in results]
    change = hashes.index(other.identity.sha256)
    assert change >= 20 and set(hashes[change:]) == {other.identity.sha256}
