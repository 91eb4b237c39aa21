"""Network cameras over HTTP that work, require a password, die, stall and stay silent. RTSP is in tests/faults."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.addresses import expand
from edge.capture.sources.base import JpegDecoder, Source
from edge.capture.sources.factory import make_source
from edge.capture.sources.limits import StreamLimits
from edge.capture.sources.stream import Stream
from sightline.device_config import load_device
from sightline.errors import DataError, InputError, SourceError

CONFIG = load_device("desktop")[1]
LOGIN = {"U": "admin@home", "P": "hun/t@er:2?#é"}


def jpeg(width: int, height: int, level: int = 80) -> bytes:
    """Its left half is blue, the rest grey."""
    image = np.full((height, width, 3), level, np.uint8)
    image[:, : width // 2] = (250, 0, 0)
    return cv2.imencode(".jpg", image)[1].tobytes()


def digest(method: str, uri: str) -> str:
    """What RFC 2617 wants for realm and nonce `camera`, without qop."""
    ha1 = hashlib.md5(f"{LOGIN['U']}:camera:{LOGIN['P']}".encode()).hexdigest()
    return hashlib.md5(f"{ha1}:camera:{hashlib.md5(f'{method}:{uri}'.encode()).hexdigest()}".encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/live, in the manner that its query says; /login and /digest want LOGIN; /dies and /stalls after ten images;
    /grows wider after ten; each second image of /damaged is cut off."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        path, _, query = self.path.partition("?")
        login = self.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(f"{LOGIN['U']}:{LOGIN['P']}".encode()).decode()
        if path == "/login" and login != basic:
            self.refuse('Basic realm="camera"')
        elif path == "/digest" and f'response="{digest("GET", self.path)}"' not in login:
            assert not login.startswith("Basic"), "an unencrypted password without a request"
            self.refuse('Digest realm="camera", nonce="camera"')
        elif path == "/page":
            self.answer("text/html", b"<html>a camera's page</html>")
        elif path == "/clip.avi":
            self.answer("video/x-msvideo", Path(self.server.clip).read_bytes())  # type: ignore[attr-defined]
        elif path == "/huge":
            self.answer(
                "multipart/x-mixed-replace; boundary=x", f"--x\r\nContent-Length: {query}\r\n\r\n".encode() + jpeg(9, 9)
            )
        elif path in ("/live", "/login", "/digest", "/dies", "/stalls", "/grows", "/damaged"):
            with suppress(OSError):  # the viewer went away
                self.stream(path, query)
        else:
            self.send_error(404)

    def refuse(self, challenge: str) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", challenge)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, path: str, manner: str) -> None:
        boundary = "--frame" if manner == "dashes" else "frame"
        self.send_response(200)
        self.send_header("Content-Type", f'multipart/x-mixed-replace;boundary="{boundary}"')
        if manner == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(500):
            if i == 10 and path == "/dies":
                return
            if i == 10 and path == "/stalls":
                self.server.ending.wait(10)  # type: ignore[attr-defined]
                return
            data = jpeg(640 if i >= 10 and path == "/grows" else 320, 240, level=5 * i % 250)
            if path == "/damaged" and i % 2 == 0:
                data = data[: len(data) // 2]
            head = "" if manner == "bare" else f"Content-Length: {len(data)}\r\n"
            part = f"--frame\r\nContent-Type: image/jpeg\r\n{head}\r\n".encode() + data + b"\r\n"
            if manner == "noise":
                part = b"\r\n\r\nX\r\n" + part
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n" if manner == "chunked" else part)
            time.sleep(0.01)


@contextmanager
def http_camera(certificate: Path | None = None, clip: Path | None = None) -> Iterator[str]:
    """Its address, without scheme."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.ending = threading.Event()  # type: ignore[attr-defined]
    server.clip = clip  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a viewer that does not use TLS
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.ending.set()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    clip = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
    for _ in range(5):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.release()
    with http_camera(clip=clip) as address:
        yield address


