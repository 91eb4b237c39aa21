"""The live page: who may read it, what it sends, and that it costs nothing while nobody looks."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

import edge.web.routes
import sightline.predictions
from benchmarks.support.waiting import wait_until
from edge.capture.mailbox import Slot
from edge.results.jpeg import encode_jpeg
from edge.web.live_page import BACKLOG, Channel, Listener, Page
from edge.web.routes import LIMITS, Web
from sightline.errors import DeviceError
from sightline.predictions import Box, Cause, Classification, ModelId, Region, Result
from sightline.preprocess import Frame
from tests.conftest import BGR

SCHEMA = json.loads(Path(sightline.predictions.__file__).with_name("prediction.schema.json").read_text())
INFO = {
    "device": "desktop",
    "source": "a.mp4",
    "scheme": "static_int8",
    "metric": "accuracy",
    "quality": 0.98,
    "model": {"name": "colours", "version": "1", "sha256": "0" * 64},
}
STATUS = {"fps": 29.9, "frames": 7, "dropped": {"overwritten": 2}}
ROUTES = ("/", "/api/info", "/snapshot.jpg", "/stream.mjpg", "/events")


def result(frame_id: int, label: str = "red") -> Result:
    model = ModelId("colours", "1", "0" * 64)
    predictions = (Classification(label, 2, 0.9), Classification("blue", 0, 0.1))
    moment = "2026-01-01T00:00:00.000Z"
    return Result(
        "desktop", "a.mp4", frame_id, moment, 1, model, 640, 480, {"total": 1.5, "inference": 1.0}, predictions
    )


def slot(label: str = "red", width: int = 640, height: int = 480) -> Slot:
    frame = np.full((height, width, 3), BGR[label], np.uint8)
    return Slot(frame=frame)


class ServedPage:
    """A page and its server, without an agent."""

    def __init__(
        self,
        port: int = 0,
        *,
        fps: int = 20,
        cameras: tuple[str, ...] = ("a.mp4",),
        encode: Callable[[Frame, int], bytes] = encode_jpeg,
        **options: Any,
    ) -> None:
        """options: of Web."""
        self.thresholds: list[float] = []
        self.page = Page(
            cameras, fps=fps, width=320, info=INFO, status=lambda: STATUS, set_threshold=self.thresholds.append,
            encode=encode,
        )  # fmt: skip
        try:
            self.web = Web(self.page, port, **options)
        except DeviceError:
            self.page.close()
            raise
        self.web.start()
        self.url, self.observe, self.close = self.web.url, self.page.observe, self.web.close

    @property
    def viewers(self) -> int:
        return self.web.viewers

    @property
    def channel(self) -> Channel:
        return next(iter(self.page.channels.values()))


@pytest.fixture
def page() -> Iterator[ServedPage]:
    page = ServedPage()
    yield page
    page.close()


@contextmanager
def camera(page: ServedPage, label: str = "red", *, name: str | None = None, per_second: int = 60) -> Iterator[None]:
    """Shows the page a result and its frame, again and again, as the agent's loop does."""
    over = threading.Event()

    def loop() -> None:
        one, i = slot(label), 0
        while not over.wait(1 / per_second):
            page.observe(result(i, name or label), one)
            i += 1

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2)


@contextmanager
def get(
    page: ServedPage, path: str, host: str | None = None, method: str = "GET"
) -> Iterator[http.client.HTTPResponse]:
    port = int(page.url.rsplit(":", 1)[1].strip("/"))
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=8)) as connection:
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host.replace("PORT", str(port)))
        connection.endheaders()
        with connection.getresponse() as response:
            yield response


def read_part(response: http.client.HTTPResponse) -> np.ndarray[Any, Any]:
    """The next image of an MJPEG stream, decoded."""
    head = {}
    while (line := response.readline().strip()) or not head:
        if b":" in line:
            key, value = line.split(b":", 1)
            head[key.lower()] = value.strip()
    assert head[b"content-type"] == b"image/jpeg"
    return decoded(response.read(int(head[b"content-length"])))


