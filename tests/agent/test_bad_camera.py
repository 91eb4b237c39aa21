"""One camera misbehaves in every manner, while another one works: the other one loses nothing, nor does the memory."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.mjpeg_camera import MANNERS, Camera
from benchmarks.support.waiting import wait_until
from edge import agent
from edge.capture.capture import STREAMING, Capture
from edge.capture.mailbox import Inbox
from edge.capture.options import CaptureOptions
from edge.capture.sources.limits import StreamLimits
from edge.capture.sources.stream import Stream
from edge.capture.times import CaptureTimes
from edge.inference.model import open_model
from edge.results.counters import Counters
from edge.results.publisher import ResultOptions, Results
from edge.results.sink import Sink
from sightline.bundle import read_bundle
from sightline.device_config import load_device
from sightline.predictions import Result

MB = 1024 * 1024


class ResultSink(Sink):
    def __init__(self) -> None:
        super().__init__("results", lossless=True)
        self.results: list[Result] = []

    def put(self, item: Any) -> None:
        self.results.append(item)

    def of(self, name: str) -> list[Result]:
        return [result for result in self.results if result.source == name]


def peak_mb(reset: bool = False) -> float:
    """Resident memory of this process at its largest since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / MB


@pytest.mark.slow
def test_the_other_cameras_lose_nothing(bundle: Path) -> None:
    config = load_device("desktop")[1]
    model, sink, stopping = open_model(read_bundle(bundle), config), ResultSink(), threading.Event()
    good, bad = Camera(fps=20), Camera(fps=40)
    limits = StreamLimits(open_timeout_s=0.4, read_timeout_s=0.4, transfer_s=0.6)
    sources = [Stream(camera.address, limits) for camera in (good, bad)]
    for source, name in zip(sources, ("good", "bad"), strict=True):
        source.name = name
    inbox = Inbox([False, False])
    options = CaptureOptions(frozen_s=0.3)
    times = CaptureTimes(backoff_s=0.03, backoff_max_s=0.1, vary=lambda low, high: 1.0)
    captures = [Capture(source, box, options, times) for source, box in zip(sources, inbox.mailboxes, strict=True)]
    results = Results(model, captures, [sink], Counters(), ResultOptions("desktop", 50))
    loop = threading.Thread(target=agent.run, args=(model, captures, inbox, results, stopping), daemon=True)
    for capture in captures:
        capture.start()
    loop.start()
    states: dict[str, str] = {}

    def noticed(manner: str, before: tuple[int, int, int, int]) -> bool:
        """Beyond the one time that it is opened again because its manner has changed."""
        if manner == "changes its size":
            return captures[1].resized >= before[1] + 3
        if manner in ("well", "without a pause", "long length"):
            return captures[0].frames > before[3] + 5
        if manner == "slow images":
            return "the link is too slow" in captures[1].state.text
        damaged = any(r.cause and r.cause.code == "unreadable" for r in sink.of("bad")[before[2] :])
        return damaged or captures[1].reconnects.total() >= before[0] + 2

    def moves(frames: int) -> bool:
        return captures[0].frames > frames

    try:
        for manner in MANNERS:
            wait_until(
                lambda: all(c.state == STREAMING for c in captures),
                20,
                lambda: f"no frame before: {manner}, {[c.state for c in captures]}, {states}",  # noqa: B023
            )
            before = captures[1].reconnects.total(), captures[1].resized, len(sink.of("bad")), captures[0].frames
            peak_before = peak_mb(reset=True)
            bad.manner = manner

            wait_until(partial(noticed, manner, before), 20, f"{manner}: not reported")
            wait_until(partial(moves, captures[0].frames), 20, f"{manner}: the other camera stands still")
            assert peak_mb() < peak_before + 80, manner
            states[manner] = captures[1].state.text
            bad.manner = "well"
        wait_until(lambda: captures[1].state == STREAMING, 20, "not seen again")
        assert loop.is_alive()
    finally:
        stopping.set()
        loop.join(5)
        for capture in captures:
            capture.stop()
        good.close()
        bad.close()
    assert {r.cause.code for r in sink.of("good") if r.cause} <= {"opening"}
    assert captures[0].reconnects.total() == 0
    inferred = [r for r in sink.of("good") if not r.cause]
    assert len(inferred) + sum(sum(r.dropped.values()) for r in sink.of("good")) >= captures[0].frames - 2
