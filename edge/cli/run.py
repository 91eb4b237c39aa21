"""`sightline run`: its options, and what has to come before everything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge.cli.run_options import event_options, file_options, network_options, page_options
from edge.hide_passwords import SECRET_OPTIONS, command_line_warnings
from sightline.child import python
from sightline.errors import ConfigError
from sightline.option_types import NEW_FILE, NEW_FOLDER, READ, READ_FILE, Number, Whole
from sightline.strict_config import near


@click.command()
@click.argument("model", type=READ)
@click.option(
    "--source", multiple=True, metavar="[NAME=]SOURCE",
    help="Read frames from a camera (0, /dev/v4l/by-id/.., picamera), a stream (rtsp://.., http://..), a clip, an "
    "image, a folder of images, or a test pattern (test:). Repeatable.",
)  # fmt: skip
@click.option("--config", type=READ_FILE, help="Read the cameras and options from agent.yaml, in place of --source.")
@click.option("--env-file", type=READ_FILE, help="File of NAME=value lines for ${NAME} in addresses.")
@click.option("--device", help="Device config to run with; see `sightline devices`.  [default: the bundle's]")
@click.option("--scheme", help="Variant of the bundle to run.  [default: the bundle's]")
@click.option(
    "--top", type=Whole(1), help="Maximum number of predictions in a result.  [default: 3 classes, 100 boxes]"
)
@click.option("--threshold", type=Number(0, 1), help="Lowest score in a result. 0 keeps all.  [default: the model's]")
@click.option("--track", is_flag=True, help="Give each detected object a number that it keeps from frame to frame.")
@click.option(
    "--frames", type=Whole(0), default=0, show_default=True, help="Stop after this many frames. 0 never stops."
)
@click.option(
    "--max-fps", type=Number(0, 1000, least=0.001), default=0, show_default=True,
    help="Run inference on at most this many frames per second of each camera. 0 has no limit.",
)  # fmt: skip
@click.option(
    "--motion", type=Number(0, 100), default=0, show_default=True, metavar="PERCENT",
    help="Run inference only when at least this percentage of pixels changed. 0 runs it on every frame.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON lines in place of text.")
@file_options
@event_options
@network_options
@page_options
@click.option(
    "--realtime", is_flag=True, help="Play a clip at its own speed, as a camera would. Frames may be dropped."
)
@click.option("--loop", is_flag=True, help="Start a clip again at its end.")
@click.option("--record", type=NEW_FOLDER, help="Record frames and results in this folder; --source replays it.")
@click.option(
    "--supervise", is_flag=True, help="Restart the agent if it hangs or crashes. Prefer systemd where available."
)
@click.option("--summary", type=NEW_FILE, help="Write the closing figures to this file as JSON.")
@click.pass_context
def run(context: click.Context, /, **parameters: Any) -> None:
    """Run a bundle on a camera, a clip or images, and stream the results.

    A clip or a folder of images is a replay: inference runs on every frame, and the same frames give the same
    results. For cameras the newest frame wins, and dropped frames are counted. Ctrl-C ends the run; the closing
    figures go to stderr.
    """
    if parameters.pop("supervise"):
        _supervise()
    addresses = {option: parameters[option] or () for option in SECRET_OPTIONS}
    for warning in command_line_warnings({o: [v] if isinstance(v, str) else v for o, v in addresses.items()}):
        click.echo(f"warning: {warning}", err=True)
    path: Path | None = parameters["config"]
    if path:
        from edge.config import read_agent_config

        parameters["config"] = config = read_agent_config(path)
        parameters |= _from_file(context, config.options, path)
    from edge.app.run import run_agent
    from edge.options import RunOptions, from_parameters

    run_agent(from_parameters(RunOptions, parameters))


def _supervise() -> None:
    """Becomes the supervisor, a small process of its own, which starts this command again without --supervise."""
    if os.environ.get("NOTIFY_SOCKET"):
        raise ConfigError("--supervise: this process is supervised already, by systemd or by another --supervise.")
    arguments = [argument for argument in sys.argv[1:] if argument != "--supervise"]
    os.execv(sys.executable, python("edge.system.supervisor", *arguments))


# options of one run, and those that must be known before the file is read
_COMMAND_LINE_ONLY = {
    "source", "config", "env_file", "device", "scheme", "frames", "max_fps", "motion", "as_json", "realtime", "loop",
    "record", "supervise", "summary", "new_page_token",
}  # fmt: skip


def _from_file(context: click.Context, settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """agent.yaml's options as click would have read them. Raises ConfigError, which names the file and the key."""
    options = {p.opts[0].removeprefix("--"): p for p in context.command.params if isinstance(p, click.Option)}
    allowed = {key: p for key, p in options.items() if p.name not in _COMMAND_LINE_ONLY}
    values: dict[str, Any] = {}
    for key, value in settings.items():
        where, option = f"{path}: options: {key}", allowed.get(key)
        if option is None or option.name is None:
            hint = ": it belongs on the command line" if key in options else near(key, allowed)
            raise ConfigError(f"{where}: no such option{hint}")
        if context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise ConfigError(f"{where}: also on the command line. Remove one of the two.")
        if problem := _type_problem(option, value):
            raise ConfigError(f"{where}: {problem}")
        try:
            values[option.name] = option.type_cast_value(context, value)
        except (click.BadParameter, ConfigError) as e:
            raise ConfigError(f"{where}: {getattr(e, 'message', e)}") from None
    return values


def _type_problem(option: click.Option, value: object) -> str | None:
    """Why a value of a YAML file cannot be one of the option; None where it can."""
    if option.is_flag:
        return None if isinstance(value, bool) else f"must be true or false, not {value!r}"
    if option.multiple and not isinstance(value, list):
        return f"must be a list, not {value!r}"
    if isinstance(value, list) and not option.multiple:
        return f"must be one value, not the list {value!r}"
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            return f"must be a text or a number, not {one!r}"
    return None
