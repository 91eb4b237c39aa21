"""The capture thread, with scripted sources."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import BadStatusLine
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.support.waiting import wait_until
from edge.capture.capture import MAX_HUNG_THREADS, NO_MOTION, STREAMING, Capture
from edge.capture.frame_gate import KEY_FRAME_FACTOR
from edge.capture.mailbox import SLOTS, Mailbox, Slot
from edge.capture.options import CaptureOptions
from edge.capture.sources.files import ImageFolder
from edge.capture.times import CaptureTimes
from sightline.errors import ConfigError, InputError, SightlineError, SourceError
from sightline.interpreter import InputQuantizer, TensorInfo
from sightline.preprocess import Frame, InputSpec
from tests.conftest import BGR

SPEC = InputSpec(8, 8)


@dataclass
class Scripted:
    """A source that follows a script: what each `open` raises, and what each `read` gives, raises, or does; then the
    end. events: what was asked of it, and when."""

    opens: list[Exception | None] = field(default_factory=list)
    reads: list[Frame | Exception | None] = field(default_factory=list)
    closes: list[Exception] = field(default_factory=list)
    live: bool = True
    name: str = "scripted"
    kind: str = "test"
    format: str = ""
    events: list[tuple[str, float]] = field(default_factory=list)

    def open(self) -> None:
        self.events.append(("open", time.monotonic()))
        step = self.opens.pop(0) if self.opens else None
        if step is not None:
            raise step

    def read(self, buffer: Frame | None) -> Frame | None:
        step = self.reads.pop(0) if self.reads else None
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.events.append(("close", time.monotonic()))
        if self.closes:
            raise self.closes.pop(0)

    def times(self, what: str) -> list[float]:
        return [t for event, t in self.events if event == what]


def frame(level: int = 0) -> Frame:
    return np.full((6, 6, 3), level, np.uint8)


OPTIONS = CaptureOptions()
# reopened after hundredths of a second, without the random part
QUICK = CaptureTimes(backoff_s=0.03, vary=lambda low, high: 1.0)
SLOW = replace(QUICK, backoff_s=30.0)
QUANTIZER = InputQuantizer(TensorInfo(0, "in", (1, 8, 8, 3), "uint8", 1.0, 0), SPEC, "model")


def started(source: Scripted | ImageFolder, options: CaptureOptions = OPTIONS, times: CaptureTimes = QUICK) -> Capture:
    """A running capture for a model of 8 x 8 pixels."""
    capture = Capture(source, Mailbox(lossless=not source.live), options, times)
    capture.prepare(0, QUANTIZER)
    capture.start()
    return capture


@contextmanager
def capturing(source: Scripted | ImageFolder, times: CaptureTimes = QUICK) -> Iterator[Capture]:
    capture = started(source, times=times)
    try:
        yield capture
    finally:
        capture.stop()


def take_all(capture: Capture, within_s: float = 5.0) -> list[Slot]:
    """Copies of the slots, to the end. Raises what the loop would raise."""
    until, slots = time.monotonic() + within_s, []
    while not capture.mailbox.ended and time.monotonic() < until:
        slot = capture.mailbox.take(0.2)
        if slot is not None:
            slots.append(
                Slot(
                    image=slot.image.copy(),
                    frame=slot.frame,
                    cause=slot.cause,
                    frame_id=slot.frame_id,
                    dropped=slot.dropped,
                )
            )
            capture.mailbox.release(slot)
    if capture.mailbox.ended:
        capture.mailbox.take(0)  # an error waits behind the last frame
        return slots
    raise AssertionError(f"no end within {within_s} s, only {len(slots)} slots")


def test_a_replay_arrives_whole_and_in_order() -> None:
    with capturing(Scripted(reads=[frame(i) for i in range(30)], live=False)) as capture:
        slots = take_all(capture)
    assert [s.frame_id for s in slots] == list(range(30))
    assert [int(s.image.max()) for s in slots] == list(range(30))
    assert not any(s.dropped for s in slots)


def test_a_live_source_numbers_the_dropped_frames_too() -> None:
    with capturing(Scripted(reads=[frame(i) for i in range(30)])) as capture:
        wait_until(lambda: capture.mailbox.closed)
        (slot,) = take_all(capture)
    assert (slot.frame_id, slot.dropped) == (29, {"overwritten": 29})


def test_a_camera_that_fails_is_opened_again_at_growing_intervals() -> None:
    off = SourceError("the camera is off")
    source = Scripted(opens=[None, off, off, off, None], reads=[frame(1), SourceError("unplugged"), frame(2)])
    with capturing(source) as capture:
        first = capture.mailbox.take(2)
        assert first is not None and first.frame_id == 0
        capture.mailbox.release(first)
        (second,) = take_all(capture)
        assert capture.reconnects["camera"] == 4
    assert (second.frame_id, second.image.max()) == (1, 2)
    opened = source.times("open")
    gaps = [b - a for a, b in itertools.pairwise(opened)]
    for gap, wait in zip(gaps, (0.03, 0.06, 0.12, 0.24), strict=True):
        assert wait <= gap < wait + 0.15


def test_the_interval_begins_small_again_once_a_frame_came() -> None:
    source = Scripted(reads=[step for _ in range(2) for step in (frame(), SourceError("a loose plug"))])
    with capturing(source, replace(QUICK, backoff_s=0.1)) as capture:
        take_all(capture)
        assert capture.reconnects["camera"] == 2
    opened = source.times("open")
    assert all(0.1 <= b - a < 0.19 for a, b in itertools.pairwise(opened))


def test_the_interval_has_a_limit() -> None:
    source = Scripted(opens=[None, *[SourceError("off")] * 8], reads=[SourceError("unplugged")])
    with capturing(source, replace(QUICK, backoff_max_s=0.05)) as capture:
        take_all(capture)
        assert capture.reconnects["camera"] == 9
    opened = source.times("open")
    assert max(b - a for a, b in itertools.pairwise(opened)) < 0.2


def test_a_camera_may_fail_any_number_of_times() -> None:
    """Each failed read holds a slot, and there are few of them."""
    source = Scripted(reads=[step for _ in range(10) for step in (frame(), SourceError("a loose plug"))])
    with capturing(source, replace(QUICK, backoff_s=0.002)) as capture:
        slots = take_all(capture)
        assert capture.reconnects["camera"] == 10
    assert slots[-1].frame_id == 9
    assert len(slots) + sum(sum(s.dropped.values()) for s in slots) == 10


def test_why_a_camera_is_away_can_be_read() -> None:
    with capturing(Scripted(reads=[frame(), SourceError("fake: unplugged?")]), SLOW) as capture:
        assert capture.mailbox.take(2) is not None
        wait_until(lambda: capture.state.code == "camera")
        assert capture.state.text == "fake: unplugged?"
        assert not capture.mailbox.ended


def test_a_camera_is_given_back_before_the_wait_not_after() -> None:
    """A USB camera that is plugged in again gets another number while the agent still holds the dead one."""
    source = Scripted(reads=[frame(), SourceError("unplugged")])
    with capturing(source, SLOW) as capture:
        wait_until(lambda: capture.reconnects["camera"] == 1)
        time.sleep(0.1)
        assert source.times("close")


def test_a_replays_first_opening_that_fails_reaches_the_loop() -> None:
    source = Scripted(opens=[SourceError("no such file")], live=False)
    with capturing(source) as capture, pytest.raises(SourceError, match="no such file"):
        take_all(capture)
    assert len(source.times("open")) == 1
    assert source.times("close")


def test_a_camera_that_is_absent_at_the_start_is_waited_for() -> None:
    absent = SourceError("no such camera")
    source = Scripted(opens=[absent, absent, absent], reads=[frame(3)])
    with capturing(source) as capture:
        (slot,) = take_all(capture)
    assert slot.image.max() == 3
    assert len(source.times("open")) == 4


def test_a_replay_that_fails_is_not_opened_again_and_keeps_what_it_gave() -> None:
    source = Scripted(reads=[frame(), frame(), InputError("cut off")], live=False)
    with capturing(source) as capture:
        for i in range(2):
            slot = capture.mailbox.take(2)
            assert slot is not None and slot.frame_id == i
            capture.mailbox.release(slot)
        with pytest.raises(InputError, match="cut off"):
            capture.mailbox.take(2)
    assert len(source.times("open")) == 1


def test_a_corrupt_image_has_its_own_slot_with_the_cause(tmp_path: Path) -> None:
    for name in ("0.png", "1.png", "2.png"):
        cv2.imwrite(str(tmp_path / name), np.full((40, 40, 3), BGR["red"], np.uint8))
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with capturing(ImageFolder(tmp_path)) as capture:
        slots = take_all(capture)
    assert [s.frame_id for s in slots] == [0, 1, 2]
    assert [s.frame is None for s in slots] == [False, True, False]
    assert [s.cause for s in slots] == [None, slots[1].cause, None]
    assert slots[1].cause is not None and slots[1].cause.code == "unreadable"
    assert "1.png" in slots[1].cause.text and "truncated" in slots[1].cause.text


@pytest.mark.parametrize("where", ["open", "read"])
def test_a_fault_of_our_own_in_a_replay_reaches_the_loop_by_name(where: str) -> None:
    fault = ZeroDivisionError("a bug")
    source = Scripted(opens=[fault]) if where == "open" else Scripted(reads=[fault])
    source.live = False
    with capturing(source) as capture, pytest.raises(SightlineError, match="ZeroDivisionError: a bug") as raised:
        take_all(capture)
    assert raised.value.exit_code == 1
    assert source.times("close")


FAULTS = (
    ValueError("Exceeds the limit (4300 digits)"),
    UnicodeError("label empty"),
    BadStatusLine("garbage"),
    MemoryError(),
    ZeroDivisionError("a bug"),
    InputError("what is wrong with a file"),
    SourceError("unplugged"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("where", ["open", "read", "close"])
def test_whatever_a_camera_raises_stays_with_it_and_is_shown(where: str, fault: Exception) -> None:
    source = Scripted(reads=[frame(1), frame(2)])
    if where == "close":
        source.closes, source.reads = [fault], [frame(1), SourceError("unplugged"), frame(2)]
    else:
        getattr(source, where + "s").insert(where == "read", fault)
    with capturing(source, replace(QUICK, backoff_s=0.3)) as capture:
        wait_until(lambda: capture.reconnects["camera"] == 1 and len(source.times("close")) == 1)
        wait_until(lambda: str(fault) in capture.state.text)
        assert capture.state.code == "camera"
        assert isinstance(fault, SightlineError) or type(fault).__name__ in capture.state.text
        slots = take_all(capture)
    assert slots[-1].frame_id == 1 and slots[-1].image.max() == 2
    assert len(source.times("open")) == 2


def test_a_clip_that_plays_as_a_camera_and_is_no_clip_is_wrong_input() -> None:
    source = Scripted(opens=[InputError("not a video")], kind="file")
    with capturing(source) as capture, pytest.raises(InputError, match="not a video"):
        take_all(capture)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("key", ["max_fps", "motion", "frozen_s"])
def test_capture_options_are_finite_numbers(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be a finite number of at least 0, not {value:g}"):
        CaptureOptions(**{key: value})


def test_a_rate_of_almost_nothing_is_a_rate() -> None:
    capture = started(Scripted(reads=[frame(), frame()]), CaptureOptions(max_fps=1e-320))
    try:
        (slot,) = take_all(capture)
        assert slot.frame_id == 0
        assert slot.dropped | capture.mailbox.take_dropped() == {"max_fps": 1}
    finally:
        capture.stop()


def test_stopping_ends_a_writer_that_waits_for_a_reader() -> None:
    capture = started(Scripted(reads=[frame()] * 100, live=False))
    time.sleep(0.1)
    began = time.monotonic()
    capture.stop()
    assert time.monotonic() - began < 1
    assert not capture.running


def test_stopping_does_not_wait_for_the_next_try() -> None:
    source = Scripted(reads=[SourceError("off")] * 3)
    capture = started(source, times=SLOW)
    wait_until(lambda: capture.reconnects["camera"] == 1)
    began = time.monotonic()
    capture.stop()
    assert time.monotonic() - began < 1
    assert len(source.times("open")) == len(source.times("close")) == 1


def test_times_are_measured_where_they_pass() -> None:
    with capturing(Scripted(reads=[frame()], live=False)) as capture:
        slot = capture.mailbox.take(2)
        assert slot is not None
        assert 0 < slot.captured_ns <= slot.ready_ns <= time.monotonic_ns()
        assert slot.capture_ms >= 0 and slot.preprocess_ms >= 0
        assert len(slot.captured_at) == len("2026-01-01T00:00:00.000Z") and slot.captured_at.endswith("Z")


def noise(seed: int) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)


@dataclass
class Endless(Scripted):
    """A camera of 200 frames a second, one image again and again, or none of them twice."""

    kind: str = "camera"
    still: bool = False
    frames_read: int = 0

    def read(self, buffer: Frame | None) -> Frame | None:
        time.sleep(0.005)
        self.frames_read += 1
        return noise(0 if self.still else self.frames_read)


@pytest.mark.parametrize(
    ("kind", "stream_format", "frozen_s"),
    [("camera", "", 0.2), ("stream", "MJPG 640x480", 0.2), ("stream", "h264 640x480", 0.2 / KEY_FRAME_FACTOR)],
)
def test_a_frozen_image_is_noticed_and_never_passed_on_as_new(kind: str, stream_format: str, frozen_s: float) -> None:
    source = Endless(still=True, kind=kind, format=stream_format)
    capture = started(source, CaptureOptions(frozen_s=frozen_s))
    try:
        wait_until(lambda: capture.reconnects["frozen"] >= 2)
        assert capture.state.code == "frozen" and "the same image" in capture.state.text
        while capture.mailbox.take(0) is not None:
            pass
        time.sleep(0.2)
        assert capture.mailbox.take(0) is None, "opened again, it is still the same image"
        assert len(source.times("open")) >= 3
        source.still = False
        slot = capture.mailbox.take(2)
        assert slot is not None and capture.state == STREAMING
        assert slot.dropped["frozen"] >= 2
    finally:
        capture.stop()


def test_a_camera_that_starts_with_its_last_image_is_not_frozen() -> None:
    first = noise(0)
    again = [first, SourceError("broke off")]
    source = Scripted(kind="camera", reads=[*again, *again, first, noise(1), noise(2)])
    capture = started(source, CaptureOptions(frozen_s=0.02))  # less than the pause before it is opened again
    try:
        slots = take_all(capture)
    finally:
        capture.stop()
    assert slots[-1].frame_id == 4 and capture.reconnects == {"camera": 2}


@pytest.mark.parametrize(
    ("kind", "frozen_s", "stream_format"),
    [("camera", 0.0, ""), ("test", 0.1, ""), ("file", 0.1, ""), ("stream", 0.1, "h264 640x480@15")],
)
def test_an_image_may_stand_still_where_that_is_no_fault(kind: str, frozen_s: float, stream_format: str) -> None:
    capture = started(Endless(still=True, kind=kind, format=stream_format), CaptureOptions(frozen_s=frozen_s))
    try:
        time.sleep(0.3)
        assert not capture.reconnects and capture.mailbox.take(1) is not None
    finally:
        capture.stop()


@dataclass
class Blocking(Scripted):
    """A camera of 200 frames a second. Calls that `blocks` has block until `release` is set; each one once. log: of all
    copies."""

    kind: str = "camera"
    blocks: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    blocked: list[str] = field(default_factory=list)

    def _call(self, what: str) -> None:
        if self.blocks and self.blocks[0] == what:
            self.blocked.append(self.blocks.pop(0))
            self.release.wait(20)

    def open(self) -> None:
        super().open()
        self._call("open")

    def read(self, buffer: Frame | None) -> Frame | None:
        time.sleep(0.005)
        self._call("read")
        if self.reads:
            return super().read(buffer)
        return noise(len(self.events))

    def close(self) -> None:
        super().close()
        self._call("close")


def blocks(capture: Capture, source: Blocking, times: int) -> None:
    """Waits until the source blocks for the n-th time, and checks it far in the future."""
    wait_until(lambda: len(source.blocked) == times and capture.call_began_ns != 0)
    capture.check(time.monotonic_ns() + int(1e9 * QUICK.hang_max_s))


def taken(capture: Capture) -> Slot:
    """A frame from now on."""
    while (slot := capture.mailbox.take(0)) is not None:
        capture.mailbox.release(slot)
    slot = capture.mailbox.take(3)
    assert slot is not None
    capture.mailbox.release(slot)
    return slot


@pytest.mark.parametrize("where", ["open", "read", "close"])
def test_a_thread_in_a_hung_call_is_abandoned(where: str) -> None:
    source = Blocking(blocks=[where])
    if where == "close":
        source.reads.append(SourceError("unplugged"))
    capture = started(source)
    try:
        wait_until(lambda: source.blocked == [where] and capture.call_began_ns != 0)
        capture.check(time.monotonic_ns())
        assert capture.hangs == 0, "not yet"
        blocks(capture, source, 1)
        assert capture.reconnects["hung"] == 1
        assert taken(capture).frame is not None, "a new thread reads"
        assert capture.state == STREAMING and capture.hangs == 0
        left = capture.hung_threads[0]
        source.release.set()
        left.join(3)
        assert not left.is_alive()
        assert taken(capture).frame is not None, "the old one has closed what was its own"
    finally:
        source.release.set()
        capture.stop()


@pytest.mark.parametrize(("kind", "what"), [("camera", "the camera driver"), ("stream", "the network library")])
def test_a_hang_is_reported_with_its_place_and_duration(kind: str, what: str) -> None:
    source = Blocking(kind=kind, blocks=["open"] * 5)
    capture = started(source)
    texts = []
    try:
        for i in range(5):
            blocks(capture, source, i + 1)
            texts.append(capture.state.text)
        assert texts == [
            f"scripted: {what} blocked for 10 s",
            f"scripted: {what} blocked for 10 s, 2 times in a row",
            f"scripted: {what} blocked for 10 s, 3 times in a row",
            f"scripted: {what} blocked for 20 s, 4 times in a row",
            f"scripted: {what} blocked for 40 s, 5 times in a row",
        ], "one that needs longer gets it in the end"
        assert taken(capture).frame is not None and capture.hangs == 0
    finally:
        source.release.set()
        capture.stop()


def test_hangs_are_counted_in_a_row_and_none_costs_a_slot_for_ever() -> None:
    source = Blocking(blocks=["read"] * (SLOTS + 2))
    capture = started(source)
    try:
        for i in range(SLOTS + 2):
            source.reads.append(noise(i))
            blocks(capture, source, i + 1)
            assert capture.hangs == i + 1
        assert taken(capture).frame is not None
        source.blocks.append("read")
        blocks(capture, source, SLOTS + 3)
        assert capture.hangs == 1, "frames came in between"
        assert capture.reconnects["hung"] == SLOTS + 3
    finally:
        source.release.set()
        capture.stop()


def test_threads_that_never_come_back_are_bounded() -> None:
    source = Blocking(blocks=["open"] * 100)
    capture = started(source)
    try:
        for i in range(MAX_HUNG_THREADS):
            blocks(capture, source, i + 1)
        wait_until(lambda: len(source.blocked) == MAX_HUNG_THREADS + 1)
        for _ in range(3):
            capture.check(time.monotonic_ns() + int(1e9 * QUICK.hang_max_s))
        assert len(source.blocked) == MAX_HUNG_THREADS + 1
        source.blocks.clear()
        source.release.set()
        assert taken(capture).frame is not None, "they have come back, and the camera with them"
    finally:
        source.release.set()
        capture.stop()


def test_max_fps_is_kept_and_what_it_drops_is_counted() -> None:
    capture = started(Endless(), CaptureOptions(max_fps=20))
    try:
        taken, dropped, until = 0, 0, time.monotonic() + 1.0
        while time.monotonic() < until:
            slot = capture.mailbox.take(0.1)
            if slot is not None:
                taken += 1
                dropped += slot.dropped.get("max_fps", 0)
                capture.mailbox.release(slot)
        assert 12 <= taken <= 22
        assert dropped > taken
    finally:
        capture.stop()


def test_without_motion_there_is_no_inference_and_a_cause() -> None:
    source = Endless(still=True)
    capture = started(source, CaptureOptions(motion=5, frozen_s=0))
    try:
        assert capture.mailbox.take(1) is not None, "the first image"
        wait_until(lambda: source.frames_read > 20)
        assert capture.mailbox.take(0) is None
        assert capture.state == NO_MOTION
        assert capture.mailbox.take_dropped()["no_motion"] > 10
        source.still = False
        assert capture.mailbox.take(1) is not None
    finally:
        capture.stop()


def test_a_changed_size_is_counted_and_fits_all_the_same() -> None:
    sizes = [np.full((h, 6, 3), 7, np.uint8) for h in (6, 6, 12, 12, 6)]
    with capturing(Scripted(reads=list(sizes), live=False)) as capture:
        slots = take_all(capture)
        assert capture.resized == 2
    assert [s.frame.shape[0] for s in slots if s.frame is not None] == [6, 6, 12, 12, 6]
    assert {s.image.shape for s in slots} == {(8, 8, 3)}
