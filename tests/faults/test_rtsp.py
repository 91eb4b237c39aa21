"""A network camera that comes, goes, hangs and comes back."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.agent import view
from benchmarks.soak import watch
from benchmarks.support.rtsp import SCRIPT, is_rtsp_installed, rtsp_camera
from benchmarks.support.waiting import wait_until
from edge.addresses import expand
from edge.capture.sources.factory import make_source
from sightline.device_config import load_device
from sightline.errors import SourceError
from tests.conftest import Sightline, need

pytestmark = pytest.mark.slow

PASSWORD = "hunter2-xyzzy"


@pytest.fixture(scope="module", autouse=True)
def _gstreamer() -> None:
    need(
        is_rtsp_installed(),
        "an RTSP camera needs GStreamer: apt-get install python3-gi gir1.2-gst-rtsp-server-1.0 "
        "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad",
    )


@contextmanager
def watching(
    address: str, bundle: Path, *options: object, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    """`sightline run` on the address, and its results as they come."""
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", address, "--json", "--no-page"]
    with subprocess.Popen(
        [*command, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        results: list[dict[str, Any]] = []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                results.append(json.loads(line))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield process, results
        finally:
            process.kill()
            thread.join(5)


def end(process: subprocess.Popen[str]) -> str:
    """SIGTERM; returns stderr."""
    process.terminate()
    assert process.stderr is not None
    stderr = process.stderr.read()
    assert process.wait(timeout=10) == 0, stderr
    assert "Traceback" not in stderr
    return stderr


def with_password(address: str) -> str:
    return address.replace("://", f"://admin:{PASSWORD}@")


def ok(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r for r in results if r["status"] == "ok"]


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_results_arrive_from_a_network_camera(bundle: Path, sightline: Sightline, codec: str) -> None:
    with rtsp_camera(0, "--codec", codec) as (_, address):
        done = sightline("run", bundle, "--source", address, "--json", "--no-page", "--frames", 20, timeout=30)
    assert done.returncode == 0, done.stderr
    results = [r for r in map(json.loads, done.stdout.splitlines()) if r["status"] == "ok"]
    assert len(results) == 20
    for r in results:
        assert r["image"] == {"width": 320, "height": 240}
        assert r["source"] == address
    dropped = sum(sum(r["dropped"].values()) for r in results)
    assert results[-1]["frame_id"] + 1 == 20 + dropped


def test_a_camera_that_dies_and_comes_back_is_seen_again(bundle: Path, tmp_path: Path) -> None:
    summary, login = tmp_path / "summary.json", ("--user", "admin", "--password", PASSWORD)
    with (
        rtsp_camera(0, *login) as (camera, address),
        watching(with_password(address), bundle, "--summary", summary) as (process, results),
    ):
        port = int(address.split(":")[2].split("/")[0])
        wait_until(lambda: len(ok(results)) > 10, 15, process=process)
        camera.send_signal(signal.SIGKILL)
        camera.wait(5)
        wait_until(lambda: sum(r["status"] == "not_inferred" for r in results[-3:]) >= 2, 10, process=process)
        count = len(ok(results))
        with rtsp_camera(port, *login) as (_, again):
            assert again == address
            wait_until(lambda: len(ok(results)) > count + 10, 25, process=process)
            stderr = end(process)
    ids = [r["frame_id"] for r in results]
    assert ids == sorted(ids)
    ids = [r["frame_id"] for r in ok(results)]
    assert all(a < b for a, b in itertools.pairwise(ids))
    away = [r for r in results if r["status"] == "not_inferred"]
    assert all(r["cause"] and r["predictions"] == [] and r["image"] is None for r in away)
    assert any(r["cause"].startswith(f"{address}: ") for r in away), "the cause names the camera"
    assert PASSWORD not in json.dumps(results) + stderr + summary.read_text()
    figures = json.loads(summary.read_text())
    assert figures["reconnects"] >= 1
    assert sum(figures["not_inferred"].values()) == len(away)
    assert f"{address}: reopened {figures['reconnects']} times (" in stderr


def test_a_camera_that_hangs_is_noticed_and_opened_again(bundle: Path) -> None:
    """The connection stays open and nothing comes: OpenCV by itself waits for half a minute."""
    with rtsp_camera() as (camera, address), watching(address, bundle) as (process, results):
        wait_until(lambda: len(ok(results)) > 5, 15, process=process)
        camera.send_signal(signal.SIGSTOP)
        wait_until(lambda: bool(results) and "3 s" in str(results[-1]["cause"]), 8, process=process)
        camera.send_signal(signal.SIGCONT)
        count = len(ok(results))
        wait_until(lambda: len(ok(results)) > count + 5, 25, process=process)
        end(process)


def test_a_camera_that_comes_back_with_another_size_is_seen_in_it(bundle: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    with rtsp_camera() as (camera, address), watching(address, bundle, "--summary", summary) as (process, results):
        wait_until(lambda: len(ok(results)) > 5, 15, process=process)
        camera.send_signal(signal.SIGKILL)
        camera.wait(5)
        with rtsp_camera(int(address.split(":")[2].split("/")[0]), "--size", "640x480"):
            wait_until(lambda: ok(results)[-1]["image"] == {"width": 640, "height": 480}, 25, process=process)
            stderr = end(process)
    assert f"{address}: image size changed 1 times" in stderr
    assert {(r["image"]["width"], r["image"]["height"]) for r in ok(results)} == {(320, 240), (640, 480)}


def test_a_clock_that_jumps_by_hours_moves_nothing_but_the_dates(bundle: Path, tmp_path: Path) -> None:
    """The system's clock as the agent's process sees it, for Python and for FFmpeg alike: NTP after a start without a
    network, and a person who sets it back."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    need(bool(libraries), "a clock that jumps needs libfaketime: apt-get install faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0h")
    env = {
        **os.environ,
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with rtsp_camera() as (_, address), watching(address, bundle, env=env) as (process, results):
        wait_until(lambda: len(ok(results)) > 10, 15, process=process)
        for jump in ("+5h", "-7h"):
            count = len(ok(results))
            clock.write_text(jump)
            wait_until(lambda count=count: len(ok(results)) > count + 30, 10, process=process)  # type: ignore[misc]
        stderr = end(process)
    dates = [datetime.fromisoformat(r["captured_at"]) for r in results]
    steps = [(b - a).total_seconds() / 3600 for a, b in itertools.pairwise(dates)]
    assert [round(step) for step in steps if abs(step) > 1] == [5, -12], "or the clock did not jump"
    first = next(i for i, r in enumerate(results) if r["status"] == "ok")
    assert {r["status"] for r in results[first:]} == {"ok"}
    moments = [r["captured_monotonic_ns"] / 1e9 for r in results[first:]]
    assert all(0 < b - a < 1 for a, b in itertools.pairwise(moments)), "no pause, and no step back"
    assert all(0 <= value < 1000 for r in ok(results) for value in r["latency_ms"].values())
    assert ": reopened" not in stderr


def test_a_password_that_is_right_appears_nowhere(bundle: Path, sightline: Sightline, tmp_path: Path) -> None:
    output, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    options = ("--json", "--no-page", "--frames", 5, "--output", output, "--summary", summary)
    with rtsp_camera(0, "--user", "admin", "--password", PASSWORD) as (_, address):
        done = sightline("run", bundle, "--source", with_password(address), *options, timeout=30)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["source"] == address
    everything = done.stdout + done.stderr + output.read_text() + summary.read_text()
    assert PASSWORD not in everything and "admin" not in everything


def shown_to_anybody(process: subprocess.Popen[str], page: str) -> Iterator[tuple[str, str]]:
    """What other users of the machine, and readers of the page, can see: (where, text)."""
    for path in ("", "api/info", "metrics", "healthz", "readyz"):
        try:
            with urllib.request.urlopen(page + path, timeout=5) as response:
                yield "/" + path, response.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                yield "/" + path, e.read().decode()
    with urllib.request.urlopen(page + "events", timeout=5) as response:
        yield "/events", response.readline().decode() + response.readline().decode()
    ps = subprocess.run(["ps", "auxeww"], capture_output=True, text=True, errors="replace").stdout
    yield "ps", "\n".join(line for line in ps.splitlines() if SCRIPT.name not in line)  # the camera knows it
    for name in ("cmdline", "environ"):
        yield name, Path(f"/proc/{process.pid}/{name}").read_text()


@pytest.mark.parametrize("way", ["env-file", "command line"])
def test_a_password_is_shown_by_the_command_line_alone(way: str, bundle: Path, tmp_path: Path) -> None:
    """While the camera works, and while it is away and every program complains, FFmpeg and OpenCV included."""
    output, env_file = tmp_path / "out.jsonl", tmp_path / "cameras.env"
    env_file.write_text(f"WHO=admin\nPASS={PASSWORD}\n")
    env_file.chmod(0o600)
    env = {**os.environ, "OPENCV_FFMPEG_DEBUG": "1", "OPENCV_FFMPEG_LOGLEVEL": "32", "OPENCV_LOG_LEVEL": "INFO"}
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--json", "--page-port=0", f"--output={output}"]
    with (
        rtsp_camera(0, "--user", "admin", "--password", PASSWORD) as (camera, address),
        (tmp_path / "stdout").open("w") as stdout,
        (tmp_path / "stderr").open("w") as stderr,
    ):
        if way == "env-file":
            command += ["--source", address.replace("://", "://${WHO}:${PASS}@"), "--env-file", str(env_file)]
        else:
            command += ["--source", with_password(address)]
        with subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, env=env) as process:
            try:
                wait_until(lambda: output.exists() and '"ok"' in output.read_text(), 20, process=process)
                wait_until(lambda: "live page: " in (tmp_path / "stderr").read_text(), 5, process=process)
                page = (tmp_path / "stderr").read_text().split("live page: ")[1].split()[0]
                shown = list(shown_to_anybody(process, page))
                camera.send_signal(signal.SIGKILL)
                camera.wait(5)
                wait_until(lambda: "no answer from" in output.read_text(), 20, process=process)
                shown += list(shown_to_anybody(process, page))
                process.terminate()
                assert process.wait(10) == 0
            finally:
                process.kill()
    shown += [(name, (tmp_path / name).read_text()) for name in ("stdout", "stderr", "out.jsonl")]
    assert {name for name, text in shown if PASSWORD in text} == ({"ps", "cmdline"} if way == "command line" else set())
    warned = "--source: the password is visible to other users of this machine" in (tmp_path / "stderr").read_text()
    assert warned == (way == "command line")
    assert address.split("//")[1] in dict(shown)["/api/info"], "or the test searched in the wrong places"
    assert address.split("//")[1] in dict(shown)["ps"]


