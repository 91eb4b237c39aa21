"""`sightline convert` as a user meets it: exit codes, one line a mistake, and JSON for programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sightline.bundle import read_bundle
from tests.conftest import Sightline
from tests.support.conversion import tree


@pytest.mark.slow
def test_a_conversion_ends_in_a_bundle_and_one_json_object(
    run_folder: Path, bundle: Path, tmp_path: Path, sightline: Sightline
) -> None:
    out = tmp_path / "colours.bundle"
    done = sightline(
        "convert", run_folder, "--device", "desktop", "--out", out, "--json",
        "--scheme", "static_int8", "--scheme", "float32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(done.stdout.splitlines()) == 1, "the libraries underneath have printed"
    contents = read_bundle(out)
    assert (result["bundle"], result["device"], result["images"]) == (str(out), "desktop", 12)
    assert list(result["variants"]) == list(contents.manifest.variants) == ["static_int8", "float32"]
    assert result["variants"]["static_int8"]["bytes"] == len(contents.variant("static_int8")[1])
    assert result["float32"]["accuracy"] == 1.0
    assert "Traceback" not in done.stderr
    assert 3 <= len(done.stderr.splitlines()) <= 8, done.stderr
    assert tree(out) == tree(bundle), "another process makes another bundle"


def one_line(sightline: Sightline, *arguments: object) -> str:
    """What a mistake prints: one line, on stderr, and exit code 2."""
    done = sightline("convert", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_an_unknown_device(run_folder: Path, tmp_path: Path, sightline: Sightline) -> None:
    line = one_line(sightline, run_folder, "--device", "rasberry_pi_5", "--out", tmp_path / "c.bundle")
    assert "unknown device 'rasberry_pi_5' (did you mean raspberry_pi_5" in line


def test_a_source_that_is_not_there(tmp_path: Path, sightline: Sightline) -> None:
    line = one_line(sightline, tmp_path / "absent", "--device", "desktop", "--out", tmp_path / "c.bundle")
    assert "absent: no such run folder or model. `sightline train` makes a run" in line


@pytest.mark.slow
def test_a_run_that_is_not_finished(run_folder: Path, tmp_path: Path, sightline: Sightline) -> None:
    run = shutil.copytree(run_folder, tmp_path / "run")
    (run / "model.json").unlink()
    line = one_line(sightline, run, "--device", "desktop", "--out", tmp_path / "c.bundle")
    assert f"{run}: not a finished run: model.json cannot be read" in line
    assert not (tmp_path / "c.bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "Missing argument 'SOURCE'"),
        (["run", "--device", "desktop"], "Missing option '--out'"),
        (["run", "--device", "desktop", "--out", "c.bundle", "--scheme", "int8"], "'int8' is not one of"),
        (["run", "--device", "desktop", "--out", "c.bundle", "--max-drop", "-1"], "--max-drop"),
    ],
)
def test_a_wrong_command_line(sightline: Sightline, arguments: list[str], why: str) -> None:
    done = sightline("convert", *arguments)
    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr
