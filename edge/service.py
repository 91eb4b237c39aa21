"""`sightline service`: the agent as a systemd unit that is watched, restarted for ever, with few rights."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click

import sightline
from edge.access import make_token
from edge.credentials import read_env_file, seen_by_all
from edge.unit import Unit, check_unit_name
from edge.unit_options import (
    absolute_files,
    check_options,
    clear_text,
    device_of,
    files_of,
    has_ribbon_camera,
    has_source,
    needs_token,
)
from sightline.bare import read_model
from sightline.device import load_device
from sightline.errors import ConfigError, DeviceError
from sightline.files import write_file
from sightline.options import NEW_FOLDER, READ, READ_FILE

UNITS = Path("/etc/systemd/system")
TOKENS = Path("/etc/sightline")  # what a page's token is checked with
STATE = Path("/var/lib/sightline")
STEADY_S = 3  # an agent that lives so long after it said that it is ready does not die at once


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
    for warning in [*clear_text(options), *([seen_by_all(unit.env_file)] if unit.env_file else [])]:
        if warning:
            click.echo(f"warning: {warning}", err=True)
    if root is None:
        _check_readable(unit)
    files, token = {path: unit.text.encode()}, ""
    tokens = _tokens(unit.name, root)
    if needs_token(options) and (new_token or not tokens.exists()):
        token, document = make_token()
        files[tokens] = document.encode()  # all may read it: nobody finds 256 random bits by their hash
    if root is None:
        _start(unit, path, files)
    else:
        _write(files)
    click.echo(f"wrote {path}")
    if token:
        click.echo(f"the page's token, shown this once: {token}")
    if root is None:
        click.echo(f"started; it says what it does in: journalctl -f -u {path.name}")


def _check_readable(unit: Unit) -> None:
    """Whether the unit's own user, who sees less than root, may read what it needs. Raises ConfigError."""
    of_user = ("User", "DynamicUser", "SupplementaryGroups", "ProtectHome", "ProtectSystem", "PrivateTmp")
    properties = [f"--property={line}" for line in unit.text.splitlines() if line.partition("=")[0] in of_user]
    look = 'while IFS= read -r f; do [ -r "$f" ] || echo "$f"; done'
    done = subprocess.run(
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *properties, "/bin/sh", "-c", look],
        input="".join(f"{path}\n" for path in unit.reads), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise DeviceError(f"what the service may read cannot be found out: {done.stderr.strip() or done.returncode}")
    unreadable = done.stdout.splitlines()
    if not unreadable:
        return
    path = Path(unreadable[0])
    closed = next((p for p in reversed(path.parents) if not p.stat().st_mode & 0o001), None)
    why = f"{closed} is closed to others" if closed else "it is closed to others"
    if path.parts[1:2] == ("tmp",):
        why = "a unit has a /tmp of its own"
    who = f"the user {unit.user}" if unit.user else "its own user, which exists only while it runs,"
    raise ConfigError(
        f"nothing is installed: {who} may not read {path} ({why}); put Sightline, the model and the files where "
        "everybody may read them, such as below /opt, or name a user who may: --user NAME"
    )


def _write(files: Mapping[Path, bytes | None]) -> None:
    for path, content in files.items():
        if content is None:
            _remove(path)
        else:
            write_file(path, content)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # its folder, unless others are in it
        path.parent.rmdir()


def _start(unit: Unit, path: Path, files: Mapping[Path, bytes]) -> None:
    """Put the files in place, of which `path` is the unit, and see it run; otherwise what was there before is there
    again. Raises ConfigError for what the agent says is bad input, DeviceError for everything else."""
    before = {file: file.read_bytes() if file.exists() else None for file in files}
    had_state, began = (STATE / unit.name).exists(), time.time()
    _write(files)
    _systemctl("daemon-reload")
    _systemctl("enable", path.name)
    _systemctl("stop", path.name)
    try:
        _systemctl("start", path.name)
        for _ in range(STEADY_S):
            time.sleep(1)
            _systemctl("is-active", path.name)
        if _shown(path.name, "NRestarts") != "0":
            raise DeviceError("it has died and was started again")
    except DeviceError as e:
        words, code = _last_words(path.name, began) or str(e), _shown(path.name, "ExecMainStatus")
        _systemctl("stop", path.name)
        if before[path] is None:
            with contextlib.suppress(DeviceError):  # systemd may have forgotten it by now
                _systemctl("reset-failed", path.name)  # one that has failed cannot be cleaned
            if not had_state:
                _systemctl("clean", "--what=state", path.name)
            _systemctl("disable", path.name)
        _write(before)
        _systemctl("daemon-reload")
        went = "nothing is installed"
        if before[path] is not None:
            _systemctl("start", "--no-block", path.name)
            went = "the one before is back"
        text = f"the agent does not start as this service, and {went}: {words}"
        raise (ConfigError(text) if code == "2" else DeviceError(text)) from None


def _last_words(name: str, since: float) -> str:
    """What the agent said at its end. The journal has it a moment later."""
    line = ["journalctl", "--unit", name, "--since", f"@{since:.0f}", "--output", "cat", "--no-pager"]
    lines: list[str] = []
    for _ in range(10):
        lines = subprocess.run(line, capture_output=True, text=True).stdout.strip().splitlines()
        errors = [line.removeprefix("error: ") for line in lines if re.match("(internal )?error:", line)]
        if errors:
            return errors[-1]
        time.sleep(0.3)
    return "\n".join(lines[-5:])


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
        _systemctl("disable", "--now", path.name)
    path.unlink()
    _remove(_tokens(name, root))
    if root is None:
        _systemctl("daemon-reload")
    click.echo(f"removed {path}")


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


def _systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise DeviceError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _shown(name: str, key: str) -> str:
    return _systemctl("show", "--value", "--property", key, name)
