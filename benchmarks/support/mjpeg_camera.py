"""An MJPEG camera on loopback that behaves well, or badly in one of many manners. The manner can change at any time."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import cv2
import numpy as np

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
DENIED = b'HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm="c"\r\nContent-Length: 0\r\n\r\n'


def image(seed: int, width: int = 320, height: int = 240) -> bytes:
    """A JPEG image, a different one for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(small, (width, height)))[1].tobytes()


def huge() -> bytes:
    """A JPEG that claims 26000x16000 pixels in a few hundred bytes."""
    data = bytearray(image(0))
    struct.pack_into(">HH", data, data.index(struct.pack(">HH", 240, 320)), 16000, 26000)
    return bytes(data)


def part(data: bytes, length: int | None = None) -> bytes:
    """One part of the multipart stream. length: Content-Length, if it is not that of the data."""
    return b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (length or len(data)) + data + b"\r\n"


class Camera:
    """The camera.

    address: address of its stream.
    sent: number of images sent in the manner `well`.
    manner: one of MANNERS. Setting it closes the open connections.

    Threads: the owner's thread sets `manner`. One thread accepts connections and owns the listener. Each connection has
    a thread of its own, which reads the manner and adds to `sent`; only connections in the manner `well` add to it.
    """

    def __init__(self, fps: float = 10.0, login: str = "") -> None:
        self.fps, self.sent = fps, 0
        self._images = [image(seed) for seed in range(20)]
        self._manner = "well"
        self._changed, self._over = threading.Event(), threading.Event()
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self.address = f"http://{login}127.0.0.1:{self._port}/live"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def manner(self) -> str:
        return self._manner

    @manner.setter
    def manner(self, name: str) -> None:
        assert name in MANNERS
        self._manner = name
        self._changed.set()

    def close(self) -> None:
        self._over.set()
        self._changed.set()
        self._thread.join(5)

    def _serve(self) -> None:
        while not self._over.is_set():
            self._changed.clear()
            if self._manner == "refuses":
                if self._listener is not None:
                    self._listener.close()
                    self._listener = None
                self._changed.wait(0.1)
                continue
            if self._listener is None:
                self._listener = socket.create_server(("127.0.0.1", self._port))
            self._listener.settimeout(0.05)
            with suppress(OSError):
                viewer, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(viewer, self._manner), daemon=True).start()
        if self._listener is not None:
            self._listener.close()

    def _answer(self, viewer: socket.socket, manner: str) -> None:
        with suppress(OSError), viewer:
            viewer.settimeout(1)
            request = viewer.recv(65536)
            for data, pause_s in MANNERS[manner](self, request):
                viewer.sendall(data)
                if manner == "well":
                    self.sent += data != HEAD
                until = time.monotonic() + pause_s
                while time.monotonic() < until:
                    time.sleep(min(0.05, max(0.0, until - time.monotonic())))
                    if self._manner != manner or self._over.is_set():
                        return
                if self._manner != manner or self._over.is_set():
                    return
            if manner == "resets":
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def images(self) -> Iterator[bytes]:
        return itertools.cycle(self._images)


Answer = Iterator[tuple[bytes, float]]
FOREVER_S = 3600.0


def _well(camera: Camera, _: bytes) -> Answer:
    yield HEAD, 0
    for data in camera.images():
        yield part(data), 1 / camera.fps


def _for_a_while(
    camera: Camera, change: Callable[[int, bytes], bytes], pause_s: float = 0.02, count: int = 10**9
) -> Answer:
    """Three good images, then images that `change` makes of the n-th one."""
    yield HEAD, 0
    for i, data in zip(range(count), camera.images(), strict=False):
        yield (part(data) if i < 3 else change(i, data)), pause_s


def _then(camera: Camera, data: bytes, pause_s: float = 0.0) -> Answer:
    """One good image, then always the same data."""
    yield HEAD + part(next(camera.images())), 0
    while True:
        yield data, pause_s


def _endless(camera: Camera) -> Answer:
    yield HEAD + part(next(camera.images())) + b"--x\r\n\r\n", 0
    while True:
        yield bytes(65536), 0


def _drip(camera: Camera) -> Answer:
    yield HEAD + part(next(camera.images())), 0
    for byte in part(bytes(100_000)):
        yield bytes([byte]), 0.05


def _denied(camera: Camera, request: bytes) -> Answer:
    yield (b"garbage\r\n\r\n" if b"Authorization" in request else DENIED), 0


def _png(_: int, data: bytes) -> bytes:
    return part(cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes())


MANNERS: dict[str, Callable[[Camera, bytes], Answer]] = {
    "well": _well,
    "refuses": lambda camera, _: iter(()),  # the listener is closed
    "hangs up": lambda camera, _: iter(()),
    "says nothing": lambda camera, _: iter([(b"", FOREVER_S)]),
    "garbage": lambda camera, _: iter([(np.random.default_rng(0).bytes(4096), 0.0)]),
    "denies, then garbage": _denied,
    "not found": lambda camera, _: iter([(b"HTTP/1.0 404 Not Found\r\n\r\n", 0.0)]),
    "resets": lambda camera, _: _for_a_while(camera, lambda i, data: part(data), count=10),
    "breaks off": lambda camera, _: _for_a_while(camera, lambda i, data: part(data)[:2000], count=4),
    "stalls": lambda camera, _: _then(camera, b"", FOREVER_S),
    "freezes": lambda camera, _: _then(camera, part(next(camera.images())), 0.02),
    "damaged": lambda camera, _: _for_a_while(camera, lambda i, data: part(data[: len(data) // 2])),
    "short length": lambda camera, _: _for_a_while(camera, lambda i, data: part(data, len(data) // 2)),
    "long length": lambda camera, _: _for_a_while(camera, lambda i, data: part(data, len(data) + 500)),
    "endless length": lambda camera, _: _then(camera, part(b"", 10**12)),
    "5000 digits": lambda camera, _: _then(camera, b"--x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "huge header": lambda camera, _: _for_a_while(camera, lambda i, data: part(huge())),
    "endless part": lambda camera, _: _endless(camera),
    "endless head": lambda camera, _: _then(camera, b"--x\r\n" + b"A: 1\r\n" * 10_000),
    "slow images": lambda camera, _: _drip(camera),
    "changes its size": lambda camera, _: _for_a_while(
        camera, lambda i, _: part(image(i, 160 + i % 97 * 16, 120 + i % 89 * 8))
    ),
    "no JPEG": lambda camera, _: _for_a_while(camera, _png),
    "without a pause": lambda camera, _: _for_a_while(camera, lambda i, data: part(data), 0.0),
}
