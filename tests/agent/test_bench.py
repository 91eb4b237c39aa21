"""What `sightline bench` says, and when it says nothing. How fast something is, is no test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.bench import Figures, check_noise, measure, subjects
from sightline.errors import DeviceError
from tests.conftest import Sightline

QUICK = ("--seconds", "0.1", "--noise", "10000")


def test_each_scheme_and_number_of_threads_is_measured(bundle: Path, sightline: Sightline) -> None:
    line = ("bench", bundle, "--scheme", "static_int8", "--scheme", "float32", "--threads", 1, "--threads", 2, *QUICK)
    done = sightline(*line, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    names = [f["name"] for f in told["figures"]]
    assert names == [f"colours {s}, {t}" for s in ("static_int8", "float32") for t in ("1 thread", "2 threads")]
    assert all(0 < f["model_ms"] < f["whole_ms"] and f["whole_spread"] >= 0 for f in told["figures"])
    assert told["cold_start_ms"] > 50 and told["rss_mb"] > 10 and told["ratio"] is None
    text = sightline(*line).stdout
    assert "golden samples as measured" in text and "cold start" in text and "colours float32, 2 threads" in text


def test_two_bundles_are_compared_and_the_same_one_shows_no_difference(bundle: Path, sightline: Sightline) -> None:
    done = sightline("bench", bundle, "--compare", bundle, "--sustained", 0.02, *QUICK)
    assert done.returncode == 0, done.stderr
    assert "compared " in done.stdout and "sustained " in done.stdout and "give or take" in done.stdout


def test_where_it_is_too_noisy_it_says_so_and_nothing_else(bundle: Path, sightline: Sightline) -> None:
    done = sightline("bench", bundle, "--seconds", 0.1, "--noise", 0)
    assert done.returncode == 3 and "too noisy to say: colours static_int8" in done.stderr and done.stdout == ""
    figures = [Figures("a", 1.0, 0.02, 2.0, 0.01), Figures("b", 1.0, 0.02, 2.0, 0.2)]
    check_noise(figures, 0.2)
    with pytest.raises(DeviceError, match="too noisy to say: b: a round was 20% off the others, 19% are allowed"):
        check_noise(figures, 0.19)


def test_a_round_of_each_in_turns(bundle: Path) -> None:
    turns: list[int] = []
    figures = measure(subjects(bundle, "desktop", ("static_int8", "float32"), (1,)), 0.05, turns.append)
    assert turns == [1, 2, 3, 4, 5] and [f.name for f in figures] == [
        "colours static_int8, 1 thread",
        "colours float32, 1 thread",
    ]


def test_what_cannot_be_measured(bundle: Path, tmp_path: Path, sightline: Sightline) -> None:
    for arguments, words in [
        ((tmp_path / "no.bundle",), "no such bundle"),
        ((bundle, "--scheme", "float16"), "no variant 'float16'"),
        ((bundle, "--compare", tmp_path / "no.bundle"), "no such bundle"),
        ((bundle, "--threads", 0), "--threads"),
    ]:
        done = sightline("bench", *arguments)
        assert done.returncode == 2 and words in done.stderr and done.stdout == "", (arguments, done.stderr)
