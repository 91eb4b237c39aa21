"""`sightline run`: its options, and what has to come before everything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge.cli.run_options import output_options, page_options
from edge.credentials import hidden, hide_arguments
from sightline.child import python
from sightline.errors import ConfigError
from sightline.options import NEW_FILE, NEW_FOLDER, READ, READ_FILE, Number, Whole
from sightline.strict_config import near


@click.command()
@click.argument("model", type=READ)
@click.option(
    "--source",
    multiple=True,
    help="0, /dev/v4l/by-id/.., picamera, rtsp://.., http://.., a clip, a picture, a folder, test:; or NAME=one.",
)
@click.option("--config", type=READ_FILE, help="agent.yaml, with several cameras, instead of --source.")
@click.option("--env-file", type=READ_FILE, help="NAME=value lines, for ${NAME} in addresses.")
@click.option("--device", help="How to run; see `sightline devices`.  [default: the bundle's]")
@click.option("--scheme", help="Variant of the bundle.  [default: the bundle's]")
@click.option("--top", type=Whole(1), help="Of a result, at most.  [default: 3 classes, 100 boxes]")
@click.option("--threshold", type=Number(0, 1), help="Lowest score; 0 = all.  [default: the model's]")
@click.option("--track", is_flag=True, help="Follow a detector's boxes: the same thing keeps its number.")
@click.option("--frames", type=Whole(0), default=0, show_default=True, help="Stop after so many; 0 = never.")
@click.option(
    "--max-fps", type=Number(0, 1000, least=0.001), default=0, show_default=True, help="Of a camera; 0 = all it gives."
)
@click.option("--motion", type=Number(0, 100), default=0, show_default=True,
              help="Look only when so many percent of a camera's pixels changed; 0 = always.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Results on stdout as JSON lines, instead of text.")
@output_options
@page_options
@click.option("--realtime", is_flag=True, help="Play a clip at its own speed, as a camera would; may drop frames.")
@click.option("--loop", is_flag=True, help="Begin a clip again at its end.")
@click.option("--record", type=NEW_FOLDER, help="Folder for frames and results; --source replays it.")
@click.option("--supervise", is_flag=True, help="Start it anew when it is stuck or has died; systemd does it better.")
@click.option("--summary", type=NEW_FILE, help="File for the closing figures, as JSON.")
@click.pass_context
def run(
    context: click.Context,
    /,
    model: Path,
    source: tuple[str, ...],
    device: str | None,
    scheme: str | None,
    as_json: bool,
    **o: Any,
) -> None:
    """Run a bundle on a camera, a clip or pictures, and stream what it sees.

    A clip or pictures are a replay: every frame is looked at, and the same ones give the same answers. A camera's
    newest frame wins, and what is dropped is counted. Ctrl-C ends it; the figures go to stderr.
    """
    given: Mapping[str, Sequence[str]] = {
        "source": source, "mqtt": [o["mqtt"] or ""], "webhook": [o["webhook"] or ""],
        "webhook_header": o["webhook_header"],
    }  # fmt: skip
    if o["supervise"]:
        if any(hidden(option, value) != value for option, values in given.items() for value in values):
            raise ConfigError("--supervise: a password on the command line cannot be hidden; put it into --env-file")
        if os.environ.get("NOTIFY_SOCKET"):
            raise ConfigError("--supervise: somebody watches this process already (systemd, or another --supervise)")
        arguments = [a for a in sys.argv[1:] if a != "--supervise"]
        os.execv(sys.executable, python("edge.system.supervisor", *arguments))  # a small process of its own
    given = hide_arguments(given)  # may start it again
    source, o["webhook_header"] = tuple(given["source"]), tuple(given["webhook_header"])
    (o["mqtt"],), (o["webhook"],) = given["mqtt"], given["webhook"]
    if o["config"]:
        from edge.config import read_agent_config

        path, o["config"] = o["config"], read_agent_config(o["config"])
        o |= _from_file(context, o["config"].options, path)
    from edge.app import run_agent

    run_agent(model, source, device, scheme, as_json, o)


# what is for one run, or must be known before the file is read
_LINE_ONLY = {"source", "config", "env_file", "device", "scheme", "frames", "max_fps", "motion", "as_json", "realtime",
              "loop", "record", "supervise", "summary", "new_page_token"}  # fmt: skip


def _from_file(context: click.Context, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """agent.yaml's options as click would have read them. Raises ConfigError, which names the file and the key."""
    options = {p.opts[0].removeprefix("--"): p for p in context.command.params if isinstance(p, click.Option)}
    known = {key: p for key, p in options.items() if p.name not in _LINE_ONLY}
    values: dict[str, Any] = {}
    for key, value in given.items():
        where, option = f"{path}: options: {key}", known.get(key)
        if option is None or option.name is None:
            hint = ": it belongs on the command line" if key in options else near(key, known)
            raise ConfigError(f"{where}: no such option{hint}")
        if context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"{where}: stands on the command line as well")
        if option.is_flag != isinstance(value, bool) or value is None or isinstance(value, dict):
            raise ConfigError(f"{where}: {'true or false is needed' if option.is_flag else f'{value!r} does not fit'}")
        if isinstance(value, list) != option.multiple:
            raise ConfigError(f"{where}: {'a list is needed' if option.multiple else 'one value is needed, no list'}")
        if not all(isinstance(v, str | int | float) for v in (value if isinstance(value, list) else [value])):
            raise ConfigError(f"{where}: a list of texts is needed")
        try:
            values[option.name] = option.type_cast_value(context, value)
        except (click.BadParameter, ConfigError) as e:
            raise ConfigError(f"{where}: {getattr(e, 'message', e)}") from None
    return values
