"""A device is data: a flat YAML file states how to quantize for it and how to run on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sightline.documents import shortened
from sightline.errors import ConfigError
from sightline.strict_config import near, read_record
from sightline.yaml_reader import read_yaml

Scheme = Literal["float32", "float16", "dynamic_int8", "static_int8", "static_int8_float_io"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

FOLDER = Path(__file__).resolve().parent.parent / "device_configs"


@dataclass(frozen=True)
class DeviceConfig:
    """One device. `convert` reads the first group of fields, `run` the second.

    title: name for people.
    scheme: quantization that `convert` uses by default.
    fully_connected: granularity of the weights' scales in fully-connected layers.
    max_model_kib: size of the largest .tflite that `convert` accepts, in KiB; 0 = no limit.

    runner: what runs the model; `sightline run` is `agent`.
    threads: of the interpreter.
    delegate: what executes the graph.
    camera_width, camera_height, camera_fps: requested from a camera, in pixels and frames per second.
    latency_budget_ms: from capture to prediction; the summary counts the frames that took longer.
    page_fps: frames per second of the live page's image.
    page_width: width of the live page's image in pixels.
    """

    title: str
    scheme: Scheme
    fully_connected: Literal["per_channel", "per_tensor"]
    max_model_kib: int

    runner: Literal["agent", "browser", "android"]
    threads: int
    delegate: Literal["xnnpack", "none", "edgetpu"]
    camera_width: int
    camera_height: int
    camera_fps: int
    latency_budget_ms: int
    page_fps: int
    page_width: int

    def __post_init__(self) -> None:
        for key, limit in _MAX.items():
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, not {getattr(self, key)}")
            if getattr(self, key) > limit:
                raise ValueError(f"{key} must be at most {limit}, not {getattr(self, key)}")
        if self.max_model_kib < 0 or not 64 <= self.page_width <= 8192:
            raise ValueError("max_model_kib must be at least 0 and page_width at least 64 and at most 8192")


_MAX = {"threads": 64, "camera_width": 16384, "camera_height": 16384, "camera_fps": 1000, "page_fps": 1000,
         "latency_budget_ms": 3_600_000}  # fmt: skip


def device_names() -> list[str]:
    """Names of the devices that Sightline ships, sorted."""
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:  # reading it will report the reason
        return True
    return True


def load_device(name_or_path: str) -> tuple[str, DeviceConfig]:
    """(name, config) of a device that Sightline ships, or of a .yaml file.

    Raises ConfigError for an unknown device, with near matches, and for an unknown key, with the valid keys.
    """
    known = device_names()
    own = name_or_path.endswith((".yaml", ".yml")) and _may_exist(Path(name_or_path))
    if not own and name_or_path not in known:
        raise ConfigError(
            f"unknown device {shortened(name_or_path)!r}{near(name_or_path[:100], known)}; the devices are: "
            f"{', '.join(known)}, or the path of your own .yaml"
        )
    path = Path(name_or_path) if own else FOLDER / f"{name_or_path}.yaml"
    return path.stem, read_record(DeviceConfig, read_yaml(path, ConfigError), str(path), ConfigError)
