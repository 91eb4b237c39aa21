"""What Home Assistant makes of what it is told: a real one, a real broker and a real agent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.support.broker import broker, free_port, subscriber
from benchmarks.support.waiting import wait_until
from tests.agent.conftest import write_crossing
from tests.conftest import need
from tests.support import homeassistant
from tests.support.debian import missing


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest) -> Path:
    lacking = missing("unshare", "chroot")
    need(lacking is None, f"Home Assistant needs {lacking}")
    return homeassistant.build(request.config.cache.mkdir("homeassistant"))


@contextmanager
def agent(bundle: Path, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """One camera, called yard, that a red thing crosses again and again."""
    clip = write_crossing(folder / "moving.avi", 120, 2)
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", f"yard={clip}", "--realtime",
               "--loop", "--track", "--no-page", "--line", "gate: 0.5,0 0.5,1", "--zone", "all: 0,0 1,0 1,1 0,1",
               "--mqtt", f"127.0.0.1:{port}", "--mqtt-images=1", "--name", "pi",
               "--outbox", str(folder / "o.sqlite")]  # fmt: skip
    with subprocess.Popen(command, stdout=-3, stderr=-3) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_home_assistant_shows_it(system: Path, detector: Path, tmp_path: Path) -> None:
    port, own, config = free_port(), free_port(), tmp_path / "config"
    with broker(tmp_path, port), subscriber(port) as (client, received):
        with homeassistant.started(system, config, own, port) as house, agent(detector, tmp_path, port) as process:

            def state(entity: str) -> str:
                return str(house.states().get(f"{entity.replace('.', '.sightline_pi_')}", {"state": "none"})["state"])

            wait_until(lambda: state("sensor.label") == "red", 20, "the label")
            told = next(r.json for r in received if r.topic == "homeassistant/device/sightline_pi/config")
            wait_until(lambda: state("camera.image") == "idle", 10, "the image")
            wait_until(lambda: int(state("sensor.gate_left")) > 0, 20, "somebody who went across")
            shown = {k: v["state"] for k, v in house.states().items() if "sightline_pi" in k}
            assert len(shown) == len(told["cmps"]) == 14, shown
            assert "unavailable" not in shown.values()
            assert [k for k, v in shown.items() if v == "unknown"] in ([], ["sensor.sightline_pi_temperature"])
            assert shown["binary_sensor.sightline_pi_occupancy"] == "on" and float(state("sensor.score")) > 50
            assert shown["binary_sensor.sightline_pi_camera"] == "off", "no problem"
            count = house.states()["sensor.sightline_pi_count"]
            assert count["attributes"]["red"] == int(count["state"]) > 0
            assert house.ask("/api/camera_proxy/camera.sightline_pi_image")[:3] == b"\xff\xd8\xff"

            threshold = {"entity_id": "number.sightline_pi_threshold", "value": 1.0}
            house.ask("/api/services/number/set_value", threshold)
            wait_until(lambda: state("sensor.count") == "0", 10, "nothing, for the threshold is 1")
            assert state("number.threshold") == "1.0" and state("binary_sensor.occupancy") == "off"
            house.ask("/api/services/number/set_value", {**threshold, "value": 0.5})
            wait_until(lambda: int(state("sensor.count")) > 0, 10, "the red thing again")

            process.send_signal(signal.SIGKILL)
            wait_until(lambda: state("sensor.label") == "unavailable", 20, "the broker's word for it")
            now = {v["state"] for k, v in house.states().items() if "sightline_pi" in k}
            assert now == {"unavailable"}

            # as the agent says it of a camera that is away
            blind = {**[r.json for r in received if r.topic == "sightline/pi/yard/state"][-1], "inferred": False}
            client.publish("sightline/pi/yard/state", json.dumps({**blind, "cause": "unplugged"}), 1)
            client.publish("sightline/pi/available", "online", 1)
            wait_until(lambda: state("binary_sensor.camera") == "on", 10, "the problem")
            assert state("sensor.label") == "unavailable", "a camera that is not seen is no empty scene"
            assert house.states()["binary_sensor.sightline_pi_camera"]["attributes"]["cause"] == "unplugged"

        with homeassistant.started(system, config, own, port) as house, agent(detector, tmp_path, port):
            wait_until(lambda: state("sensor.label") == "red", 20, "the label after a new start of both")
        wrong = [line for line in house.log.read_text().splitlines() if " ERROR " in line or "mqtt" in line]
        assert not wrong, wrong
