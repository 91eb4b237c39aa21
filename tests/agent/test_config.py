"""agent.yaml: read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.capture import Watch
from edge.config import read_agent_config
from sightline.errors import ConfigError


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
    assert config.cameras["door"].watch == Watch(max_fps=5, motion=0.5, frozen_s=0)
    assert config.cameras["line"].source == "0"
    assert config.cameras["line"].watch == Watch()


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
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert words in str(raised.value) and "agent.yaml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_agent_config(tmp_path / "agent.yaml")
