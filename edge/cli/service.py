"""`sightline service`: run the agent as a hardened systemd service."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

import sightline
from edge.cli.run import run
from edge.env_file import read_env_file, world_readable_warning
from edge.hide_passwords import SECRET_OPTIONS, hidden
from edge.system.run_arguments import (
    absolute_files,
    device_of,
    files_of,
    has_ribbon_camera,
    has_source,
    needs_token,
    unencrypted_warnings,
    values_of,
)
from edge.system.systemd_service import check_readable, remove, start, systemctl, write_files
from edge.system.systemd_unit import Unit, check_unit_name
from edge.web.auth import make_token
from sightline.bare_model import read_model
from sightline.device_config import load_device
from sightline.errors import ConfigError
from sightline.option_types import NEW_FOLDER, READ, READ_FILE

UNITS = Path("/etc/systemd/system")
TOKENS = Path("/etc/sightline")  # hashes of the live pages' tokens, one file for each unit

_PASS_UNKNOWN = {"ignore_unknown_options": True}  # the options of `sightline run` that follow `--`
# options of `sightline run` that must not stand in a unit, with the reason
_REFUSED = {
    "--supervise": "systemd restarts the agent. Leave this option out",
    "--env-file": "systemd reads this file. Put the option before the --",
    "--new-page-token": "each start would make another token. Pass --new-token before the --",
}


@dataclass(frozen=True)
class ServiceOptions:
    """The options of `show` and `install`.

    model: bundle or .tflite.
    run_options: options of `sightline run`.
    name: name of the unit. None = the bundle's name.
    user: user that runs the agent. '' = a user that exists only while the agent runs.
    groups: groups whose devices the agent may open.
    env_file: file with passwords. None = no file.
    """

    model: Path
    run_options: tuple[str, ...]
    name: str | None
    user: str
    groups: tuple[str, ...]
    env_file: Path | None


@click.group()
def service() -> None:
    """Run the agent as a hardened systemd service that restarts after a crash or a hang.

    `show` prints the unit, `install` starts it now and at every boot, and `uninstall` removes it.
    """


def _service_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("options", nargs=-1, type=click.UNPROCESSED),
        click.argument("model", type=READ),
        click.option("--env-file", type=READ_FILE, metavar="FILE",
                     help="File with NAME=value lines. They replace ${NAME} in addresses."),
        click.option("--group", "groups", multiple=True, default=("video",), show_default=True, metavar="GROUP",
                     help="Group whose devices the agent may open. Repeatable."),
        click.option("--user", default="", metavar="USER",
                     help="User that runs the agent.  [default: a user that exists only while the agent runs]"),
        click.option("--name", metavar="NAME",
                     help="Name of the unit: sightline-NAME.service.  [default: the bundle's name]"),
    ):  # fmt: skip
        command = option(command)
    return command


@service.command(context_settings=_PASS_UNKNOWN)
@_service_options
def show(
    model: Path, options: tuple[str, ...], name: str | None, user: str, groups: tuple[str, ...], env_file: Path | None
) -> None:
    """Print the systemd unit for MODEL.

    OPTIONS are those of `sightline run` and follow a `--`.
    """
    click.echo(_make_unit(ServiceOptions(model, options, name, user, groups, env_file)).text, nl=False)


@service.command(context_settings=_PASS_UNKNOWN)
@_service_options
@click.option("--root", type=NEW_FOLDER, metavar="FOLDER",
              help="Root folder of a system image. The unit is written into it and not started.")  # fmt: skip
@click.option("--new-token", is_flag=True, help="Replace the token of the live page and print the new one.")
def install(
    model: Path, options: tuple[str, ...], name: str | None, user: str, groups: tuple[str, ...], env_file: Path | None,
    root: Path | None, new_token: bool,
) -> None:  # fmt: skip
    """Write the systemd unit for MODEL, and start it now and at every boot.

    OPTIONS are those of `sightline run` and follow a `--`. If the service's user may not read a file that the agent
    needs, or if the agent does not start, nothing is installed.
    """
    if root is None:
        _need_root("install")
    unit = _make_unit(ServiceOptions(model, options, name, user, groups, env_file))
    path = _unit_path(unit.name, root)
    for warning in [*unencrypted_warnings(options), *([world_readable_warning(env_file)] if env_file else [])]:
        if warning:
            click.echo(f"warning: {warning}", err=True)
    if root is None:
        check_readable(unit)
    files, token = {path: unit.text.encode()}, ""
    token_path = _token_path(unit.name, root)
    if needs_token(options) and (new_token or not token_path.exists()):
        token, document = make_token()
        files[token_path] = document.encode()  # everybody may read it: a hash does not reveal 256 random bits
    if root is None:
        start(unit, path, files)
    else:
        write_files(files)
    click.echo(f"wrote {path}")
    if token:
        click.echo(f"token of the live page, shown only once: {token}")
    if root is None:
        click.echo(f"started {path.name}. Follow its log: journalctl -f -u {path.name}")


@service.command()
@click.argument("name")
@click.option("--root", type=NEW_FOLDER, metavar="FOLDER",
              help="Root folder of a system image. The unit is removed from it and not stopped.")  # fmt: skip
def uninstall(name: str, root: Path | None) -> None:
    """Stop the unit sightline-NAME.service and remove it."""
    path = _unit_path(name, root)
    if not path.exists():
        names = sorted(p.stem.removeprefix("sightline-") for p in path.parent.glob("sightline-*.service"))
        raise ConfigError(f"{path}: no such unit. Installed names: {', '.join(names) or 'none'}")
    if root is None:
        _need_root("uninstall")
        systemctl("disable", "--now", path.name)
    path.unlink()
    remove(_token_path(name, root))
    if root is None:
        systemctl("daemon-reload")
    click.echo(f"removed {path}")


def check_options(model: Path, options: Sequence[str]) -> None:
    """Check the options of `sightline run` for a unit.

    Raises ConfigError for a value that does not fit, and click's UsageError for an option that `run` does not have.
    """
    for option in SECRET_OPTIONS:
        name = f"--{option.replace('_', '-')}"
        if any(hidden(option, value) != value for value in values_of(options, name)):
            raise ConfigError(
                f"{name}: everybody can see a password in a unit's command line. Write ${{NAME}} instead, put the line "
                "NAME=PASSWORD into a file, and pass --env-file FILE"
            )
    names = [option.partition("=")[0] for option in options]
    for name, reason in _REFUSED.items():
        if name in names:
            raise ConfigError(f"{name}: {reason}")
    run.make_context("sightline run", [str(model), *options])


def _make_unit(options: ServiceOptions) -> Unit:
    """Check the options and make the unit. Raises ConfigError, ModelError, and click's UsageError."""
    model, run_options = options.model, options.run_options
    bundle = read_model(model)
    name = check_unit_name(options.name or bundle.manifest.name)
    check_options(model, run_options)
    if not has_source(run_options):
        raise ConfigError("no camera: pass --source or --config of `sightline run` after the --")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*\$?|", options.user):
        raise ConfigError(f"--user {options.user!r}: not a valid user name")
    if options.env_file:
        read_env_file(options.env_file)  # raises for lines that systemd cannot read
    program = shutil.which("sightline", path=str(Path(sys.executable).parent))
    start_command = (str(Path(program).absolute()),) if program else (sys.executable, "-m", "sightline")
    arguments = absolute_files(run_options)
    if needs_token(run_options):
        arguments += ["--page-token-file", str(TOKENS / name)]
    model_files = [model / file for file in ("manifest.json", *bundle.contents)] if model.is_dir() else [model]
    python = Path(sys.executable)
    reads = [Path(start_command[0]), python, python.resolve(), Path(sightline.__file__), *model_files]
    reads += [Path(file) for _, _, file in files_of(arguments)]
    return Unit(
        name=name,
        command=(*start_command, "run", str(model.absolute()), *arguments),
        reads=tuple(path.absolute() for path in reads),
        user=options.user,
        groups=options.groups,
        env_file=options.env_file.absolute() if options.env_file else None,
        edgetpu=load_device(device_of(run_options, bundle))[1].delegate == "edgetpu",
        ribbon=has_ribbon_camera(run_options),
    )


def _unit_path(name: str, root: Path | None) -> Path:
    folder = root / UNITS.relative_to("/") if root else UNITS
    return folder / f"sightline-{check_unit_name(name)}.service"


def _token_path(name: str, root: Path | None) -> Path:
    return (root / TOKENS.relative_to("/") if root else TOKENS) / name


def _need_root(command: str) -> None:
    """Raises ConfigError unless this is root on a machine with systemd."""
    if os.geteuid() != 0:
        raise ConfigError(
            f"root is needed to {command} a service: sudo {sys.executable} -m sightline service {command} .."
        )
    if not Path("/run/systemd/system").is_dir():
        raise ConfigError("systemd does not run here: use `sightline run --supervise`, or --root for a system image")
