"""The Raspberry Pi's camera, without one: a module `picamera2` with the calls that are used, and their ways to fail."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from edge.capture.sources.factory import make_source
from edge.capture.sources.picamera import PiCamera
from sightline.device_config import load_device
from sightline.errors import InputError, SourceError

CONFIG = load_device("raspberry_pi_5")[1]


class Job:
    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def get_result(self, timeout: float | None = None) -> Any:
        return self.future.result(timeout)


class Picamera2:
    """As picamera2 0.3: its jobs run one after the other, and `close` waits for those before it."""

    models = ("imx708", "ov5647")
    hangs = False
    busy = False
    adjusts: ClassVar[dict[str, Any]] = {}
    made: ClassVar[list[Picamera2]] = []

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        return [{"Model": model, "Num": i} for i, model in enumerate(cls.models)]

    def __init__(self, camera_num: int = 0) -> None:
        if self.busy:
            raise RuntimeError("Camera __init__ sequence did not complete.")
        self.number, self.state, self.jobs = camera_num, "made", list[Future[Any]]()
        self.made.append(self)

    def create_video_configuration(self, *, main: Any, controls: Any, buffer_count: int, queue: bool) -> Any:
        assert (buffer_count, queue) == (4, False)
        return {"main": {**main, **self.adjusts}, "controls": controls}

    def configure(self, config: Any) -> None:
        self.config = config

    def camera_configuration(self) -> Any:
        return self.config

    def start(self) -> None:
        self.state = "started"

    def capture_array(self, name: str, wait: bool) -> Job:
        assert (name, wait, self.state) == ("main", False, "started")
        future: Future[Any] = Future()
        if self.hangs:
            self.jobs.append(future)
        else:
            width, height = self.config["main"]["size"]
            future.set_result(np.full((height, width, 3), (250, 20, 10), np.uint8))  # blue
        return Job(future)

    def cancel_all_and_flush(self) -> None:
        self.jobs.clear()

    def close(self) -> None:
        assert not self.jobs, "picamera2 would wait here for ever"
        self.state = "closed"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> type[Picamera2]:
    class Fake(Picamera2):
        made: ClassVar[list[Picamera2]] = []

    module = ModuleType("picamera2")
    module.Picamera2 = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    return Fake


def find(what: str) -> PiCamera:
    source = make_source(what, CONFIG)
    assert isinstance(source, PiCamera)
    return source


def test_frames_come_in_bgr_at_the_configured_size(library: type[Picamera2]) -> None:
    source = find("picamera")
    assert (source.name, source.kind, source.live) == ("picamera:0", "camera", True)
    source.open()
    size = f"{CONFIG.camera_width}x{CONFIG.camera_height}"
    assert source.format == f"RGB888 {size}@{CONFIG.camera_fps}"
    assert library.made[0].config["controls"] == {"FrameRate": CONFIG.camera_fps}
    frame = source.read(None)
    assert frame is not None and frame.shape == (CONFIG.camera_height, CONFIG.camera_width, 3)
    assert frame[0, 0].tolist() == [250, 20, 10]
    source.close()
    source.close()
    assert library.made[0].state == "closed"


def test_the_second_camera_is_the_second_camera(library: type[Picamera2]) -> None:
    source = find("picamera:1")
    source.open()
    assert (source.name, library.made[0].number) == ("picamera:1", 1)


def test_a_camera_whose_cable_is_loose_fails_in_time_and_can_be_closed(library: type[Picamera2]) -> None:
    library.hangs = True
    source = PiCamera("picamera", CONFIG, read_timeout_s=0.05)
    source.open()
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"picamera:0: no frame for .* ribbon cable"):
        source.read(None)
    assert time.monotonic() - began < 1
    source.close()
    library.hangs = False
    source.open()
    assert source.read(None) is not None
    assert [camera.state for camera in library.made] == ["closed", "started"]


def test_a_missing_camera_is_named_with_the_present_ones(library: type[Picamera2]) -> None:
    with pytest.raises(SourceError, match=r"picamera:2: no such camera.*picamera:0 \(imx708\), picamera:1 \(ov5647\)"):
        find("picamera:2").open()
    library.models = ()
    with pytest.raises(SourceError, match=r"picamera:0: no such camera.*: none"):
        find("picamera").open()


def test_a_camera_in_use_is_a_failed_device(library: type[Picamera2]) -> None:
    library.busy = True
    with pytest.raises(SourceError, match=r"cannot be opened: Camera __init__ sequence.*Another program"):
        find("picamera").open()


def test_another_format_than_the_requested_one_is_refused(library: type[Picamera2]) -> None:
    library.adjusts = {"format": "YUV420"}
    source = find("picamera")
    with pytest.raises(SourceError, match="delivers YUV420"):
        source.open()
    source.close()
    assert library.made[0].state == "closed"


def test_without_picamera2_the_error_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)  # what `import` then raises is a ModuleNotFoundError
    with pytest.raises(SourceError, match=r"apt install python3-picamera2.*--system-site-packages"):
        find("picamera").open()


@pytest.mark.parametrize("what", ["picamera:", "picamera:x", "picamera:-1", "picamera:0:1"])
def test_a_number_that_is_none_is_bad_input(what: str) -> None:
    with pytest.raises(InputError, match=rf"{what}: write picamera"):
        find(what)
