"""agent.yaml: several cameras for one model, each with its own options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.capture.options import CaptureOptions
from sightline.errors import ConfigError
from sightline.strict_config import near, read_record
from sightline.yaml_reader import read_yaml


@dataclass(frozen=True)
class CameraConfig:
    """One camera of agent.yaml.

    source: as for `--source`.
    max_fps, motion, frozen_s: see `CaptureOptions`.
    """

    source: str
    max_fps: float = 0.0
    motion: float = 0.0
    frozen_s: float = 10.0

    def __post_init__(self) -> None:
        for key in ("max_fps", "frozen_s"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} must be at least 0, not {getattr(self, key):g}")
        if 0 < self.max_fps < 0.001:
            raise ValueError(f"max_fps must be 0 or at least 0.001, not {self.max_fps:g}")
        if not 0 <= self.motion <= 100:
            raise ValueError(f"motion is a percentage of the pixels, 0 to 100, not {self.motion:g}")

    @property
    def capture_options(self) -> CaptureOptions:
        return CaptureOptions(self.max_fps, self.motion, self.frozen_s)


@dataclass(frozen=True)
class AgentConfig:
    """The content of agent.yaml.

    cameras: cameras by name.
    max_age_ms: a camera's frame older than this when its turn comes gets no inference; 0 = no limit.
    options: options of `sightline run`, by their names without the dashes.
    """

    cameras: dict[str, CameraConfig]
    max_age_ms: float = 1000.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_age_ms < 0:
            raise ValueError(f"max_age_ms must be at least 0, not {self.max_age_ms:g}: 0 = no limit")


def read_agent_config(path: Path) -> AgentConfig:
    """Read agent.yaml. Raises ConfigError, which names the file, the camera and the key."""
    data = read_yaml(path, ConfigError)
    if not isinstance(data, Mapping) or not isinstance(data.get("cameras"), Mapping) or not data["cameras"]:
        raise ConfigError(f"{path}: needs `cameras:`, a mapping of names to cameras, each with its `source:`")
    known = list(AgentConfig.__dataclass_fields__)
    for key in data:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}{near(str(key), known)}; the keys are: {', '.join(known)}")
    cameras = {str(name): _camera(camera, f"{path}: camera {name}") for name, camera in data["cameras"].items()}
    record: dict[str, Any] = {**data, "cameras": cameras}
    if isinstance(options := data.get("options"), Mapping):
        if True in options and "on" in options:
            raise ConfigError(f"{path}: options: duplicate key 'on'")
        # YAML 1.1 reads the key `on` as true
        record["options"] = {"on" if key is True else str(key): value for key, value in options.items()}
    return read_record(AgentConfig, record, str(path), ConfigError)


def _camera(data: object, where: str) -> CameraConfig:
    if isinstance(data, Mapping) and type(data.get("source")) is int:  # `source: 0` is the first camera
        data = {**data, "source": str(data["source"])}
    return read_record(CameraConfig, data, where, ConfigError)
