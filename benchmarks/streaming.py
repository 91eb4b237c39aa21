"""Cost and latency of streaming: `python -m benchmarks.streaming`. It prints one JSON line for each measurement.

- Two clients on the live page of a 720p clip, each with images and results: the inference rate, divided by that without
  a page.
- MQTT on loopback (mosquitto), with each result stored until it is acknowledged: the time from capture to receipt by
  the subscriber, divided by the interval between two frames at 30 frames a second.

The model is MobileNetV2 at 224 pixels in int8, with one inference thread. Both sides of a ratio alternate.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import threading
from pathlib import Path

from benchmarks.agent import FRAMES, ROUNDS, SIGHTLINE, make_bundle, make_clip, make_device, show, view
from benchmarks.support.broker import broker, free_port, subscriber
from benchmarks.support.waiting import wait_until

FPS = 30


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        folder = Path(name)
        bundle, clip, device = make_bundle(folder), make_clip(folder / "720p.mp4"), make_device(folder)
        agent = [*SIGHTLINE, "run", str(bundle), "--device", str(device), "--json", "--source"]
        viewers(agent, clip, folder / "summary.json")
        mqtt(agent, clip, folder)


def viewers(agent: list[str], clip: Path, summary: Path) -> None:
    command = [*agent, str(clip), "--loop", "--frames", str(2 * FRAMES), "--summary", str(summary)]

    def fps(clients: int) -> float:
        options = ["--page-port", "0"] if clients else ["--no-page"]
        with subprocess.Popen([*command, *options], stdout=-3, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            threads = []
            if clients:
                address = next(line for line in process.stderr if "live page: " in line).split()[-1]
                paths = clients * ("stream.mjpg", "events")
                threads = [threading.Thread(target=view, args=(address + path,)) for path in paths]
            for thread in threads:
                thread.start()
            process.stderr.read()
            for thread in threads:
                thread.join()
        return float(json.loads(summary.read_text())["fps"])

    rounds = [(fps(2), fps(0)) for _ in range(ROUNDS)]
    watched, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    show("two_viewers_over_none", ratio=ratio, fps_with_viewers=watched, fps_alone=alone)


def mqtt(agent: list[str], clip: Path, folder: Path) -> None:
    port = free_port()
    command = [*agent, f"door={clip}", "--realtime", "--loop", "--no-page", "--name", "pi", "--send", "results",
               "--mqtt", f"mqtt://127.0.0.1:{port}", "--mqtt-images", "0",
               "--outbox", str(folder / "outbox.sqlite")]  # fmt: skip
    with (
        broker(folder, port),
        subscriber(port, "sightline/pi/door/result") as (_, received),
        subprocess.Popen(command, stdout=-3, stderr=-3) as process,
    ):
        wait_until(lambda: len(received) > 30 * FPS, 60)
        process.terminate()
        process.wait(20)
    latencies_ms = sorted((r.at_ns - r.json["result"]["captured_monotonic_ns"]) / 1e6 for r in received[FPS:])
    p50, p99 = latencies_ms[len(latencies_ms) // 2], latencies_ms[len(latencies_ms) * 99 // 100]
    show("mqtt_capture_to_receipt", ratio=p99 / (1000 / FPS), p50_ms=p50, p99_ms=p99, results=len(latencies_ms))


if __name__ == "__main__":
    main()
