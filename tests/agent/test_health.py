"""Metrics by Prometheus' rules, and the two questions: is it alive, does it see."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.support.waiting import wait_until
from edge.capture.capture import NO_MOTION, STREAMING
from edge.monitoring.health import Monitor
from edge.monitoring.prometheus import EDGES_MS, exposition
from edge.results.counters import Counters
from edge.system.machine_state import read_machine
from sightline.predictions import Cause, ModelId

_SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[a-z0-9_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-z0-9_]+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """{sample's name: [(labels, value)]}; asserts what the format demands."""
    assert text.endswith("\n") and "\n\n" not in text
    kinds: dict[str, str] = {}
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    helped = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert helped not in kinds, "a family comes once, in one piece"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == helped
            kinds[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            family = re.sub(r"_(bucket|sum|count)$", "", name) if name not in kinds else name
            assert family == helped, line
            if kinds[family] == "counter":
                assert name.endswith("_total"), name
            unescaped = {
                k: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), v) for k, v in _LABEL.findall(labels or "")
            }
            samples.setdefault(name, []).append((unescaped, float(value)))
    for name, kind in kinds.items():
        if kind == "histogram":
            check_histogram(name, samples)
    return samples


def check_histogram(name: str, samples: dict[str, list[tuple[dict[str, str], float]]]) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for labels, value in samples[f"{name}_bucket"]:
        series.setdefault(labels["stage"], []).append((float(labels["le"].replace("+Inf", "inf")), value))
    counts = {labels["stage"]: value for labels, value in samples[f"{name}_count"]}
    for stage, buckets in series.items():
        assert [le for le, _ in buckets] == sorted(le for le, _ in buckets) and buckets[-1][0] == math.inf
        assert [n for _, n in buckets] == sorted(n for _, n in buckets), "cumulative"
        assert buckets[-1][1] == counts[stage]


def monitor(counters: Counters | None = None, root: Path = Path("/nowhere"), **camera: Any) -> Monitor:
    """Of an agent that never ran, with one camera of an awkward name; all is well, but for what is said of it."""
    one = SimpleNamespace(
        source=SimpleNamespace(name='a "quoted" \\ name', live=True), mailbox=SimpleNamespace(ended=False),
        state=STREAMING, reconnects=Counter(), resized=0, read_ns=time.monotonic_ns(),
        options=SimpleNamespace(max_fps=0.0),
    )  # fmt: skip
    vars(one).update(camera)
    now = time.monotonic_ns()
    model = SimpleNamespace(identity=ModelId("m", "1\n2", "ab" * 32), scheme="static_int8")
    results = SimpleNamespace(
        model=model, inferring_since_ns=0, alive_ns=now, last_inference_s=[now / 1e9], causes=[None], inference_s=0.01,
        stuck_after_s=2.0,
    )  # fmt: skip
    sink = SimpleNamespace(name="output x", dropped=3, problem=None)
    swap = SimpleNamespace(reloads=1, refusals=2)
    return Monitor(results, [one], [sink], counters or Counters(), swap, "desktop", root)  # type: ignore[arg-type]


def test_the_text_is_what_prometheus_reads() -> None:
    counters = Counters()
    counters.dropped.update({"overwritten": 4})
    for ms in (0.4, 0.6, 3, 30, 9000):
        counters.latency["inference"].add(ms)
    samples = parse(exposition(monitor(counters)))
    assert samples["sightline_model_info"][0][0]["version"] == "1\n2"
    assert samples["sightline_frames_total"] == [({"camera": 'a "quoted" \\ name'}, 0)]
    assert samples["sightline_frames_dropped_total"] == [({"cause": "overwritten"}, 4)]
    assert samples["sightline_output_dropped_total"] == [({"output": "output x"}, 3)]
    buckets = [v for labels, v in samples["sightline_stage_seconds_bucket"] if labels["stage"] == "inference"]
    assert buckets == [sum(x <= edge for x in (0.4, 0.6, 3, 30, 9000)) for edge in (*EDGES_MS, math.inf)]
    (total,) = (v for labels, v in samples["sightline_stage_seconds_sum"] if labels["stage"] == "inference")
    assert total == pytest.approx(9.034)
    assert samples["process_resident_memory_bytes"][0][1] > 1e7
    assert abs(samples["process_start_time_seconds"][0][1] - time.time()) < 3600 * 24
    assert "sightline_temperature_celsius" not in samples


