"""A new model while the agent runs: a good one takes over without a gap, a bad one is refused with a reason."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.support.waiting import wait_until
from edge.inference.hot_reload import HotReload, WatchedBundle
from edge.inference.model import open_model, stamp_of
from edge.inference.self_test import Trial, measure_model, try_in_child
from sightline.bundle import read_bundle, write_bundle
from sightline.device_config import load_device
from sightline.errors import DeviceError, InputError
from sightline.npz import pack, unpack
from tests.conftest import Sightline


class Agent:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.results: list[dict[str, Any]] = []
        self.log: list[str] = []
        for stream, keep in (
            (process.stdout, lambda line: self.results.append(json.loads(line))),
            (process.stderr, self.log.append),
        ):
            threading.Thread(target=self._read, args=(stream, keep), daemon=True).start()

    @staticmethod
    def _read(stream: Any, keep: Callable[[str], None]) -> None:
        for line in stream:
            keep(line)

    def wait(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        wait_until(condition, within_s, lambda: self.log, process=self.process)

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.log)


@contextmanager
def running(bundle: Path, *options: object) -> Iterator[Agent]:
    command = [
        sys.executable,
        "-m",
        "sightline",
        "run",
        str(bundle),
        "--source",
        "test:64x48@50",
        "--json",
        "--no-page",
    ]
    with subprocess.Popen(
        [*command, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            agent = Agent(process)
            agent.wait(lambda: len(agent.results) > 10)
            yield agent
        finally:
            process.kill()


@pytest.fixture
def mine(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that may be changed."""
    path = tmp_path / "mine.bundle"
    shutil.copytree(bundle, path)
    return path


def rewrite(
    path: Path, scheme: str = "static_int8", golden: Any = None, model: bytes | None = None, **changes: Any
) -> None:
    """The bundle at `path` in another version, hashed as it should be."""
    read = read_bundle(path)
    files = {n: c for n, c in read.contents.items() if n not in ("labels.txt", "manifest.json")}
    if golden is not None:
        files["golden.npz"] = golden
    if model is not None:
        files[read.manifest.variants[scheme]] = model
    write_bundle(path, dataclasses.replace(read.manifest, **{"version": "2", **changes}), files)


@pytest.mark.slow
def test_a_good_model_takes_over_and_no_frame_is_lost(mine: Path) -> None:
    with running(mine) as agent:
        agent.results.clear()
        rewrite(mine, default="float32")
        agent.wait(lambda: bool(agent.results) and agent.results[-1]["model"]["version"] == "2")
        agent.wait(lambda: agent.results[-1]["model"]["version"] == "2" and len(agent.results) > 30)
        results = list(agent.results)
    files = read_bundle(mine).files
    new = files[read_bundle(mine).manifest.variants["float32"]]["sha256"]
    assert [k for k, _ in itertools.groupby(r["model"]["version"] for r in results)][-1] == "2"
    assert results[-1]["model"]["sha256"] == new
    assert {r["status"] for r in results} == {"ok"}
    for a, b in itertools.pairwise(results):
        assert b["frame_id"] - a["frame_id"] - 1 == sum(b["dropped"].values())
        assert (b["captured_monotonic_ns"] - a["captured_monotonic_ns"]) / 1e9 < 0.5
    assert agent.heard("is replaced by 2")


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def truncated(mine: Path) -> None:
    file = mine / read_bundle(mine).manifest.variants["static_int8"]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    os.utime(mine / "manifest.json")


def flipped(mine: Path) -> None:
    flip(mine / read_bundle(mine).manifest.variants["static_int8"])
    os.utime(mine / "manifest.json")


def half_a_manifest(mine: Path) -> None:
    manifest = mine / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:200])


def no_model(mine: Path) -> None:
    rewrite(mine, model=b"\x18\0\0\0TFL3" + b"\xff" * 5000)


def wrong_outputs(mine: Path) -> None:
    golden = unpack(read_bundle(mine).contents["golden.npz"], "golden", "frames", "static_int8/output_0")
    other = {k: v for k, v in golden.items() if k != "frames"}
    other["static_int8/output_0"] = np.roll(golden["static_int8/output_0"], 1, axis=1)
    rewrite(mine, golden=pack(frames=golden["frames"], **other))


def gone(mine: Path) -> None:
    rewrite(mine, variants={"float32": read_bundle(mine).manifest.variants["float32"]}, default="float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words", "options"),
    [
        (truncated, "is not the file that was written", ()),
        (flipped, "is not the file that was written", ()),
        (half_a_manifest, "manifest.json: damaged", ()),
        (no_model, "static_int8", ()),
        (wrong_outputs, "other outputs than the measured ones", ()),
        (gone, "no variant 'static_int8'", ("--scheme", "static_int8")),
    ],
)
def test_a_bad_model_is_refused_and_the_old_one_goes_on(
    mine: Path, spoil: Callable[[Path], None], words: str, options: tuple[str, ...]
) -> None:
    with running(mine, *options) as agent:
        before = agent.results[0]["model"]
        spoil(mine)
        agent.wait(lambda: agent.heard("the new model is refused"))
        count = len(agent.results)
        agent.wait(lambda: len(agent.results) > count + 20)
        assert all(r["model"] == before and r["status"] == "ok" for r in agent.results)
        (line,) = [line for line in agent.log if "refused" in line]
        assert words in line, line
        agent.process.terminate()
        assert agent.process.wait(10) == 0


