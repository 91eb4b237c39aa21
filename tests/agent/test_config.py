"""agent.yaml: read strictly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.capture.options import CaptureOptions
from edge.config import read_agent_config
from sightline.errors import ConfigError
from tests.conftest import Sightline


def read(tmp_path: Path, text: str):  # type: ignore[no-untyped-def]
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    return read_agent_config(path)


def test_cameras_with_what_is_said_of_each(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
max_age_ms: 500
cameras:
  door: {source: "rtsp://10.0.0.7/live", max_fps: 5, motion: 0.5, frozen_s: 0}
  line: {source: 0}
""",
    )
    assert config.max_age_ms == 500
    assert list(config.cameras) == ["door", "line"]
    assert config.cameras["door"].capture_options == CaptureOptions(max_fps=5, motion=0.5, frozen_s=0)
    assert config.cameras["line"].source == "0"
    assert config.cameras["line"].capture_options == CaptureOptions()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cameras"),
        ("cameras: {}", "cameras"),
        ("cameras: [1]", "cameras"),
        ("cameras: {a: {}}", "camera a: missing key 'source'"),
        ("cameras: {a: rtsp://x/}", "camera a: a mapping"),
        ("cameras: {a: {source: x, fps: 3}}", "camera a: unknown key 'fps' (did you mean max_fps?)"),
        ("cameras: {a: {source: x, max_fps: -1}}", "camera a: max_fps must be at least 0"),
        ("cameras: {a: {source: x, motion: 200}}", "camera a: motion is a percentage"),
        ("cameras: {a: {source: x, motion: much}}", "camera a: motion: a number is needed"),
        ("camera: {a: {source: x}}", "cameras"),
        ("cameras: {a: {source: x}}\nmax_age: 3", "unknown key 'max_age' (did you mean max_age_ms?)"),
        ("cameras: {a: {source: x}", "not valid YAML"),
        ("cameras: {a: {source: x}, a: {source: y}}", "'a' is there twice"),
        ("cameras: {1: {source: x}, '1': {source: y}}", "'1' is there twice"),
        ("cameras: {a: {source: x, max_fps: 1.0e-320}}", "max_fps must be 0 or at least 0.001"),
        ("cameras: {a: {source: x, max_fps: .nan}}", "camera a: max_fps: nan is not a finite number"),
        ("cameras: {a: {source: x, motion: .inf}}", "camera a: motion: inf is not a finite number"),
        ("cameras: {a: {source: true}}", "camera a: source: a text is needed"),
        ("cameras: {a: {source: x}}\nmax_age_ms: -1", "max_age_ms must be at least 0"),
        ("cameras: {a: {source: x}}\nmax_age_ms: .nan", "max_age_ms: nan is not a finite number"),
        ("cameras: {a: {source: x}}\nmax_age_ms: 2026-13-45", "is read as a date"),
        ("cameras: {a: {source: x}}\noptions: {on: [a], 'on': [b]}", "duplicate key 'on'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert words in str(raised.value) and "agent.yaml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_agent_config(tmp_path / "agent.yaml")


def test_options_of_the_file_are_those_of_the_command_line(bundle: Path, clip: Path, tmp_path: Path,
                                                           sightline: Sightline) -> None:  # fmt: skip
    (tmp_path / "agent.yaml").write_text(
        f"""
cameras:
  door: {{source: "{clip}"}}
options:
  output: {tmp_path}/events.jsonl
  on: ["red>=0.5 for 300ms"]
  top: 1
  page: false
"""
    )
    done = sightline("run", bundle, "--config", tmp_path / "agent.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert "live page" not in done.stderr
    assert all(len(json.loads(line)["predictions"]) <= 1 for line in done.stdout.splitlines())
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [e["state"] for e in events] == ["new", "end"] and events[0]["source"] == "door"
    done = sightline("run", bundle, "--config", tmp_path / "agent.yaml", "--top", 2)
    assert done.returncode == 2 and "options: top: also on the command line" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{mqt: x}", "no such option (did you mean mqtt"),
        ("{record: x}", "belongs on the command line"),
        ("{top: many}", "options: top: 'many' is not a valid integer range"),
        ("{top: true}", "options: top: must be a text or a number, not True"),
        ("{threshold: 2}", "options: threshold: 2"),
        ("{on: fox>=0.5}", "on: must be a list, not 'fox>=0.5'"),
        ("{output: [a]}", "must be one value, not the list"),
        ("{page: 1}", "page: must be true or false, not 1"),
        ("{send: everything}", "'everything' is not one of"),
        ("[1]", "a mapping"),
        ("{output: {a: b}}", "must be a text or a number"),
        ("{output: }", "must be a text or a number, not None"),
        ("{output: 5}", "options: output: --output 5: a path is needed"),
        ("{threshold: .nan}", "options: threshold: nan is not a finite number"),
        ("{top: 2.7}", "options: top: 2.7 is not a whole number"),
        ("{mqtt-images: .inf}", "options: mqtt-images: inf is not"),
        ("{on: [[a]]}", "options: on: must be a text or a number, not ['a']"),
    ],
)
def test_an_option_that_does_not_fit_is_named(options: str, words: str, bundle: Path, tmp_path: Path,
                                              sightline: Sightline) -> None:  # fmt: skip
    (tmp_path / "agent.yaml").write_text(f"cameras: {{a: {{source: 'test:'}}}}\noptions: {options}\n")
    done = sightline("run", bundle, "--config", tmp_path / "agent.yaml")
    assert done.returncode == 2 and "agent.yaml" in done.stderr and "Traceback" not in done.stderr
    assert words in done.stderr, done.stderr