def test_a_pi_says_that_its_power_is_bad(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("61234\n")
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    samples = parse(exposition(monitor(root=tmp_path)))
    assert samples["sightline_temperature_celsius"] == [({}, 61.234)]
    now = {labels["problem"]: v for labels, v in samples["sightline_power_problem"]}
    assert now == {"undervoltage": 1, "frequency_capped": 0, "throttled": 1, "soft_temperature_limit": 0}
    once = {labels["problem"]: v for labels, v in samples["sightline_power_problem_since_boot"]}
    assert once["undervoltage"] == 1 and once["frequency_capped"] == 0


def test_a_file_with_nonsense_is_no_figure(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("hot")
    assert read_machine(tmp_path).celsius is None


def test_alive_is_not_ready() -> None:
    gone = monitor(state=Cause("camera", "unplugged?"))
    assert gone.liveness() == {}
    assert gone.readiness() == {'a "quoted" \\ name': {"code": "camera", "text": "unplugged?"}}
    assert monitor(state=NO_MOTION).readiness() == {}, "nothing moves: it is seen"
    assert monitor().readiness() == {}


@pytest.mark.parametrize("what", ["gives nothing", "is not looked at"])
def test_an_open_camera_without_frames_is_not_ready(what: str) -> None:
    one = monitor(read_ns=time.monotonic_ns() - 6_000_000_000 * (what == "gives nothing"))
    if what == "is not looked at":
        one.results.last_inference_s[0] = time.monotonic() - 6
    assert [p["code"] for p in one.readiness().values()] == ["no_frame"]


def test_an_output_that_fails_is_not_ready() -> None:
    one = monitor()
    one.sinks[0].problem = "No space left on device"
    assert one.readiness() == {"output x": {"code": "sink", "text": "No space left on device"}}


@pytest.mark.parametrize(("what", "code"), [("inferring_since_ns", "inference_stuck"), ("alive_ns", "results_stuck")])
def test_a_stuck_loop_is_dead(what: str, code: str) -> None:
    one = monitor()
    setattr(one.results, what, time.monotonic_ns() - 3_000_000_000)
    assert one.liveness()["loop"]["code"] == code
    assert "loop" in one.readiness()


@contextmanager
def agent(bundle: Path, *sources: str) -> Iterator[str]:
    options = [f"--source={source}" for source in sources]
    command = [sys.executable, "-m", "sightline", "run", str(bundle), *options, "--page-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield next(line for line in process.stderr if "live page: " in line).split("live page: ")[1].strip()
        finally:
            process.kill()


def get(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()


def test_the_agent_answers(bundle: Path) -> None:
    with agent(bundle, "test:64x48@30") as address:
        wait_until(lambda: get(address + "readyz")[0] == 200)
        assert get(address + "healthz") == (200, "{}")
        samples = parse(get(address + "metrics")[1])
        assert samples["sightline_frames_total"][0][1] > 0
        before = samples["sightline_frames_total"][0][1]
        wait_until(lambda: parse(get(address + "metrics")[1])["sightline_frames_total"][0][1] > before)


def test_a_camera_that_is_absent_is_named_and_the_process_is_alive(bundle: Path) -> None:
    with agent(bundle, "seen=test:64x48@30", "door=/dev/video99") as address:
        wait_until(lambda: "video99" in get(address + "readyz")[1])
        code, body = get(address + "readyz")
        wait_until(lambda: list(json.loads(get(address + "readyz")[1])) == ["door"])
        assert code == 503
        assert get(address + "healthz")[0] == 200
        up = parse(get(address + "metrics")[1])["sightline_camera_up"]
        assert up == [({"camera": "seen"}, 1), ({"camera": "door"}, 0)]
        assert body
