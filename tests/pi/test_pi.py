"""Raspberry Pi OS, 64-bit, bookworm and trixie: the installed packages run there, and give the results of a PC."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.rtsp import rtsp_camera
from benchmarks.support.waiting import wait_until
from tests.conftest import Sightline, need
from tests.support.debian import missing
from tests.support.emulated_pi import SUITES, Pi, build

pytestmark = pytest.mark.slow

SCORE = 0.02  # largest difference of a score, from other int8 kernels and video decoders
WHEELS_MB, INSTALLED_MB = 100, 300
# the two releases have the same wheels but for the Python version: one of them is enough for what the wheels decide
NEWEST = pytest.mark.parametrize("pi", ["trixie"], indirect=True)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [Path(sys.executable).with_name("uv"), "build", "--quiet", "--wheel", "--out-dir", out],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session", params=list(SUITES))
def pi(request: pytest.FixtureRequest, wheel: Path) -> Iterator[Pi]:
    lacking = missing("dpkg-deb")
    need(lacking is None, f"an emulated Raspberry Pi needs {lacking}")
    yield build(request.config.cache.mkdir("pi"), request.param, wheel)


def megabytes(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6


def test_the_installation_is_small_and_has_no_training_library(pi: Pi) -> None:
    names = {path.name.lower().split("-")[0] for path in pi.wheels.iterdir()}
    assert {"sightline", "numpy", "ai_edge_litert"} <= names
    assert not names & {"torch", "torchvision", "tensorflow", "timm", "jax"}
    assert megabytes(pi.wheels) <= WHEELS_MB and megabytes(pi.site) <= INSTALLED_MB
    done = pi.run("-c", "import platform, sys; print(platform.machine(), *sys.version_info[:2])")
    assert done.stdout.split() == ["aarch64", *SUITES[pi.suite].split(".")], done.stderr


def results(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_results_of_a_clip_and_a_folder_match_those_of_a_pc(
    pi: Pi, bundle: Path, clip: Path, pictures: Path, sightline: Sightline
) -> None:
    for source, frames in ((clip, 60), (pictures / "red", 20)):
        line = ("run", bundle, "--source", source, "--json", "--no-page")
        here, there = sightline(*line), pi.run("-m", "sightline", *line)
        assert there.returncode == 0, there.stderr
        ours, theirs = results(here.stdout), results(there.stdout)
        assert len(ours) == len(theirs) == frames
        for a, b in zip(ours, theirs, strict=True):
            assert a["model"] == b["model"], "the very same file"
            assert a["predictions"][0]["label"] == b["predictions"][0]["label"]
            assert a["predictions"][0]["score"] == pytest.approx(b["predictions"][0]["score"], abs=SCORE)


@NEWEST
def test_the_self_test_passes_and_fails_after_a_changed_byte(pi: Pi, bundle: Path, tmp_path: Path) -> None:
    import shutil

    done = pi.run("-m", "edge.inference.self_test", bundle, "raspberry_pi_4", "", "0")
    assert done.returncode == 0 and "p50_ms" in json.loads(done.stdout.splitlines()[-1]), (done.stdout, done.stderr)
    changed = tmp_path / "changed.bundle"
    shutil.copytree(bundle, changed)
    (model,) = changed.glob("*.static_int8.tflite")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    done = pi.run("-m", "edge.inference.self_test", changed, "raspberry_pi_4", "", "0")
    assert "sha256" in done.stdout or "is not the file" in done.stdout, done.stdout


@NEWEST
def test_boxes_match_those_of_a_pc(pi: Pi, spots_run: Path, spots: Path, tmp_path: Path, sightline: Sightline) -> None:
    from converters.convert import ConvertOptions, convert

    bundle = tmp_path / "spots.bundle"
    convert(spots_run, bundle, ConvertOptions("raspberry_pi_4"))
    line = ("run", bundle, "--source", spots / "val", "--track", "--json", "--no-page")
    here, there = sightline(*line), pi.run("-m", "sightline", *line)
    assert there.returncode == 0, there.stderr
    ours, theirs = results(here.stdout), results(there.stdout)
    assert len(ours) == len(theirs) == 12 and sum(len(r["predictions"]) for r in ours) >= 12
    for a, b in zip(ours, theirs, strict=True):
        assert [p["label"] for p in a["predictions"]] == [p["label"] for p in b["predictions"]]
        for p, q in zip(a["predictions"], b["predictions"], strict=True):
            assert p["score"] == pytest.approx(q["score"], abs=SCORE) and p.get("track") == q.get("track")
            assert list(p["box"].values()) == pytest.approx(list(q["box"].values()), abs=1.0)


def test_a_network_camera_appears_on_the_live_page(pi: Pi, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    with rtsp_camera() as (_, address):
        line = ["run", bundle, "--source", address, "--output", output, "--send", "results", "--page-port", 0]
        command = [str(pi.python), "-m", "sightline", *map(str, line)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as agent:
            try:
                assert agent.stderr is not None
                page = next(text for text in agent.stderr if "live page" in text).split()[-1]
                wait_until(lambda: output.exists() and output.read_text().count('"ok"') >= 5, 120, process=agent)
                with urllib.request.urlopen(page, timeout=30) as answer:
                    assert b"<canvas" in answer.read()
            finally:
                agent.terminate()
                agent.stderr.read()
    seen = [r for r in results(output.read_text()) if r["status"] == "ok"]
    assert len(seen) >= 5 and {r["image"]["width"] for r in seen} != {None}
    assert agent.returncode == 0