def test_a_password_that_is_wrong_appears_nowhere(bundle: Path) -> None:
    with (
        rtsp_camera(0, "--user", "admin", "--password", "another") as (_, address),
        watching(with_password(address), bundle, "--debug") as (process, results),
    ):
        wait_until(lambda: any("password" in str(r["cause"]) for r in results), 20, process=process)
        stderr = end(process)
    assert {r["cause_code"] for r in results} <= {"opening", "camera"}
    everything = json.dumps(results) + stderr
    assert PASSWORD not in everything and "admin" not in everything


def test_a_password_with_anything_in_it_arrives() -> None:
    login = {"U": "admin@home", "P": "hun/t@er:2?#%é"}
    with rtsp_camera(0, "--user", login["U"], "--password", login["P"]) as (_, address):
        source = make_source(expand(with_login(address), login), load_device("desktop")[1])
        source.open()
        try:
            assert source.read(None) is not None
            assert (source.name, source.format.split()[-1]) == (address, "320x240@15")
        finally:
            source.close()
        for wrong, words in (
            (address, "requires a user and a password"),
            (address.replace("://", "://x:hunter2@"), "requires a user and a password. Check both"),
            (with_login(address).replace("/live", "/absent"), "has no /absent"),
        ):
            with pytest.raises(SourceError, match=words) as raised:
                make_source(expand(wrong, login), load_device("desktop")[1]).open()
            assert "hun" not in str(raised.value)


