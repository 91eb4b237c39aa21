"""`sightline service`: the agent as a systemd unit that is watched, restarted for ever, with few rights."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

import sightline
from edge.cli.run import run
from edge.credentials import SECRET_OPTIONS, hidden
from edge.env_file import read_env_file, world_readable_warning
from edge.system.run_arguments import (
    absolute_files,
    clear_text,
    device_of,
    files_of,
    has_ribbon_camera,
    has_source,
    needs_token,
    values_of,
)
from edge.system.systemd_service import check_readable, remove, start, systemctl, write_files
from edge.system.systemd_unit import Unit, check_unit_name
from edge.web.auth import make_token
from sightline.bare_model import read_model
from sightline.device import load_device
from sightline.errors import ConfigError
from sightline.options import NEW_FOLDER, READ, READ_FILE

UNITS = Path("/etc/systemd/system")
TOKENS = Path("/etc/sightline")  # what a page's token is checked with


@click.group()
def service() -> None:
    """Run the agent as a systemd service: watched, restarted, hardened."""


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.argument("options", nargs=-1, type=click.UNPROCESSED),
        click.argument("model", type=READ),
        click.option("--name", help="Of the unit: sightline-NAME.  [default: the bundle's name]"),
        click.option("--user", default="", help="Who runs it.  [default: a user that exists only while it runs]"),
        click.option("--group", "groups", multiple=True, default=("video",), show_default=True, help="More groups."),
        click.option(
            "--env-file",
            type=READ_FILE,
            help="NAME=value lines, for ${NAME} in addresses.",
        ),
    ):
        command = option(command)
    return command


_EVERYTHING = {"ignore_unknown_options": True}


@service.command(context_settings=_EVERYTHING)
@_shared
def show(model: Path, options: tuple[str, ...], **o: object) -> None:
    """Print the unit for MODEL; OPTIONS are those of `sightline run`."""
    click.echo(_unit(model, options, **o).text, nl=False)


@service.command(context_settings=_EVERYTHING)
@click.option("--root", type=NEW_FOLDER, help="Write into this system's image, and start nothing.")
@click.option("--new-token", is_flag=True, help="Of the live page, in place of the one that is there.")
@_shared
def install(model: Path, options: tuple[str, ...], root: Path | None, new_token: bool, **o: object) -> None:
    """Write the unit for MODEL, and start it now and at every boot. OPTIONS are those of `sightline run`.

    When its own user may not read what it needs, or it does not start, nothing is installed."""
    if root is None:
        _need_root("install")
    unit = _unit(model, options, **o)
    path = _path(unit.name, root)
    for warning in [*clear_text(options), *([world_readable_warning(unit.env_file)] if unit.env_file else [])]:
        if warning:
            click.echo(f"warning: {warning}", err=True)
    if root is None:
        check_readable(unit)
    files, token = {path: unit.text.encode()}, ""
    tokens = _tokens(unit.name, root)
    if needs_token(options) and (new_token or not tokens.exists()):
        token, document = make_token()
        files[tokens] = document.encode()  # all may read it: nobody finds 256 random bits by their hash
    if root is None:
        start(unit, path, files)
    else:
        write_files(files)
    click.echo(f"wrote {path}")
    if token:
        click.echo(f"the page's token, shown this once: {token}")
    if root is None:
        click.echo(f"started; it says what it does in: journalctl -f -u {path.name}")


@service.command()
@click.argument("name")
@click.option("--root", type=NEW_FOLDER, help="Of a system's image.")
def uninstall(name: str, root: Path | None) -> None:
    """Stop the unit sightline-NAME and remove it."""
    path = _path(name, root)
    if not path.exists():
        found = sorted(p.stem.removeprefix("sightline-") for p in path.parent.glob("sightline-*.service"))
        raise ConfigError(f"{path}: no such unit; there are: {', '.join(found) or 'none'}")
    if root is None:
        _need_root("uninstall")
        systemctl("disable", "--now", path.name)
    path.unlink()
    remove(_tokens(name, root))
    if root is None:
        systemctl("daemon-reload")
    click.echo(f"removed {path}")


def check_options(model: Path, options: Sequence[str]) -> None:
    """Of `sightline run`, in a unit. Raises ConfigError, and click's UsageError for what is no option of it."""
    for option in SECRET_OPTIONS:
        name = f"--{option.replace('_', '-')}"
        if any(hidden(option, value) != value for value in values_of(options, name)):
            raise ConfigError(
                f"{name}: a password in a unit's command line is seen by all; write ${{NAME}} for it, "
                "and a line NAME=.. into a file for --env-file"
            )
    names = [option.partition("=")[0] for option in options]
    for name, instead in (
        ("--supervise", "systemd does that; leave it out"),
        ("--env-file", "it stands before the --, and systemd reads it"),
        ("--new-page-token", "each start would make another; --new-token before the -- makes one"),
    ):
        if name in names:
            raise ConfigError(f"{name}: {instead}")
    run.make_context("sightline run", [str(model), *options])  # that it would take them


def _unit(model: Path, options: tuple[str, ...], **o: object) -> Unit:
    bundle = read_model(model)
    name = check_unit_name(str(o["name"] or bundle.manifest.name))
    check_options(model, options)
    if not has_source(options):
        raise ConfigError("a --source or a --config is needed, as for `sightline run`")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*\$?|", str(o["user"])):
        raise ConfigError(f"--user {o['user']!r}: not the name of a user")
    env_file = o["env_file"]
    if isinstance(env_file, Path):
        read_env_file(env_file)  # that systemd can, too
    installed = shutil.which("sightline", path=str(Path(sys.executable).parent))
    start = (str(Path(installed).absolute()),) if installed else (sys.executable, "-m", "sightline")
    placed = absolute_files(options)
    if needs_token(options):
        placed += ["--page-token-file", str(TOKENS / name)]
    contents = [model / file for file in ("manifest.json", *bundle.contents)] if model.is_dir() else [model]
    python = Path(sys.executable)
    reads = [Path(start[0]), python, python.resolve(), Path(sightline.__file__), *contents]
    reads += [Path(value) for _, _, value in files_of(placed)]
    return Unit(
        name=name,
        command=(*start, "run", str(model.absolute()), *placed),
        reads=tuple(path.absolute() for path in reads),
        user=str(o["user"]),
        groups=tuple(o["groups"]),  # type: ignore[arg-type]
        env_file=env_file.absolute() if isinstance(env_file, Path) else None,
        edgetpu=load_device(device_of(options, bundle))[1].delegate == "edgetpu",
        ribbon=has_ribbon_camera(options),
    )


def _path(name: str, root: Path | None) -> Path:
    folder = root / UNITS.relative_to("/") if root else UNITS
    return folder / f"sightline-{check_unit_name(name)}.service"


def _tokens(name: str, root: Path | None) -> Path:
    return (root / TOKENS.relative_to("/") if root else TOKENS) / name


def _need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise ConfigError(f"only root may {what} a service: sudo {sys.executable} -m sightline service {what} ..")
    if not Path("/run/systemd/system").is_dir():
        raise ConfigError("systemd does not run here: use `sightline run --supervise`, or --root for an image")
