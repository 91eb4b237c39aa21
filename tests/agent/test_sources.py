"""The sources one by one, and their faults."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture.sources import test_pattern
from edge.capture.sources.base import Source
from edge.capture.sources.factory import make_names_unique, make_source
from edge.capture.sources.files import Clip, ImageFolder
from edge.capture.sources.stream import Stream
from edge.capture.sources.v4l2 import Camera
from edge.hide_passwords import without_credentials
from sightline.device_config import load_device
from sightline.errors import DataError, InputError, SourceError
from sightline.preprocess import Frame
from tests.conftest import BGR

CONFIG = load_device("desktop")[1]


def find(what: object, *, realtime: bool = False, loop: bool = False) -> Source:
    return make_source(str(what), CONFIG, realtime=realtime, loop=loop)


def frames(source: Source, limit: int = 1000) -> list[Frame]:
    """All frames to the end, or `limit` of them, from opening to closing."""
    source.open()
    try:
        taken: list[Frame] = []
        while len(taken) < limit and (frame := source.read(None)) is not None:
            taken.append(frame.copy())
        return taken
    finally:
        source.close()


def write_clip(path: Path, levels: list[int], fps: float = 30, fourcc: str = "MJPG", size: int = 64) -> Path:
    """One grey frame a level."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, (size, size))
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((size, size, 3), level, np.uint8))
    writer.release()
    return path


def cut(path: Path, part: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    return path


def test_a_clip_gives_every_frame_once_and_in_order(clip: Path) -> None:
    source = find(clip)
    taken = frames(source)
    assert (source.name, source.live) == ("camera.mp4", False)
    assert len(taken) == 60
    for i, label in enumerate(("blue", "green", "red")):
        for frame in taken[20 * i : 20 * i + 20]:
            assert frame.shape == (120, 160, 3) and frame.dtype == np.uint8
            assert np.abs(frame.mean((0, 1)) - BGR[label]).max() < 40


def test_a_clip_gives_the_same_frames_twice(clip: Path) -> None:
    first, second = frames(find(clip)), frames(find(clip))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_clip_is_read_into_the_buffer_that_is_given(clip: Path) -> None:
    source = find(clip)
    source.open()
    buffer = np.zeros((120, 160, 3), np.uint8)
    frame = source.read(buffer)
    assert frame is not None and np.shares_memory(frame, buffer) and frame.any()
    other = source.read(np.zeros((5, 5, 3), np.uint8))
    assert other is not None and other.shape == (120, 160, 3)
    source.close()


def test_a_realtime_clip_plays_at_its_own_speed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", [0] * 12, fps=30)
    fast, slow = find(path), find(path, realtime=True)
    assert (fast.live, slow.live) == (False, True)
    began = time.monotonic()
    assert len(frames(slow)) == 12
    assert 0.39 < time.monotonic() - began < 0.8
    began = time.monotonic()
    assert len(frames(fast)) == 12
    assert time.monotonic() - began < 0.3


def test_a_looped_clip_begins_again_and_keeps_its_speed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", [20, 120, 220], fps=50)
    began = time.monotonic()
    means = [round(float(f.mean()) / 100) for f in frames(find(path, realtime=True, loop=True), limit=20)]
    assert means == ([0, 1, 2] * 7)[:20]
    assert 0.38 < time.monotonic() - began < 0.8


def test_a_clip_that_is_cut_off_ends_with_an_error(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "a.avi", [100] * 60), 0.5)
    source = find(path)
    source.open()
    count = 0
    with pytest.raises(InputError, match=r"a\.avi: ends after (\d+) of the 60 frames.*cut off") as raised:
        while source.read(None) is not None:
            count += 1
    assert 5 < count < 55
    assert f"ends after {count} of" in str(raised.value)


def test_a_looped_clip_that_is_cut_off_ends_with_an_error(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "a.avi", [100] * 60), 0.5)
    with pytest.raises(InputError, match="cut off"):
        frames(find(path, loop=True))


@pytest.mark.parametrize("content", [b"this is a text\n" * 50, b"", b"\x00\x00\x00\x1cftypisom"])
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"holiday\.mp4: not a video"):
        find(path).open()


def test_an_mp4_without_its_end_is_named(tmp_path: Path) -> None:
    path = cut(write_clip(tmp_path / "a.mp4", [100] * 30, fourcc="mp4v"), 0.9)
    with pytest.raises(InputError, match=r"a\.mp4: .*cut off"):
        find(path).open()


@pytest.mark.parametrize("fourcc", ["FFV1", "MJPG"])
@pytest.mark.parametrize("grey", [True, False])
def test_a_clip_of_any_depth_gives_8_bit_colour(tmp_path: Path, fourcc: str, grey: bool) -> None:
    path, sixteen = tmp_path / "a.mkv", grey and fourcc == "FFV1"
    options = [cv2.VIDEOWRITER_PROP_IS_COLOR, int(not grey)]
    if sixteen:
        options += [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*fourcc), 30, (64, 48), options)
    assert writer.isOpened()
    image = np.full((48, 64) if grey else (48, 64, 3), 100 << 8 if sixteen else 100, np.uint16 if sixteen else np.uint8)
    for _ in range(5):
        writer.write(image)
    writer.release()
    taken = frames(find(path))
    assert [(f.shape, f.dtype) for f in taken] == [((48, 64, 3), np.uint8)] * 5
    assert abs(taken[2].mean() - 100) < 4