def read_event(response: http.client.HTTPResponse) -> dict[str, Any]:
    """The next message of an event stream."""
    line = response.readline()
    assert line.startswith(b"data: "), line
    assert response.readline() == b"\n"
    message: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return message


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def is_coloured(image: np.ndarray[Any, Any], label: str) -> bool:
    return bool(np.abs(image.mean((0, 1)) - BGR[label]).max() < 6)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?x=1", "text/html; charset=utf-8"),
        ("/api/info", "application/json"),
        ("/snapshot.jpg", "image/jpeg"),
        ("/stream.mjpg", "multipart/x-mixed-replace; boundary=frame"),
        ("/stream.mjpg?1700000000", "multipart/x-mixed-replace; boundary=frame"),
        ("/events", "text/event-stream"),
    ],
)
def test_every_route_answers_with_its_type(page: ServedPage, path: str, kind: str) -> None:
    with camera(page), get(page, path) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, kind)


def test_any_other_path_is_not_found(page: ServedPage) -> None:
    for path in ("/index.html", "/../pyproject.toml", "/api", "/events/", "/%2e%2e/x", "/page.html"):
        with get(page, path) as response:
            assert response.status == 404, path


def test_nothing_can_be_sent_to_it(page: ServedPage) -> None:
    for method, code in (("POST", 405), ("PUT", 405), ("DELETE", 405), ("OPTIONS", 405), ("FETCH", 405)):
        with get(page, "/api/info", method=method) as response:
            assert response.status == code, method
            assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT"])
def test_it_answers_to_its_own_names(page: ServedPage, host: str) -> None:
    with get(page, "/api/info", host) as response:
        assert json.loads(response.read()) == {**INFO, "cameras": ["a.mp4"]}


@pytest.mark.parametrize("host", ["evil.example:PORT", "127.0.0.1.evil.example:PORT", "evil.example", ""])
def test_a_site_that_calls_itself_by_this_address_reads_nothing(page: ServedPage, host: str) -> None:
    with camera(page):
        for path in (*ROUTES, "/absent"):
            with get(page, path, host) as response:
                body = response.read()
                assert response.status == 403, path
            assert b"colours" not in body and len(body) < 200
    assert page.viewers == 0


@pytest.mark.parametrize("path", [*ROUTES, "/absent"])
def test_every_answer_has_the_headers_that_keep_others_out(page: ServedPage, path: str) -> None:
    with camera(page), get(page, path) as response:
        headers = response.headers
        policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert policy["connect-src"] == policy["script-src"] == policy["style-src"] == "'self'"
        assert "http" not in headers["Content-Security-Policy"] and "*" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Python" not in headers["Server"]


def test_it_listens_on_this_machine_only(page: ServedPage) -> None:
    assert page.web.bound_address == "127.0.0.1"


def test_the_page_names_no_other_host() -> None:
    site = Path(edge.web.routes.__file__).with_name("static")
    for name in ("index.html", "page.js", "page.css"):
        text = (site / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not [a for a in ("https:", "http:", "ws:", "wss:", "url(", "innerHTML", "insertAdjacent") if a in text]


@pytest.mark.parametrize("label", ["blue", "red"])
def test_a_snapshot_is_what_the_camera_sees_now(page: ServedPage, label: str) -> None:
    with camera(page, label), get(page, "/snapshot.jpg") as response:
        assert response.status == 200
        image = decoded(response.read())
    assert image.shape == (480, 640, 3), "as large as it is, not as the stream"
    assert is_coloured(image, label)


@pytest.mark.slow
def test_a_snapshot_without_a_camera_says_so(page: ServedPage) -> None:
    began = time.monotonic()
    with get(page, "/snapshot.jpg") as response:
        assert response.status == 503
        assert b"No frame for 3 seconds" in response.read()
    assert time.monotonic() - began < 5
    assert not page.channel.snapshot_due


def test_who_waits_longer_for_a_snapshot_is_not_cut_short_by_who_gave_up(page: ServedPage) -> None:
    got: list[bytes | None] = []
    patient = threading.Thread(target=lambda: got.append(page.page.snapshot("a.mp4", 5)))
    patient.start()
    wait_until(lambda: page.channel.waiting == 1)
    assert page.page.snapshot("a.mp4", 0.05) is None
    page.observe(result(0), slot())
    patient.join(2)
    assert got and got[0]
    assert page.channel.full_frame[1] is None and not page.channel.snapshot_due, "no frame is kept for nobody"


@pytest.mark.parametrize(
    ("width", "height"), [(1400, 20000), (1, 1), (20000, 3), (3, 20000), (300, 70000), (1080, 1920)]
)
def test_an_image_of_any_shape_is_shown(page: ServedPage, width: int, height: int) -> None:
    with get(page, "/stream.mjpg") as response:
        wait_until(lambda: page.channel.viewers == 1)
        page.observe(result(0), slot("red", width, height))
        image = read_part(response)
    assert image.shape[0] <= 640 and image.shape[1] <= 320
    if (width, height) == (1080, 1920):
        assert image.shape == (569, 320, 3)


def test_an_image_that_cannot_be_shown_is_said_and_the_next_one_is_shown() -> None:
    broken = threading.Event()
    broken.set()

    def encode(frame: Frame, quality: int) -> bytes:
        return encode_jpeg(frame, quality // (not broken.is_set()))

    page = ServedPage(encode=encode)
    with closing(page), get(page, "/stream.mjpg") as response:
        wait_until(lambda: page.channel.viewers == 1)
        page.observe(result(0), slot())
        wait_until(lambda: page.channel.problem is not None)
        broken.clear()
        assert page.page.problems() == {
            "a.mp4": {"code": "page", "text": "an image of 640x480 cannot be shown: integer division or modulo by zero"}
        }
        wait_until(lambda: time.monotonic_ns() - page.channel.offered_ns > 1e9 / 20)
        page.observe(result(1), slot("green"))
        assert is_coloured(read_part(response), "green")
        assert page.page.problems() == {}


def test_a_snapshot_that_cannot_be_made_says_so(page: ServedPage) -> None:
    def show() -> None:
        wait_until(lambda: page.channel.snapshot_due)
        page.observe(result(0), slot("red", 3, 70000))

    thread = threading.Thread(target=show)
    thread.start()
    with get(page, "/snapshot.jpg") as response:
        assert response.status == 503
        assert "cannot encode 3x70000 pixels as JPEG" in json.loads(response.read())["error"]
    thread.join()


def test_every_camera_has_its_turn_where_encoding_is_slow() -> None:
    def slow(frame: Frame, quality: int) -> bytes:
        time.sleep(0.03)
        return encode_jpeg(frame, quality)

    names = ("a.mp4", "b", "c")
    page = ServedPage(fps=1000, cameras=names, encode=slow)
    over = threading.Event()

    def feed() -> None:
        one = slot()
        while not over.wait(0.001):
            for name in names:
                page.observe(replace(result(0), source=name), one)

    thread = threading.Thread(target=feed)
    with closing(page), ExitStack() as stack:
        for name in names:
            stack.enter_context(page.page.viewing(name))
        thread.start()
        try:
            wait_until(lambda: all(c.jpeg[0] >= 2 for c in page.page.channels.values()), timeout_s=5)
        finally:
            over.set()
            thread.join()


def test_what_waits_for_a_listener_is_bounded_in_bytes() -> None:
    listener = Listener("")
    over = Box(0, 0, 640, 480)
    mask = np.zeros((513, 513), np.bool_)
    large = replace(result(0), predictions=tuple(Region("a", i, 0.5, over, over, mask.copy()) for i in range(20)))
    for _ in range(BACKLOG):
        listener.put(large)
    assert listener.take(0) == (large, BACKLOG - 1), "one is kept, however large it is"
    assert listener.take(0) == (None, 0)
    for i in range(BACKLOG + 5):
        listener.put(result(i))
    assert listener.take(0) == (result(5), 5)
    assert listener.take(0) == (result(6), 0)


def test_a_listener_that_leaves_costs_another_no_result(page: ServedPage) -> None:
    """It leaves in the middle of a round: the one behind it must not be passed over."""
    with ExitStack() as stack:
        leaving = stack.enter_context(page.page.listening(""))
        with page.page.listening("") as staying:
            leaving.put = lambda _: stack.close()  # type: ignore[method-assign]
            page.observe(result(0), None)
            assert staying.take(0) == (result(0), 0)


def test_a_small_image_is_not_enlarged(page: ServedPage) -> None:
    with get(page, "/stream.mjpg") as response:
        wait_until(lambda: page.viewers == 1)
        page.observe(result(0), slot("green", 100, 60))
        image = read_part(response)
    assert image.shape == (60, 100, 3) and is_coloured(image, "green")


def test_the_stream_shows_each_image_as_it_comes(page: ServedPage) -> None:
    with get(page, "/stream.mjpg") as response:
        wait_until(lambda: page.channel.viewers == 1)
        for i, label in enumerate(("blue", "green", "red", "blue")):
            time.sleep(0.06)  # more than 1/20 s
            page.observe(result(i, label), slot(label))
            assert is_coloured(read_part(response), label)


def test_the_frame_may_change_as_soon_as_the_page_has_seen_it(page: ServedPage) -> None:
    with get(page, "/stream.mjpg") as response:
        wait_until(lambda: page.viewers == 1)
        one = slot("red")
        page.observe(result(0), one)
        assert one.frame is not None
        one.frame[:] = 0
        assert is_coloured(read_part(response), "red")


def test_an_event_is_a_prediction_by_the_schema(page: ServedPage) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    with camera(page), get(page, "/events") as response:
        wait_until(lambda: page.channel.result is not None)
        messages = [read_event(response) for _ in range(6)]
    for message in messages:
        assert message["status"] == STATUS
    seen = [m["result"] for m in messages if m["result"] is not None]
    assert len(seen) >= 4
    for one in seen:
        validator.validate(one)
        assert one["predictions"][0]["label"] == "red"
    ids = [one["frame_id"] for one in seen]
    assert ids == sorted(ids) and ids[0] < ids[-1]


def test_a_frame_that_nobody_looked_at_is_an_event_too(page: ServedPage) -> None:
    with get(page, "/events") as response:
        wait_until(lambda: page.viewers == 1)
        model = ModelId("colours", "1", "0" * 64)
        moment = "2026-01-01T00:00:00.000Z"
        page.observe(
            Result("desktop", "a.mp4", 0, moment, 1, model, None, None, {}, (), {}, Cause("camera", "unplugged")), None
        )
        message = [read_event(response) for _ in range(3)][-1]
    assert (message["result"]["status"], message["result"]["cause"]) == ("not_inferred", "unplugged")


def test_a_label_stays_a_text(page: ServedPage) -> None:
    label = "<img src=x onerror=alert(1)></script>"
    with camera(page, name=label):
        with get(page, "/events") as response:
            wait_until(lambda: page.channel.result is not None)
            labels = [(read_event(response)["result"] or {"predictions": []})["predictions"] for _ in range(3)]
            assert response.headers["Content-Type"] == "text/event-stream"
        with get(page, "/") as response:
            html = response.read().decode()
    assert labels[-1][0]["label"] == label
    assert "onerror=alert" not in html


class Counted:
    """An encoder that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, frame: Frame, quality: int) -> bytes:
        self.calls += 1
        return encode_jpeg(frame, quality)


def test_nothing_is_kept_or_encoded_while_nobody_looks() -> None:
    encode = Counted()
    page = ServedPage(encode=encode)
    with closing(page):
        for i in range(50):
            page.observe(result(i), slot())
            time.sleep(0.002)
        assert (encode.calls, page.channel.frame, page.channel.jpeg) == (0, None, (0, b""))
        check_encoding_ends_with_the_viewer(page, encode)


def check_encoding_ends_with_the_viewer(page: ServedPage, encode: Counted) -> None:
    with camera(page):
        with get(page, "/stream.mjpg") as response:
            read_part(response)
            read_part(response)
        assert encode.calls >= 2
        wait_until(lambda: page.viewers == 0)
        time.sleep(0.1)  # for one that was under way
        before = encode.calls
        time.sleep(0.3)
        assert encode.calls == before


def test_no_more_images_are_encoded_than_the_device_can_afford() -> None:
    encode = Counted()
    page = ServedPage(fps=5, encode=encode)
    with closing(page), camera(page, per_second=100), get(page, "/stream.mjpg"), get(page, "/events"):
        wait_until(lambda: page.viewers == 2)
        before = encode.calls
        time.sleep(1)
        assert 3 <= encode.calls - before <= 6


def test_one_viewer_too_many_is_told_to_wait(page: ServedPage) -> None:
    with camera(page), ExitStack() as stack:
        for i in range(LIMITS.viewers):
            response = stack.enter_context(get(page, ("/events", "/stream.mjpg")[i % 2]))
            assert response.status == 200
        with get(page, "/events") as response:
            assert response.status == 503
            assert b"Too many viewers" in response.read()
        with get(page, "/") as response:
            assert response.status == 200
        stack.close()
        wait_until(lambda: page.viewers == 0)
        with get(page, "/events") as response:
            assert response.status == 200


def test_viewers_that_left_while_no_image_came_make_room(page: ServedPage) -> None:
    with ExitStack() as stack:
        for _ in range(LIMITS.viewers):
            stack.enter_context(get(page, "/stream.mjpg"))
        wait_until(lambda: page.viewers == LIMITS.viewers)
    wait_until(lambda: page.viewers == 0, timeout_s=8)


def test_a_new_viewer_is_not_shown_the_image_of_an_earlier_visit(page: ServedPage) -> None:
    with camera(page, "blue"):
        with get(page, "/stream.mjpg") as response:
            read_part(response)
        wait_until(lambda: page.viewers == 0)
    with get(page, "/stream.mjpg") as response, get(page, "/events") as events:
        assert read_event(events)["result"] is not None
        with camera(page, "red"):
            assert is_coloured(read_part(response), "red")


def test_a_viewer_that_takes_nothing_holds_up_nobody(page: ServedPage) -> None:
    port = int(page.url.rsplit(":", 1)[1].strip("/"))
    with closing(socket.socket()) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", port))
        stuck.sendall(f"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        with camera(page):
            time.sleep(1)
            began = time.monotonic()
            with get(page, "/snapshot.jpg") as response:
                assert response.status == 200
            for i in range(20):
                page.observe(result(i), slot())
            assert time.monotonic() - began < 1
        began = time.monotonic()
        page.close()
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("path", ["/events", "/stream.mjpg"])
@pytest.mark.parametrize("feeding", [True, False])
def test_closing_ends_every_stream(path: str, feeding: bool) -> None:
    page = ServedPage()
    with ExitStack() as stack:
        if feeding:
            stack.enter_context(camera(page))
        response = stack.enter_context(get(page, path))
        wait_until(lambda: page.viewers == 1)
        began = time.monotonic()
        page.close()
        while response.read(65536):
            assert time.monotonic() - began < 3, "the stream goes on"
        assert time.monotonic() - began < 3
        wait_until(lambda: page.viewers == 0)
        wait_until(lambda: not {t.name for t in threading.enumerate()} & {"page", "page encoder"})
    with closing(socket.socket()) as again, pytest.raises(ConnectionRefusedError):
        again.connect(("127.0.0.1", int(page.url.rsplit(":", 1)[1].strip("/"))))


def test_a_port_that_is_taken_is_named() -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DeviceError, match=rf"--page-port {port}: .*in use"):
            ServedPage(port)
