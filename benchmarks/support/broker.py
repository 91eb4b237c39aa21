"""A real MQTT broker: mosquitto on 127.0.0.1, and a subscriber that keeps all messages."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.support.needs import need
from benchmarks.support.waiting import wait_until

PROGRAM = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else None)


def free_port() -> int:
    """A TCP port on loopback that is free now."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


def listens(port: int) -> bool:
    """Whether a server listens at a port on loopback."""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def broker(folder: Path, port: int, *lines: str) -> Iterator[subprocess.Popen[str]]:
    """Run a broker.

    lines: of its configuration. Without them everybody may connect.
    """
    need(PROGRAM is not None, "a broker is needed: apt-get install mosquitto")
    config = folder / f"mosquitto-{port}.conf"
    config.write_text("\n".join(["user root", f"listener {port} 127.0.0.1", *(lines or ["allow_anonymous true"]), ""]))
    log = folder / "mosquitto.log"
    with (
        log.open("a") as out,
        subprocess.Popen([str(PROGRAM), "-c", str(config)], stdout=out, stderr=out, text=True) as process,
    ):
        try:
            wait_until(lambda: listens(port), 5, log.read_text, process=process)
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Received:
    """A message. at_ns: monotonic time of its receipt."""

    at_ns: int
    topic: str
    body: bytes
    retained: bool

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@contextmanager
def subscriber(port: int, topics: str = "#") -> Iterator[tuple[paho.Client, list[Received]]]:
    """Yields a client, which can publish, and the list of its messages, in order.

    The client's thread appends to the list; the others only read it.
    """
    received: list[Received] = []
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _, __, m: received.append(
        Received(time.monotonic_ns(), m.topic, bytes(m.payload), m.retain)
    )
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.subscribe(topics, 1)
    client.loop_start()
    try:
        assert ready.wait(5)
        yield client, received
    finally:
        client.disconnect()
        client.loop_stop()