def test_a_clip_has_a_format_and_takes_one_decoder_thread(clip: Path) -> None:
    """MPEG-4, unlike MJPEG, is decoded in as many threads as there are cores, each of them a frame of delay."""
    source = find(clip, realtime=True)
    source.open()
    assert isinstance(source, Clip)
    assert (source.kind, source.live, source.format) == ("file", True, "FMP4 160x120@30")
    assert source.decoder_threads == 1
    source.close()


@pytest.mark.parametrize(
    ("what", "kind"),
    [("test:", "test"), ("0", "camera"), ("picamera", "camera"), ("rtsp://10.0.0.9/live", "stream"), (".", "images")],
)
def test_a_source_has_a_kind(what: str, kind: str) -> None:
    assert find(what).kind == kind


def test_sources_of_the_same_name_are_numbered() -> None:
    sources = [find(what) for what in ("rtsp://a:b@h/x?key=1", "0", "rtsp://a:b@h/x?key=2", "/dev/video0", "1")]
    make_names_unique(sources)
    assert [s.name for s in sources] == [
        "rtsp://h/x #1",
        "/dev/video0 #1",
        "rtsp://h/x #2",
        "/dev/video0 #2",
        "/dev/video1",
    ]
    assert isinstance(sources[1], Camera) and str(sources[1].path) == "/dev/video0", "it opens what it opened before"


@pytest.mark.parametrize("what", ["²", "١"])
def test_a_digit_of_another_script_is_no_camera(what: str) -> None:
    with pytest.raises(InputError, match="no such source"):
        find(what)


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for i, name in enumerate(("a.png", "b/a.JPG", "b/b.bmp", "c.webp")):
        cv2.imwrite(str(tmp_path / name.lower()), np.full((20, 30, 3), 50 * i, np.uint8))
    (tmp_path / "b" / "a.jpg").rename(tmp_path / "b" / "a.JPG")
    (tmp_path / "notes.txt").write_text("not an image")
    source = find(tmp_path)
    assert isinstance(source, ImageFolder) and not source.live and source.name == tmp_path.name
    for _ in range(2):  # the second time as the first
        taken = frames(source)
        assert [f.shape for f in taken] == [(20, 30, 3)] * 4
        assert [round(f.mean() / 50) for f in taken] == [0, 1, 2, 3]


def test_one_image_is_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), np.full((20, 30, 3), 77, np.uint8))
    source = find(path)
    assert source.name == "one.png"
    (frame,) = frames(source)
    assert (frame == 77).all()


def test_a_corrupt_image_is_named_and_the_next_one_comes(tmp_path: Path) -> None:
    for name in ("0.jpg", "1.jpg"):
        cv2.imwrite(str(tmp_path / name), np.full((64, 64, 3), 77, np.uint8))
    cut(tmp_path / "0.jpg", 0.6)
    source = find(tmp_path)
    source.open()
    with pytest.raises(DataError, match=r"0\.jpg: the JPEG is truncated"):
        source.read(None)
    assert source.read(None) is not None
    assert source.read(None) is None


