"""A broker of MQTT 3.1.1 that acknowledges what, when and in which order a test wants. A real one behaves well."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

Manner = Literal["prompt", "silent", "backwards", "twice", "strange", "hangs up", "reads nothing"]


class FakeBroker:
    """One client at a time, on 127.0.0.1.

    manner: how it treats QoS 1 from now on. received: [topic, payload, whether it was acknowledged] of QoS 1, in order.
    unpromised: messages of QoS 0.
    """

    def __init__(self) -> None:
        self.manner: Manner = "prompt"
        self.received: list[list[object]] = []
        self.connections = self.unpromised = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port: int = self._listener.getsockname()[1]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection, contextlib.suppress(OSError, EOFError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(0.02)
        waiting: list[tuple[int, list[object]]] = []  # packet number, what was received
        buffer = b""
        while not self._closing.is_set():
            if self.manner == "reads nothing":
                self._closing.wait(0.02)
                continue
            with contextlib.suppress(TimeoutError):
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            while packet := _packet(buffer):
                kind, body, size = packet
                buffer = buffer[size:]
                if kind >> 4 == 1:
                    connection.sendall(b"\x20\x02\x00\x00")
                elif kind >> 4 == 8:
                    connection.sendall(b"\x90\x04" + body[:2] + b"\x01\x01")
                elif kind >> 4 == 12:
                    connection.sendall(b"\xd0\x00")
                elif kind >> 4 == 14:
                    return
                elif kind >> 4 == 3 and kind & 6:
                    length = struct.unpack(">H", body[:2])[0]
                    (number,) = struct.unpack(">H", body[2 + length : 4 + length])
                    entry: list[object] = [body[2 : 2 + length].decode(), body[4 + length :], False]
                    self.received.append(entry)
                    waiting.append((number, entry))
                elif kind >> 4 == 3:
                    self.unpromised += 1
            if self.manner == "hangs up":
                self.manner = "prompt"
                return
            if self.manner == "silent":
                continue
            if self.manner == "strange":  # numbers of nothing that waits
                for number in {1, 7, 500, 65535} - {number for number, _ in waiting}:
                    connection.sendall(b"\x40\x02" + struct.pack(">H", number))
                self.manner = "silent"
                continue
            if self.manner == "backwards":
                waiting.reverse()
            for number, entry in waiting:
                entry[2] = True
                connection.sendall((b"\x40\x02" + struct.pack(">H", number)) * (2 if self.manner == "twice" else 1))
            waiting.clear()


def _packet(buffer: bytes) -> tuple[int, bytes, int] | None:
    """Its first byte, its body, and how long it is in all."""
    size = shift = 0
    for i, byte in enumerate(buffer[1:5], 1):
        size |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            whole = len(buffer) >= 1 + i + size
            return (buffer[0], buffer[1 + i : 1 + i + size], 1 + i + size) if whole else None
    return None


@contextlib.contextmanager
def fake_broker() -> Iterator[FakeBroker]:
    broker = FakeBroker()
    try:
        yield broker
    finally:
        broker.close()
