"""USB cameras, without one: a fake stands where OpenCV's VideoCapture and the kernel's answers would."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.capture.sources import v4l2
from edge.capture.sources.base import MAX_DAMAGED_IMAGES
from edge.capture.sources.factory import make_source
from sightline.device_config import load_device
from sightline.errors import DataError, SourceError

CONFIG = load_device("desktop")[1]
MJPG, YUYV = (cv2.VideoWriter.fourcc(*code) for code in ("MJPG", "YUYV"))


def jpeg(level: int) -> bytes:
    return cv2.imencode(".jpg", np.full((48, 64, 3), level, np.uint8))[1].tobytes()


class FakeCapture:
    """Behaves as OpenCV's V4L2 does: a format that the camera lacks is answered by another one; grab fails without a
    camera; without conversion an MJPG image is one row of bytes, as it came."""

    has = (MJPG, YUYV)
    most = (1920, 1080)
    opens = True
    images: tuple[Any, ...] = ()
    wishes: list[tuple[int, float]]

    def __init__(self, path: str, api: int) -> None:
        assert api == cv2.CAP_V4L2
        self.path, self.released = path, False
        self.values = {
            cv2.CAP_PROP_FOURCC: YUYV, cv2.CAP_PROP_FRAME_WIDTH: 640, cv2.CAP_PROP_FRAME_HEIGHT: 480,
            cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_BUFFERSIZE: 4,
        }  # fmt: skip
        type(self).wishes = []
        self._left = list(self.images)

    def isOpened(self) -> bool:
        return self.opens

    def set(self, key: int, value: float) -> bool:
        self.wishes.append((key, value))
        if key == cv2.CAP_PROP_FOURCC and value not in self.has:
            value = self.has[0]
        if key == cv2.CAP_PROP_FRAME_WIDTH:
            value = min(value, self.most[0])
        if key == cv2.CAP_PROP_FRAME_HEIGHT:
            value = min(value, self.most[1])
        if key == cv2.CAP_PROP_FPS and self.values[cv2.CAP_PROP_FOURCC] == YUYV:
            value = 10.0
        self.values[key] = value
        return True

    def get(self, key: int) -> float:
        return self.values[key]

    def grab(self) -> bool:
        return bool(self._left) and self._left[0] is not None

    def retrieve(self, buffer: Any = None) -> tuple[bool, Any]:
        image = self._left.pop(0)
        if self.values[cv2.CAP_PROP_FOURCC] == MJPG:
            assert self.values[cv2.CAP_PROP_CONVERT_RGB] == 0
            return bool(image), np.frombuffer(image, np.uint8)[None] if image else None
        return True, image

    def release(self) -> None:
        self.released = True


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeCapture]:
    """The fake's class: change it, then open `camera_at(path)`."""

    class Capture(FakeCapture):
        pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    return Capture


def camera_at(tmp_path: Path, name: str = "video0") -> v4l2.Camera:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return v4l2.Camera(str(path), CONFIG, devices=tmp_path)


def test_mjpg_at_the_configured_size_is_requested_and_the_format_shown(
    camera: type[FakeCapture], tmp_path: Path
) -> None:
    source = camera_at(tmp_path)
    assert (source.kind, source.live, source.format) == ("camera", True, "")
    source.open()
    assert source.format == f"MJPG {CONFIG.camera_width}x{CONFIG.camera_height}@{CONFIG.camera_fps}"
    assert dict(camera.wishes)[cv2.CAP_PROP_BUFFERSIZE] == 2
    keys = [key for key, _ in camera.wishes]
    restarting = (cv2.CAP_PROP_FOURCC, cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_BUFFERSIZE)
    assert all(keys.index(key) < keys.index(cv2.CAP_PROP_FPS) for key in restarting), (
        "a setting that restarts the stream would reset the rate"
    )


def test_a_camera_without_mjpg_and_of_another_size_is_taken_as_it_is(camera: type[FakeCapture], tmp_path: Path) -> None:
    camera.has, camera.most = (YUYV,), (640, 480)
    source = camera_at(tmp_path)
    source.open()
    assert source.format == "YUYV 640x480@10"


def test_a_format_without_a_readable_name_is_shown(camera: type[FakeCapture], tmp_path: Path) -> None:
    camera.has = (0x80000000 | cv2.VideoWriter.fourcc(*"Y16 "),)  # as the kernel marks big-endian ones
    source = camera_at(tmp_path)
    source.open()
    assert source.format.endswith("1280x720@30")


def test_frames_come_until_the_camera_is_unplugged(camera: type[FakeCapture], tmp_path: Path) -> None:
    camera.images = (jpeg(90), None)
    source = camera_at(tmp_path)
    source.open()
    frame = source.read(None)
    assert frame is not None and frame.shape == (48, 64, 3) and abs(frame.mean() - 90) < 2
    with pytest.raises(SourceError, match=r"video0: no frame\. It may be unplugged"):
        source.read(None)