def with_login(address: str) -> str:
    return address.replace("://", "://${U}:${P}@")


def test_nothing_grows_while_two_cameras_and_a_viewer_run(bundle: Path) -> None:
    """What `python -m benchmarks.soak` does for half an hour, for half a minute."""
    with rtsp_camera(0, "--fps", "30") as (_, one), rtsp_camera(0, "--codec", "h264", "--fps", "30") as (_, two):
        command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", f"one={one}"]
        command += ["--source", f"two={two}", "--json", "--page-port", "0"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                page = next(line for line in process.stderr if "live page: " in line).split()[-1]
                threading.Thread(target=process.stderr.read, daemon=True).start()
                for path in ("stream.mjpg?camera=one", "stream.mjpg?camera=two", "events"):
                    threading.Thread(target=view, args=(page + path,), daemon=True).start()
                watch(process.pid, 8)  # warm-up
                before = watch(process.pid, 5)
                watch(process.pid, 20)
                after = watch(process.pid, 5)
                process.terminate()
                assert process.wait(10) == 0
            finally:
                process.kill()
    memory, threads, files = ([max(s[k] for s in samples) for samples in (before, after)] for k in range(3))
    assert memory[1] < 1.04 * memory[0], memory
    assert threads[1] <= threads[0] and files[1] <= files[0], (threads, files)