def test_a_model_that_is_too_slow_for_the_device_is_refused(mine: Path) -> None:
    model = open_model(read_bundle(mine), load_device("desktop")[1])
    for budget_ms, error in ((1e-6, "too slow for this device"), (1e6, None)):
        trial = measure_model(model, budget_ms, 1.0, seconds=0.0, min_inferences=3)
        assert (error in trial.error) if error else trial.error is None


@pytest.mark.slow
def test_half_a_copy_gets_a_second_chance(mine: Path, bundle: Path) -> None:
    with running(mine) as agent:
        rewrite(mine)
        file = mine / read_bundle(mine).manifest.variants["static_int8"]
        content = file.read_bytes()
        file.write_bytes(content[:-100])
        time.sleep(3)
        file.write_bytes(content)
        agent.wait(lambda: bool(agent.results) and agent.results[-1]["model"]["version"] == "2")
    assert not agent.heard("refused")


@pytest.mark.slow
def test_a_signal_has_it_looked_at_at_once(mine: Path) -> None:
    with running(mine) as agent:
        flipped(mine)
        agent.process.send_signal(signal.SIGHUP)
        agent.wait(lambda: agent.heard("refused"), 4)


CRASH = "import os; os.kill(os.getpid(), 11)"


def test_a_model_that_crashes_the_interpreter_crashes_a_child(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **o: real([sys.executable, "-c", CRASH], **o))
    with pytest.raises(InputError, match=r"the interpreter crashed on it \(SIGSEGV\)"):
        try_in_child(mine, "desktop", None)


def test_a_model_that_hangs_hangs_a_child(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run
    hang = "import time; time.sleep(60)"
    monkeypatch.setattr(subprocess, "run", lambda command, **o: real([sys.executable, "-c", hang], **o))
    with pytest.raises(DeviceError, match=r"the self-test took more than 0\.5 s"):
        try_in_child(mine, "desktop", None, timeout_s=0.5)


@pytest.mark.slow
def test_bench_says_what_a_bundle_is_worth_here(mine: Path, sightline: Sightline) -> None:
    quick = ("--seconds", 0.1, "--noise", 10000)
    done = sightline("bench", mine, *quick)
    assert done.returncode == 0 and "golden samples match" in done.stdout, done.stderr
    figures = json.loads(sightline("bench", mine, "--json", "--scheme", "float32", *quick).stdout)
    assert figures["scheme"] == "float32" and 0 < figures["p50_ms"] <= figures["p95_ms"]
    wrong_outputs(mine)
    done = sightline("bench", mine)
    assert done.returncode == 3 and "other outputs than the measured ones" in done.stderr
    flipped(mine)
    done = sightline("bench", mine)
    assert done.returncode == 2 and "is not the file that was written" in done.stderr


def test_another_manifest_of_the_same_model_is_another_bundle(mine: Path) -> None:
    """Labels, threshold and how a frame is resized are not in the .tflite; what is for people is no reason to swap."""
    config = load_device("desktop")[1]
    current = open_model(read_bundle(mine), config)
    log: list[str] = []
    scheme, _, identity = read_bundle(mine).variant()
    trial = Trial("mine", current.identity.version, scheme, identity.sha256, 1.0, 1.0, 1.0, 1.0, None)
    watched = WatchedBundle(mine, "desktop", None, stamp_of(mine))
    hot = HotReload(watched, current, log=log.append, on_reload=lambda _: None, try_bundle=lambda _: trial)
    version = current.identity.version
    rewrite(mine, version=version, metrics={"evidence": []}, provenance={"seed": 5})
    assert hot.reload() is None and hot.take() is None
    output = dataclasses.replace(current.manifest.output, labels=("azure", "lime", "rose"), threshold=0.4)
    rewrite(mine, version=version, output=output)
    assert hot.reload() is None
    taken = hot.take()
    assert taken is not None and taken.manifest.output.labels == ("azure", "lime", "rose")
    assert "the labels changed" in log[0]


def test_the_printed_commands_put_a_new_bundle_in_place(mine: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "run.md").read_text(encoding="utf-8")
    (block,) = [b for b in page.split("```")[1::2] if "mv new.bundle caps.bundle" in b]
    commands = block.removeprefix("\n")
    shutil.copytree(mine, tmp_path / "caps.bundle")
    (tmp_path / "downloads").mkdir()
    rewrite(mine)
    shutil.copytree(mine, tmp_path / "downloads" / "caps.bundle")
    subprocess.run(["bash", "-e", "-c", commands], cwd=tmp_path, check=True, timeout=20)
    assert read_bundle(tmp_path / "caps.bundle").manifest.version == "2"
    assert {p.name for p in (tmp_path / "caps.bundle").iterdir()} == {p.name for p in mine.iterdir()}
