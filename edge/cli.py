"""`sightline run`: its options, and what has to come before everything else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from edge.credentials import hide_arguments, shows_credentials
from edge.options import output_options, page_options
from sightline.errors import ConfigError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--source",
    multiple=True,
    help="0, /dev/v4l/by-id/.., picamera, rtsp://.., http://.., a clip, a picture, a folder, test:; or NAME=one.",
)
@click.option(
    "--config", type=click.Path(path_type=Path), help="agent.yaml, with several cameras, instead of --source."
)
@click.option("--env-file", type=click.Path(path_type=Path), help="NAME=value lines, for ${NAME} in addresses.")
@click.option("--device", help="How to run; see `sightline devices`.  [default: the bundle's]")
@click.option("--scheme", help="Variant of the bundle.  [default: the bundle's]")
@click.option("--top", type=click.IntRange(1), help="Of a result, at most.  [default: 3 classes, 100 boxes]")
@click.option("--threshold", type=click.FloatRange(0, 1), help="Lowest score; 0 = all.  [default: the model's]")
@click.option("--track", is_flag=True, help="Follow a detector's boxes: the same thing keeps its number.")
@click.option("--frames", type=click.IntRange(0), default=0, show_default=True, help="Stop after so many; 0 = never.")
@click.option(
    "--max-fps", type=click.FloatRange(0), default=0, show_default=True, help="Of a camera; 0 = all it gives."
)
@click.option("--motion", type=click.FloatRange(0, 100), default=0, show_default=True,
              help="Look only when so many percent of a camera's pixels changed; 0 = always.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Results on stdout as JSON lines, instead of text.")
@output_options
@page_options
@click.option("--realtime", is_flag=True, help="Play a clip at its own speed, as a camera would; may drop frames.")
@click.option("--loop", is_flag=True, help="Begin a clip again at its end.")
@click.option("--record", type=click.Path(path_type=Path), help="Folder for frames and results; --source replays it.")
@click.option("--supervise", is_flag=True, help="Start it anew when it is stuck or has died; systemd does it better.")
@click.option("--summary", type=click.Path(path_type=Path), help="File for the closing figures, as JSON.")
def run(model: Path, source: tuple[str, ...], device: str | None, scheme: str | None, as_json: bool, **o: Any) -> None:
    """Run a bundle on a camera, a clip or pictures, and stream what it sees.

    A clip or pictures are a replay: every frame is looked at, and the same ones give the same answers. A camera's
    newest frame wins, and what is dropped is counted. Ctrl-C ends it; the figures go to stderr.
    """
    if o["supervise"]:
        if any(map(shows_credentials, [*source, o["mqtt"] or "", o["webhook"] or ""])):
            raise ConfigError("--supervise: a password on the command line cannot be hidden; put it into --env-file")
        if os.environ.get("NOTIFY_SOCKET"):
            raise ConfigError("--supervise: somebody watches this process already (systemd, or another --supervise)")
        arguments = [a for a in sys.argv[1:] if a != "--supervise"]
        os.execv(sys.executable, [sys.executable, "-m", "edge.supervise", *arguments])  # a small process of its own
    *given, mqtt, webhook = hide_arguments([*source, o["mqtt"] or "", o["webhook"] or ""])  # may start it again
    source, o = tuple(given), {**o, "mqtt": mqtt, "webhook": webhook}
    from edge.run import run_agent

    run_agent(model, source, device, scheme, as_json, o)
