"""The output of `sightline bench`, and when it refuses to give one. Speed itself is not tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge.benchmark import check_noise, measure, subjects
from edge.system.benchmark_report import BenchmarkReport, Figures
from sightline.bundle import read_bundle
from sightline.errors import DeviceError
from tests.conftest import Sightline

pytestmark = pytest.mark.slow

QUICK = ("--seconds", "0.1", "--noise", "10000")


def test_each_scheme_and_number_of_threads_is_measured(bundle: Path, sightline: Sightline) -> None:
    line = ("bench", bundle, "--scheme", "static_int8", "--scheme", "float32", "--threads", 1, "--threads", 2, *QUICK)
    done = sightline(*line, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    names = [f["name"] for f in report["figures"]]
    assert names == [f"colours {s}, {t}" for s in ("static_int8", "float32") for t in ("1 thread", "2 threads")]
    assert all(0 < f["model_ms"] < f["whole_ms"] and f["whole_spread"] >= 0 for f in report["figures"])
    assert report["cold_start_ms"] > 50 and report["rss_mb"] > 10 and report["compared"] is None
    assert json.loads(json.dumps(BenchmarkReport.from_json(report).to_json())) == report
    text = sightline(*line).stdout
    assert "golden samples match" in text and "cold start" in text and "colours float32, 2 threads" in text


def test_the_result_goes_into_the_manifest_as_evidence(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    copy = tmp_path / "copy.bundle"
    shutil.copytree(bundle, copy)
    before = read_bundle(copy)
    for _ in range(2):
        done = sightline("bench", copy, "--evidence", *QUICK)
        assert done.returncode == 0 and "manifest.json" in done.stdout, done.stderr
    after = read_bundle(copy)
    (record,) = after.manifest.metrics.pop("evidence")
    assert after.manifest == before.manifest and after.contents == before.contents
    assert record["device"] == "desktop" and "cores" in record["machine"] and record["figures"][0]["whole_ms"] > 0
    assert record["sha256"] == after.variant("static_int8")[2].sha256
    done = sightline("bench", copy, "--scheme", "float32", "--evidence", *QUICK)
    assert [r["scheme"] for r in read_bundle(copy).manifest.metrics["evidence"]] == ["static_int8", "float32"]
    bare = copy / before.manifest.variants["static_int8"]
    done = sightline("bench", bare, "--evidence", *QUICK)
    assert done.returncode == 2 and "is not a bundle folder" in done.stderr


def test_two_bundles_are_compared_and_the_same_one_shows_no_difference(bundle: Path, sightline: Sightline) -> None:
    done = sightline("bench", bundle, "--compare", bundle, "--sustained", 0.02, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "compared " in done.stdout and "sustained " in done.stdout and "times the duration" in done.stdout


def test_a_noisy_measurement_is_an_error_without_figures(bundle: Path, sightline: Sightline) -> None:
    done = sightline("bench", bundle, "--seconds", 0.1, "--noise", 0)
    assert (
        done.returncode == 3
        and "colours static_int8" in done.stderr
        and "too noisy" in done.stderr
        and done.stdout == ""
    )
    figures = [Figures("a", 1.0, 0.02, 2.0, 0.01), Figures("b", 1.0, 0.02, 2.0, 0.2)]
    check_noise(figures, 0.2)
    with pytest.raises(
        DeviceError, match=r"b: the measurement is too noisy: a round deviates by 20% .* the limit is 19%"
    ):
        check_noise(figures, 0.19)


def test_the_rounds_alternate(bundle: Path) -> None:
    turns: list[int] = []
    figures = measure(subjects(bundle, "desktop", ("static_int8", "float32"), (1,)), 0.05, turns.append)
    assert turns == [1, 2, 3, 4, 5] and [f.name for f in figures] == [
        "colours static_int8, 1 thread",
        "colours float32, 1 thread",
    ]


def test_bad_input_is_refused(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    for arguments, words in [
        ((tmp_path / "no.bundle",), "no such bundle"),
        ((bundle, "--scheme", "float16"), "no variant 'float16'"),
        ((bundle, "--compare", tmp_path / "no.bundle"), "no such bundle"),
        ((bundle, "--threads", 0), "--threads"),
    ]:
        done = sightline("bench", *arguments)
        assert done.returncode == 2 and words in done.stderr and done.stdout == "", (arguments, done.stderr)
