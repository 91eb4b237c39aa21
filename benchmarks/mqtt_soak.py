"""A long MQTT connection: `python -m benchmarks.mqtt_soak [--publishes 200000] [--rate 250]`.

It runs the sender of `sightline run --mqtt` against a real mosquitto. Results come at a steady rate. Each changes the
camera's state, and every state is published (QoS 0) as well, so that packet numbers wrap around several times. It
prints one JSON line: the CPU share of the whole process in the first and the last full minute with their ratio, the
messages that a subscriber received and missed, and the messages that the sender counted but the broker's log does not
acknowledge.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks.agent import show
from edge.outputs import mqtt as module
from edge.outputs.mqtt import Mqtt
from edge.outputs.mqtt_broker import parse_broker
from edge.outputs.mqtt_options import MqttOptions
from edge.outputs.outbox import Outbox
from sightline.predictions import Classification, ModelId, Result

MODEL = ModelId("m", "1", "ab" * 32)
MINUTE_S = 60.0
# acknowledged messages that are no results: discovery, and availability at the start and at the end
UNCOUNTED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publishes", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=250.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sightline-mqtt-soak-") as name, mock.patch.object(module, "STATE_S", 0.0):
        _soak(Path(name), options.publishes, options.rate)


def _soak(folder: Path, publishes: int, rate: float) -> None:
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    port, log, config = 18_931, folder / "log", folder / "conf"
    config.write_text(
        f"user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nlog_type all\nlog_dest file {log}\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
    )
    received = folder / "received"
    with (
        subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL) as broker,
        received.open("wb") as f,
    ):
        time.sleep(1)
        subscriber = subprocess.Popen(
            ["mosquitto_sub", "-p", str(port), "-q", "1", "-t", "sightline/pi/door/result", "-t", "sightline/pi/gap"],
            stdout=f,
        )
        try:
            _send(folder, port, publishes, rate, received, log)
        finally:
            for process in (subscriber, broker):
                process.terminate()
                process.wait(10)


def _send(folder: Path, port: int, publishes: int, rate: float, received: Path, log: Path) -> None:
    outbox = Outbox(folder / "outbox.sqlite", 64_000_000)
    sender = Mqtt(
        parse_broker(f"127.0.0.1:{port}"),
        outbox,
        "results",
        MqttOptions("pi", "sightline", ["door"], lambda: MODEL, lambda: {"threshold": 0.5}, lambda _: None, image_s=0),
        lossless=False,
    )
    published = 0
    publish = module.paho.Client.publish

    def counting(*arguments: object, **more: object) -> object:
        nonlocal published
        published += 1
        return publish(*arguments, **more)  # type: ignore[arg-type]

    shares: list[float] = []
    with mock.patch.object(module.paho.Client, "publish", counting):
        sender.start()
        began = minute = time.monotonic()
        cpu = time.process_time()
        number = 0
        while published < publishes:
            sender.put(_result(number))
            number += 1
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            now = time.monotonic()
            if now - minute >= MINUTE_S:
                shares.append((time.process_time() - cpu) / (now - minute))
                minute, cpu = now, time.process_time()
                print(json.dumps({"minute": len(shares), "cpu_share": round(shares[-1], 4), "publishes": published}))
        until = time.monotonic() + 30
        while outbox.waiting("mqtt") and time.monotonic() < until:
            time.sleep(0.1)
        waiting = outbox.waiting("mqtt")
        sender.close()
        outbox.close()
    time.sleep(2)
    frames = [json.loads(line) for line in received.read_bytes().splitlines()]
    distinct = {frame["result"]["frame_id"] for frame in frames if "result" in frame}
    text = log.read_text(errors="replace")
    acknowledged = len(re.findall(r"Sending PUBACK to sightline-pi ", text)) - UNCOUNTED
    show(
        "mqtt_soak",
        publishes=published,
        connections=len(re.findall(r"New client connected .* as sightline-pi ", text)),
        messages=number,
        first_minute=round(shares[0], 4),
        last_minute=round(shares[-1], 4),
        ratio=round(shares[-1] / shares[0], 3),
        lost=number - len(distinct),
        gaps=sum(frame.get("gap", 0) for frame in frames),
        still_waiting=waiting,
        counted_without_acknowledgement=sender.sent - acknowledged,
    )


def _result(i: int) -> Result:
    predictions = (Classification(f"label {i}", 0, 0.9),)
    return Result("d", "door", i, "2026-01-01T00:00:00.000Z", i + 1, MODEL, 8, 6, {}, predictions)


if __name__ == "__main__":
    main()