@contextmanager
def opened(address: str, limits: StreamLimits | None = None) -> Iterator[Source]:
    source = Stream(address, limits) if limits else make_source(address, CONFIG)
    try:
        source.open()
        yield source
    finally:
        source.close()


def why_not(address: str, limits: StreamLimits | None = None) -> str:
    with pytest.raises(SourceError) as raised, opened(address, limits):
        pass
    assert LOGIN["P"] not in str(raised.value) and "hunter2" not in str(raised.value)
    return str(raised.value)


def test_mjpeg_over_http_has_frames_and_a_format(camera: str) -> None:
    source = make_source(f"http://{camera}/live?channel=2&pwd=hunter2", CONFIG)
    assert isinstance(source, Stream)
    assert (source.kind, source.live, source.name) == ("stream", True, f"http://{camera}/live?channel=2")
    source.open()
    assert source.format == "MJPG 320x240"
    for _ in range(3):
        frame = source.read(None)
        assert frame is not None and frame.dtype == np.uint8 and frame.shape == (240, 320, 3)
        assert np.abs(frame[120, 10] - (250.0, 0, 0)).max() < 5
    source.close()


def test_a_password_with_anything_in_it_arrives(camera: str) -> None:
    with opened(expand(f"http://${{U}}:${{P}}@{camera}/login", LOGIN)) as source:
        assert source.read(None) is not None
        assert source.name == f"http://{camera}/login"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("admin:hunter2@/login", "requires a user and a password. Check both"),
        ("/login", "requires a user and a password"),
        ("/absent", "has no /absent"),
        ("/page", "answers, but sends no stream"),
    ],
)
def test_the_reason_for_no_stream_is_named(camera: str, path: str, words: str) -> None:
    user, _, place = path.rpartition("/")
    fault = why_not(f"http://{user}{camera}/{place}")
    assert fault.startswith(f"http://{camera}/{place}: {camera} ") and words in fault


def test_a_password_in_the_path_is_not_shown(camera: str) -> None:
    fault = why_not(f"http://{camera}/user=admin&password=hunter2&channel=7")
    assert "has no /channel=7." in fault and "hunter2" not in fault


def test_a_stream_that_ends_is_a_failed_camera(camera: str) -> None:
    with opened(f"http://{camera}/dies") as source:
        with pytest.raises(SourceError, match="the stream broke off"):
            for _ in range(12):
                assert source.read(None) is not None
        source.open()
        assert source.read(None) is not None


@pytest.mark.parametrize("ffmpeg", [False, True])
def test_a_stream_that_stalls_is_noticed_in_time(camera: str, monkeypatch: pytest.MonkeyPatch, ffmpeg: bool) -> None:
    if ffmpeg:
        monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp")
    with opened(f"http://{camera}/stalls", StreamLimits(read_timeout_s=0.5)) as source:
        for _ in range(10):
            source.read(None)
        began = time.monotonic()
        with pytest.raises(SourceError, match="or sent nothing for"):
            for _ in range(3):
                source.read(None)
        assert 0.4 < time.monotonic() - began < 2


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
def test_a_camera_that_accepts_and_stays_silent_is_noticed_in_time(scheme: str) -> None:
    with closing(socket.socket()) as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        port = mute.getsockname()[1]
        began = time.monotonic()
        fault = why_not(f"{scheme}://admin:hunter2@127.0.0.1:{port}/live", StreamLimits(open_timeout_s=0.6))
        assert 0.5 < time.monotonic() - began < 2
    assert f"127.0.0.1:{port} accepts connections, but sent no image within" in fault


def test_a_closed_port_is_named_at_once() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        assert f"no answer from {address} (Connection refused)" in why_not(f"rtsp://{address}/live")
        assert time.monotonic() - began < 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate in one file, as cameras have them."""
    path = tmp_path_factory.mktemp("tls") / "camera.pem"
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "-",
            "-days",
            "2",
            "-subj",
            "/CN=camera",
        ],
        capture_output=True,
    )
    if made.returncode:
        pytest.fail(f"a certificate needs openssl: {made.stderr.decode()[-200:]}")
    path.write_bytes(made.stdout)
    return path


def test_a_self_signed_certificate_is_taken(certificate: Path) -> None:
    """FFmpeg checks none by default: a camera's is self-signed. See docs/sources.md."""
    with http_camera(certificate) as address, opened(f"https://{address}/live") as source:
        assert source.read(None) is not None


