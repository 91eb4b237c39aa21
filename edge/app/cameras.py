"""The cameras and replays of a run, opened from its options."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edge.addresses import expand
from edge.capture.capture import NO_MOTION, STREAMING, Capture
from edge.capture.mailbox import Inbox
from edge.capture.sources.base import Source
from edge.capture.sources.factory import make_names_unique, make_source
from edge.capture.sources.recording import Recording
from edge.config import AgentConfig, CameraConfig
from edge.env_file import read_env_file, world_readable_warning
from edge.options import CameraOptions
from sightline.device_config import DeviceConfig
from sightline.errors import ConfigError

_NAME_AND_SOURCE = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Cameras:
    """The captures of a run and the inbox that gives the loop their newest frames.

    max_age_ms: a camera's frame that is older when its turn comes gets no inference; 0 = any age.
    lossless: whether they are replays, which wait for the model.
    recording: the recording that is replayed; None for everything else.
    """

    captures: Sequence[Capture]
    inbox: Inbox
    max_age_ms: float
    lossless: bool
    recording: Recording | None

    @property
    def names(self) -> list[str]:
        return [capture.source.name for capture in self.captures]

    @property
    def problems(self) -> dict[str, str | None]:
        """{camera: why it gives no frames now; None while it does}."""
        return {c.source.name: None if c.state in (STREAMING, NO_MOTION) else c.state.text for c in self.captures}

    @property
    def reconnects(self) -> int:
        return sum(sum(capture.reconnects.values()) for capture in self.captures)

    def start(self) -> None:
        for capture in self.captures:
            capture.start()

    def stop(self) -> None:
        for capture in self.captures:
            capture.stop()


def open_cameras(options: CameraOptions, device: DeviceConfig, environment: Mapping[str, str]) -> Cameras:
    """Nothing is read before `start`. environment: values of `${NAME}`. Raises ConfigError and InputError."""
    config = _configured(options)
    sources = [_source(name, camera, device, environment, options) for name, camera in config.cameras.items()]
    make_names_unique(sources)
    lossless = not sources[0].live
    if len({source.live for source in sources}) > 1:
        raise ConfigError("Cameras and replays cannot run together. With --realtime a clip is a camera.")
    if lossless and (options.max_fps or options.motion):
        raise ConfigError(
            "--max-fps and --motion: only for cameras. A replay runs inference on every frame. --realtime makes a clip "
            "a camera."
        )
    recording = next((source for source in sources if isinstance(source, Recording)), None)
    if recording and len(sources) > 1:
        raise ConfigError(f"{recording.where}: a recording is replayed alone. Remove the other sources.")
    inbox = Inbox([not source.live for source in sources])
    captures = [
        Capture(source, mailbox, camera.capture_options)
        for source, mailbox, camera in zip(sources, inbox.mailboxes, config.cameras.values(), strict=True)
    ]
    return Cameras(captures, inbox, config.max_age_ms, lossless, recording)


def read_environment(env_file: Path | None) -> Mapping[str, str]:
    """Values of `${NAME}` in addresses: the process's environment and the file."""
    if env_file is None:
        return os.environ
    values = read_env_file(env_file)
    if warning := world_readable_warning(env_file):
        click.echo(f"warning: {warning}", err=True)
    return {**os.environ, **values}


def _configured(options: CameraOptions) -> AgentConfig:
    """The cameras of --config, or of each --source. A source without a name gets `#N`: it keeps its own name."""
    if bool(options.source) == bool(options.config):
        raise ConfigError("Pass either --source (once or more) or --config agent.yaml.")
    if options.config:
        if options.max_fps or options.motion:
            raise ConfigError("--max-fps and --motion: not with --config. Set them for each camera in agent.yaml.")
        return options.config
    cameras: dict[str, CameraConfig] = {}
    for i, text in enumerate(options.source):
        match = None if Path(text).exists() else _NAME_AND_SOURCE.fullmatch(text)
        name, source = match.groups() if match else (f"#{i}", text)
        if name in cameras:
            raise ConfigError(f"--source: two cameras have the name {name!r}.")
        cameras[name] = CameraConfig(source, max_fps=options.max_fps, motion=options.motion)
    return AgentConfig(cameras)


def _source(
    name: str, camera: CameraConfig, device: DeviceConfig, environment: Mapping[str, str], options: CameraOptions
) -> Source:
    source = make_source(expand(camera.source, environment), device, realtime=options.realtime, loop=options.loop)
    if not name.startswith("#"):
        source.name = name
    return source
