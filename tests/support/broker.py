"""A real MQTT broker for tests: mosquitto on 127.0.0.1, and a subscriber that keeps what comes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.conftest import need

PROGRAM = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def broker(folder: Path, port: int, *lines: str) -> Iterator[subprocess.Popen[str]]:
    """lines: of its configuration, instead of letting everybody in."""
    need(PROGRAM is not None, "a broker is needed: apt-get install mosquitto")
    config = folder / f"mosquitto-{port}.conf"
    config.write_text("\n".join(["user root", f"listener {port} 127.0.0.1", *(lines or ["allow_anonymous true"]), ""]))
    log = folder / "mosquitto.log"
    with (
        log.open("a") as out,
        subprocess.Popen([str(PROGRAM), "-c", str(config)], stdout=out, stderr=out, text=True) as process,
    ):
        try:
            until = time.monotonic() + 5
            while not listens(port):
                assert time.monotonic() < until and process.poll() is None, log.read_text()
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Received:
    at_ns: int
    topic: str
    body: bytes
    retained: bool

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@contextmanager
def subscriber(port: int, topics: str = "#") -> Iterator[tuple[paho.Client, list[Received]]]:
    """The client, to publish with, and what came, in order."""
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


def wait_until(condition: Callable[[], object], within_s: float, what: str = "it") -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {within_s} s"
        time.sleep(0.02)