@pytest.mark.parametrize("damaged", [b"", jpeg(9)[:200], b"\0" * 64 + jpeg(9)[64:]], ids=["empty", "cut", "spoilt"])
def test_a_damaged_image_is_reported_and_the_next_one_comes(
    camera: type[FakeCapture], tmp_path: Path, damaged: bytes
) -> None:
    camera.images = (damaged, jpeg(90), *[damaged] * 40)
    source = camera_at(tmp_path)
    source.open()
    with pytest.raises(DataError, match="video0: "):
        source.read(None)
    assert source.read(None) is not None
    for _ in range(MAX_DAMAGED_IMAGES - 1):
        with pytest.raises(DataError):
            source.read(None)
    with pytest.raises(SourceError, match="30 damaged images in a row"):
        source.read(None)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 4), np.uint8), np.zeros((4, 6, 3), np.uint16)]
)
def test_a_camera_whose_frames_are_no_colour_images_is_refused(
    camera: type[FakeCapture], tmp_path: Path, image: Any
) -> None:
    camera.has, camera.images = (YUYV,), (image,)
    source = camera_at(tmp_path)
    source.open()
    with pytest.raises(SourceError, match=rf"the frames are {image.dtype} \[4, 6.*8-bit colour"):
        source.read(None)


def test_a_path_by_id_is_a_camera(camera: type[FakeCapture], tmp_path: Path) -> None:
    (tmp_path / "video7").touch()
    by_id = tmp_path / "v4l" / "by-id" / "usb-046d_HD_Webcam-video-index0"
    by_id.parent.mkdir(parents=True)
    by_id.symlink_to("../../video7")
    source = v4l2.Camera(str(by_id), CONFIG)
    source.open()
    assert source.name == str(by_id)
    by_id.unlink()
    with pytest.raises(SourceError, match="index0: no such camera"):
        source.open()
    source = make_source("/dev/v4l/by-id/usb-046d_HD_Webcam-video-index0", CONFIG)
    assert isinstance(source, v4l2.Camera)


def answer(driver: str, card: str, capabilities: int, device_caps: int) -> bytes:
    """struct v4l2_capability of <linux/videodev2.h>, 104 bytes."""
    texts = [driver.encode().ljust(16, b"\0"), card.encode().ljust(32, b"\0"), b"usb-1".ljust(32, b"\0")]
    return b"".join(texts) + struct.pack("6I", 0x60600, capabilities, device_caps, 0, 0, 0)


UVC = 0x84A00001  # capabilities of the whole device in uvcvideo, for its image node and its metadata node alike


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, camera: type[FakeCapture], tmp_path: Path) -> dict[str, Any]:
    """The kernel's reply for each node by its name: bytes, or an errno. No node can be opened by OpenCV."""
    answers: dict[str, Any] = {
        "video0": answer("uvcvideo", "HD Webcam", UVC, 0x04200001),
        "video1": answer("uvcvideo", "HD Webcam", UVC, 0x04A00000),
        "video10": answer("bcm2835-codec", "bcm2835-codec-decode", 0x84204000, 0x04204000),
        "video2": answer("unicam", "unicam", 0x85200001, 0x05200001),
    }

    def ioctl(fd: int, request: int, _: bytes) -> bytes:
        assert request == 0x80685600
        reply = answers[Path(f"/proc/self/fd/{fd}").readlink().name]
        if isinstance(reply, int):
            raise OSError(reply, os.strerror(reply))
        return bytes(reply)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    for name in answers:
        (tmp_path / name).touch()
    camera.opens = False
    return answers


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("video0", ["HD Webcam cannot be opened", "Another program", "fuser -v"]),
        ("video1", ["belongs to HD Webcam", "delivers no images", "video0 (HD Webcam)"]),
        ("video10", ["belongs to bcm2835-codec-decode", "delivers no images"]),
        ("video2", ["Raspberry Pi's camera port", "--source picamera"]),
    ],
)
def test_the_kernel_knows_why_a_camera_cannot_be_opened(
    kernel: dict[str, Any], tmp_path: Path, name: str, words: list[str]
) -> None:
    with pytest.raises(SourceError) as raised:
        camera_at(tmp_path, name).open()
    for word in words:
        assert word in str(raised.value)


def test_the_camera_list_leaves_out_nodes_without_images(kernel: dict[str, Any], tmp_path: Path) -> None:
    kernel["video2"] = errno.ENODEV
    assert v4l2.camera_list(tmp_path) == f"{tmp_path}/video0 (HD Webcam), {tmp_path}/video2 (No such device)"


def test_a_missing_permission_is_named_with_its_cure(kernel: dict[str, Any], tmp_path: Path) -> None:
    kernel["video0"] = errno.EACCES
    with pytest.raises(SourceError, match="usermod -aG video"):
        camera_at(tmp_path).open()


def test_the_time_out_for_a_frame_is_set_where_opencv_reads_it() -> None:
    assert os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] == "3"