def test_a_folder_without_images_names_the_file_types(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no images in this folder.*\.jpg"):
        find(tmp_path).open()


@pytest.mark.parametrize(
    ("what", "width", "height", "fps"),
    [
        ("test:", 640, 480, 30),
        ("test:320x240", 320, 240, 30),
        ("test:@120", 640, 480, 120),
        ("test:48x32@240", 48, 32, 240),
    ],
)
def test_a_test_pattern_has_the_size_and_the_rate_that_it_is_given(
    what: str, width: int, height: int, fps: int
) -> None:
    source = find(what)
    assert isinstance(source, test_pattern.TestPattern) and source.live
    assert (source.name, source.fps) == (f"test:{width}x{height}@{fps}", fps)
    first, second = frames(source, limit=2)
    assert first.shape == (height, width, 3)
    assert not np.array_equal(first, second)
    assert (first[: height // 6, : height // 6] == 240).all()


def test_a_test_pattern_keeps_its_pace() -> None:
    began = time.monotonic()
    frames(find("test:64x48@50"), limit=21)
    assert 0.39 < time.monotonic() - began < 0.7


def test_a_test_pattern_is_the_same_each_time_and_fills_the_buffer_that_is_given() -> None:
    first, second = frames(find("test:64x48@240"), limit=9), frames(find("test:64x48@240"), limit=9)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    source, buffer = find("test:64x48@240"), np.zeros((48, 64, 3), np.uint8)
    source.open()
    assert source.read(buffer) is buffer


@pytest.mark.parametrize("size", ["16x16", "16x96", "100x600", "16x4096", "4096x16"])
def test_a_test_pattern_of_any_size_that_is_allowed_gives_frames(size: str) -> None:
    width, height = map(int, size.split("x"))
    assert [f.shape for f in frames(find(f"test:{size}@240"), limit=4)] == [(height, width, 3)] * 4


@pytest.mark.parametrize(
    "what", ["test:big", "test:640x", "test:640x480@", "test:8x8", "test:5000x100", "test:@0", "test:@241", "test:-1x5"]
)
def test_a_test_pattern_that_makes_no_sense_is_refused(what: str) -> None:
    with pytest.raises(InputError, match="^" + what):
        find(what)


def test_an_unknown_source_is_named_with_the_possible_ones(tmp_path: Path) -> None:
    path = tmp_path / "absent.mp4"
    with pytest.raises(InputError, match=r"absent\.mp4: no such source.*a video file.*/dev/video0.*rtsp://.*test:"):
        find(path)


@pytest.mark.parametrize("what", ["/dev/video99", "99"])
def test_a_missing_camera_is_named_with_the_present_ones(what: str) -> None:
    source = find(what)
    assert isinstance(source, Camera) and source.live
    assert source.name == "/dev/video99"
    with pytest.raises(SourceError, match=r"/dev/video99: no such camera\. Cameras of this machine: "):
        source.open()
    source.close()


def test_a_device_that_is_no_camera_is_refused() -> None:
    with pytest.raises(SourceError, match="/dev/null: cannot be opened"):
        find("/dev/null").open()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://camera.local/stream1", "rtsp://camera.local/stream1"),
        ("rtsp://admin:hunter2@10.0.0.9:8554/live", "rtsp://10.0.0.9:8554/live"),
        ("rtsps://admin:hunter2@10.0.0.9/live", "rtsps://10.0.0.9/live"),
        ("rtsp://hunter2@10.0.0.9/live", "rtsp://10.0.0.9/live"),
        ("rtsp://admin:hunter2@@10.0.0.9/live", "rtsp://10.0.0.9/live"),
        ("rtsp://admin:a@hunter2@10.0.0.9/live", "rtsp://10.0.0.9/live"),
        ("rtsp://admin:hunter2@[::1]:8554/live", "rtsp://[::1]:8554/live"),
        ("http://10.0.0.9/mjpg?user=admin&pwd=hunter2", "http://10.0.0.9/mjpg"),
        ("https://10.0.0.9/mjpg#hunter2", "https://10.0.0.9/mjpg"),
        ("http://10.0.0.9/mjpg?pwd=hun@ter2", "http://10.0.0.9/mjpg"),
        ("http://10.0.0.9:81/mjpg?pwd=hun@ter2&channel=3", "http://10.0.0.9:81/mjpg?channel=3"),
        ("http://[::1]/mjpg?pwd=hun@ter2", "http://[::1]/mjpg"),
        ("rtsp://10.0.0.9/user=admin&password=hunter2&channel=1.sdp", "rtsp://10.0.0.9/channel=1.sdp"),
        (
            "rtsp://admin:hunter2@10.0.0.9/cam/realmonitor?channel=1&subtype=0",
            "rtsp://10.0.0.9/cam/realmonitor?channel=1&subtype=0",
        ),
    ],
)
def test_the_name_of_a_stream_has_no_credentials(address: str, name: str) -> None:
    source = find(address)
    assert isinstance(source, Stream) and source.live
    assert source.name == name
    assert source.url == address


@pytest.mark.parametrize(
    "address",
    [
        "ftp://admin:hunter2@10.0.0.9/live",
        "rtspt://admin:hunter2@10.0.0.9/live",
        "RTSP://admin:hunter2@10.0.0.9/live",
        "rtsp+udp://admin:hunter2@10.0.0.9/live",
        "rtsp://admin:hunter2@[10.0.0.9/live",
    ],
)
def test_the_error_about_an_address_has_no_password(address: str) -> None:
    try:
        name = find(address).name
    except InputError as e:
        name = str(e)
    assert "hunter2" not in name


@pytest.mark.parametrize("password", ["hun/ter2", "hun#ter2", "hun?ter2", "hun/x?ter2", "hun?x/ter2"])
def test_a_password_that_was_not_escaped_is_not_shown_either(password: str) -> None:
    """Such an address means something else to every program; people type it all the same."""
    name = without_credentials(f"rtsp://admin:{password}@10.0.0.9/live")
    assert "hun" not in name and "ter2" not in name


@pytest.mark.parametrize("address", ["rtsp://127.0.0.1:port/live", "rtsp://127.0.0.1:99999/", "rtsp:///live"])
def test_an_address_that_cannot_be_right_is_bad_input(address: str) -> None:
    with pytest.raises((InputError, SourceError)) as raised:
        find(address).open()
    assert "rtsp://" in str(raised.value)