def test_a_certificate_is_checked_where_ffmpeg_is_told_to(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_camera(certificate) as address:
        monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "tls_verify;1")
        assert "names its certificate" in why_not(f"https://{address}/live")
        monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", f"tls_verify;1|ca_file;{certificate}")
        with opened(f"https://{address}/live") as source:
            assert source.read(None) is not None


def test_tls_on_one_side_only_is_named(certificate: Path, camera: str) -> None:
    assert "does not use TLS" in why_not(f"https://{camera}/live")
    with http_camera(certificate) as address:
        assert "answers, but sends no stream" in why_not(f"http://{address}/live")


def test_a_camera_that_changes_its_size_has_frames_of_the_new_one(camera: str) -> None:
    with opened(f"http://{camera}/grows") as source:
        shapes = [source.read(None).shape for _ in range(20)]  # type: ignore[union-attr]
    assert shapes == [(240, 320, 3)] * 10 + [(240, 640, 3)] * 10


def test_through_ffmpeg_it_is_squeezed(camera: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why MJPEG is read without FFmpeg. RTSP has no other reader: see docs/sources.md."""
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp")
    with opened(f"http://{camera}/grows") as source:
        frames = [source.read(None) for _ in range(20)]
    assert {f.shape for f in frames if f is not None} == {(240, 320, 3)}
    assert frames[19] is not None and np.abs(frames[19][120, 150] - (250.0, 0, 0)).max() < 9, "all of it, not a part"


def test_damaged_images_are_reported_and_the_next_one_comes(camera: str) -> None:
    good = bad = 0
    with opened(f"http://{camera}/damaged") as source:
        for _ in range(20):
            try:
                source.read(None)
                good += 1
            except DataError as e:
                assert str(e).startswith(f"http://{camera}/damaged: ")
                bad += 1
    assert (good, bad) == (10, 10), "the first one was damaged as well: opening waits for a good one"


@pytest.mark.parametrize("how", ["bare", "dashes", "chunked", "noise"])
def test_cameras_of_all_manners_are_understood(camera: str, how: str) -> None:
    with opened(f"http://{camera}/live?{how}") as source:
        assert source.format == "MJPG 320x240"
        levels = [float(source.read(None)[:, 200:].mean()) for _ in range(6)]  # type: ignore[index]
    assert np.allclose(levels, [0, 5, 10, 15, 20, 25], atol=2), "each image once"


def test_a_digest_password_is_left_to_ffmpeg(camera: str) -> None:
    with opened(expand(f"http://${{U}}:${{P}}@{camera}/digest", LOGIN)) as source:
        assert source.read(None) is not None


def test_a_video_file_over_http_is_left_to_ffmpeg(camera: str) -> None:
    with opened(f"http://{camera}/clip.avi") as source:
        frame = source.read(None)
        assert frame is not None and frame.shape == (48, 64, 3)
        assert source.format == "MJPG 64x48@30"


@pytest.mark.parametrize("announces", [1 << 40, 33 << 20])
def test_an_image_that_is_too_large_is_refused(camera: str, announces: int) -> None:
    assert f"announces an image of {announces} bytes" in why_not(f"http://{camera}/huge?{announces}")


@pytest.mark.parametrize("sent", [b"\0" * 70_000, b"--x\r\n" + b"A: 1\r\n" * 9000, b"--x\r\n\r\n" + b"\n" * 70_000])
def test_an_answer_without_end_is_refused(sent: bytes) -> None:
    limits = StreamLimits(max_image_bytes=50_000)
    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def endless() -> None:
            with suppress(OSError), listener.accept()[0] as viewer:
                viewer.sendall(head + sent)
                while True:
                    viewer.sendall(sent[10:])

        thread = threading.Thread(target=endless, daemon=True)
        thread.start()
        assert "an image without an end" in why_not(f"http://127.0.0.1:{listener.getsockname()[1]}/live", limits)
        thread.join(5)


MULTIPART = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"


@contextmanager
def wicked(*answers: Callable[[socket.socket], None]) -> Iterator[str]:
    """An address whose connections get one answer after the other; the last one again and again."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            left = list(answers)
            while not over.is_set():
                with suppress(OSError), listener.accept()[0] as viewer:
                    viewer.recv(65536)
                    (left.pop(0) if len(left) > 1 else left[0])(viewer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(5)


def sends(data: bytes) -> Callable[[socket.socket], None]:
    return lambda viewer: viewer.sendall(data)


def drips(data: bytes) -> Callable[[socket.socket], None]:
    """A byte each hundredth of a second."""

    def drip(viewer: socket.socket) -> None:
        for i in range(len(data)):
            viewer.sendall(data[i : i + 1])
            time.sleep(0.01)

    return drip


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_length_of_any_number_of_digits_is_refused(digits: int) -> None:
    part = b"--x\r\nContent-Length: " + b"9" * digits + b"\r\n\r\n"
    with wicked(sends(MULTIPART + part)) as address:
        assert "announces an image of " in why_not(f"http://{address}/live")


def test_garbage_after_a_question_for_the_password_is_a_failed_camera() -> None:
    wants = b'HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="c"\r\nContent-Length: 0\r\n\r\n'
    with wicked(sends(wants), sends(b"garbage\r\n\r\n")) as address:
        assert "answers, but sends no stream" in why_not(f"http://admin:hunter2@{address}/live")


def test_a_host_that_is_no_name_is_a_wrong_address() -> None:
    with pytest.raises(InputError, match=r"^rtsp://camera\.\.local/live: not a valid address: it has no valid host"):
        make_source("rtsp://camera..local/live", CONFIG)


@pytest.mark.parametrize("what", ["head", "chunk", "part", "image"])
def test_a_slow_link_is_named_and_takes_a_bounded_time(what: str) -> None:
    """Something always comes, so that no time-out of a single read ever ends it."""
    chunked = MULTIPART[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    quick, slow = {
        "head": (b"", MULTIPART + b"x" * 500),
        "chunk": (chunked.replace(b"1.0", b"1.1"), b"0" * 500),
        "part": (MULTIPART, b"--x\r\n" + b"A: 1\r\n" * 100),
        "image": (MULTIPART + b"--x\r\nContent-Length: 5000\r\n\r\n", bytes(500)),
    }[what]

    def answer(viewer: socket.socket) -> None:
        viewer.sendall(quick)
        drips(slow)(viewer)

    with wicked(answer) as address:
        began = time.monotonic()
        fault = why_not(f"http://{address}/live", StreamLimits(transfer_s=0.4))
        assert "the link is too slow: 0.00 MB in 0.4 s" in fault
        assert time.monotonic() - began < 4, "not the 5 s that dripping takes"


def test_only_a_jpeg_is_decoded_and_only_one_that_a_camera_may_have() -> None:
    decode = JpegDecoder("door")
    image = np.full((60, 90, 3), 80, np.uint8)
    with pytest.raises(DataError, match="door: not a JPEG image"):
        decode(cv2.imencode(".png", image)[1].tobytes())
    data = bytearray(cv2.imencode(".jpg", image)[1].tobytes() + bytes(100_000) + b"\xff\xd9")
    at = data.index(struct.pack(">HH", 60, 90))
    struct.pack_into(">HH", data, at, 7000, 7000)
    with pytest.raises(DataError, match=r"door: 7000x7000 pixels are too many\. The limit is 36 million"):
        decode(data)


def test_a_camera_without_a_pause_does_not_take_the_processor_for_itself() -> None:
    part = b"--x\r\nContent-Length: %d\r\n\r\n" % len(jpeg(64, 48)) + jpeg(64, 48) + b"\r\n"
    with wicked(sends(MULTIPART + part * 50)) as address, opened(f"http://{address}/live") as source:
        began = time.monotonic()
        for _ in range(49):
            assert source.read(None) is not None
        assert time.monotonic() - began >= 40 / 240
