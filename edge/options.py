"""The options of `sightline run`, one frozen dataclass a group. A field is named as its option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from edge.config import AgentConfig

Options = TypeVar("Options")
SendMode = Literal["results", "changes", "events"]


@dataclass(frozen=True)
class ModelOptions:
    """Which model runs, and how.

    model: a bundle, or a bare .tflite.
    device: name of a device config; None = the bundle's.
    scheme: variant of the bundle; None = the bundle's default.
    """

    model: Path
    device: str | None
    scheme: str | None


@dataclass(frozen=True)
class CameraOptions:
    """Where frames come from.

    source: values of --source, each `NAME=SOURCE` or `SOURCE`.
    config: agent.yaml, in place of `source`; None without one.
    env_file: NAME=value lines for `${NAME}` in addresses; None without one.
    max_fps: frames a second of each camera at most; 0 = all.
    motion: percent of the pixels that must change before inference; 0 = every frame.
    realtime: play clips at their own speed, as a camera.
    loop: start a clip again at its end.
    """

    source: tuple[str, ...]
    config: AgentConfig | None
    env_file: Path | None
    max_fps: float
    motion: float
    realtime: bool
    loop: bool


@dataclass(frozen=True)
class PredictionOptions:
    """What results hold.

    top: most predictions of a result; None = 3 classes or 100 boxes.
    threshold: lowest score; None = the model's.
    track: whether boxes keep a number from frame to frame.
    frames: results with inference after which the run ends; 0 = no end.
    """

    top: int | None
    threshold: float | None
    track: bool
    frames: int


@dataclass(frozen=True)
class FileOptions:
    """The file of JSON lines. output: its path; None = no file. The rest: see `edge.outputs.file_sinks.Rotation`."""

    output: Path | None
    rotate_mb: int | None
    rotate_days: int
    rotate_keep: int


@dataclass(frozen=True)
class EventOptions:
    """What an event is. rules, zones, lines: as typed. snapshots: folder for images of events; None = no images.
    snapshots_mb: most megabytes in it."""

    rules: tuple[str, ...]
    zones: tuple[str, ...]
    lines: tuple[str, ...]
    snapshots: Path | None
    snapshots_mb: int


@dataclass(frozen=True)
class BrokerOptions:
    """The MQTT broker. mqtt: its address; None = no broker. mqtt_images: seconds between two images of a camera; 0 =
    no images."""

    mqtt: str | None
    mqtt_ca: Path | None
    mqtt_cert: Path | None
    mqtt_key: Path | None
    mqtt_prefix: str
    mqtt_images: float


@dataclass(frozen=True)
class WebhookOptions:
    """The receiver of POST requests. webhook: its address; None = no receiver. webhook_header: `Name: value` lines."""

    webhook: str | None
    webhook_header: tuple[str, ...]


@dataclass(frozen=True)
class OutputOptions:
    """Where results go.

    send: what goes to the outputs; None = the default of each.
    name: of this agent, in topics; None = the host's name.
    outbox: file of the messages that wait; None = in the state directory.
    outbox_mb: most megabytes of waiting messages of each output.
    """

    file: FileOptions
    events: EventOptions
    mqtt: BrokerOptions
    webhook: WebhookOptions
    send: SendMode | None
    name: str | None
    outbox: Path | None
    outbox_mb: int

    @property
    def has_events(self) -> bool:
        """Whether any option says what an event is."""
        return bool(self.events.rules or self.events.zones or self.events.lines)

    @property
    def has_outputs(self) -> bool:
        """Whether results go anywhere but to stdout and the page."""
        return bool(self.file.output or self.mqtt.mqtt or self.webhook.webhook)


@dataclass(frozen=True)
class PageOptions:
    """The live page. page_port: None = 8480, or any free port if that is taken; 0 = any free port."""

    page: bool
    page_port: int | None
    page_address: str
    page_host: tuple[str, ...]
    page_cert: Path | None
    page_key: Path | None
    page_token_file: Path | None
    new_page_token: bool


@dataclass(frozen=True)
class RunOptions:
    """All of them.

    as_json: results on stdout as JSON lines, in place of text.
    record: folder for a recording; None = no recording.
    summary: file for the closing figures; None = no file.
    """

    model: ModelOptions
    cameras: CameraOptions
    predictions: PredictionOptions
    outputs: OutputOptions
    page: PageOptions
    as_json: bool
    record: Path | None
    summary: Path | None


def from_parameters(group: type[Options], parameters: Mapping[str, Any]) -> Options:
    """A group of options, nested groups included, from {option: value} of all options. Others are ignored."""
    types = get_type_hints(group)
    assert is_dataclass(group)
    values = {
        field.name: from_parameters(types[field.name], parameters)
        if is_dataclass(types[field.name])
        else parameters[field.name]
        for field in fields(group)
    }
    return group(**values)
