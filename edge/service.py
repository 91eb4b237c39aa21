"""`sightline service`: the agent as a systemd unit that is watched, restarted for ever, with few rights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from edge.config import read_agent_config
from edge.credentials import shows_credentials
from edge.watchdog import MINIMUM_S
from sightline.bare import read_model
from sightline.bundle import Bundle
from sightline.device import load_device
from sightline.errors import ConfigError, DeviceError
from sightline.files import write_file
from sightline.options import NEW_FOLDER, READ, READ_FILE

UNITS = Path("/etc/systemd/system")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
# where a person's own files are, which the unit may read and not write
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class Unit:
    """What a unit is written from. command: absolute program and its arguments. bundle: absolute. user: '' = one that
    exists only while it runs. groups: that may open cameras and accelerators. env_file: with passwords, read by systemd
    before the user changes; None = none. edgetpu: whether it needs a Coral. ribbon: or a Raspberry Pi's own camera."""

    name: str
    command: tuple[str, ...]
    bundle: Path
    user: str = ""
    groups: tuple[str, ...] = ("video",)
    env_file: Path | None = None
    edgetpu: bool = False
    ribbon: bool = False

    @property
    def text(self) -> str:
        """The unit file."""
        home = any(str(self.bundle).startswith(f"{h}/") for h in _HOMES)
        devices = ["char-video4linux rw", "char-media rw"]
        if self.edgetpu:
            devices += ["char-usb_device rw", "/dev/apex_0 rw"]
        if self.ribbon:
            devices += ["char-dma_heap rw"]
        lines = [
            "[Unit]",
            f"Description=Sightline {self.name.replace('%', '%%')}",
            "Documentation=man:systemd.exec(5)",
            "Wants=network-online.target",
            "After=network-online.target",
            "# it comes back for ever, however often it has died in a row",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=notify",
            f"ExecStart={' '.join(map(escape, self.command))}",
            *([f"EnvironmentFile={str(self.env_file).replace('%', '%%')}"] if self.env_file else []),
            "Environment=PYTHONUNBUFFERED=1",
            "Restart=always",
            "RestartSec=100ms",
            "# pinged by the loop's progress alone; the agent asks for more time when its model is slow",
            f"WatchdogSec={MINIMUM_S:g}",
            "WatchdogSignal=SIGABRT",
            "TimeoutStartSec=120",
            "TimeoutAbortSec=1",
            "TimeoutStopSec=15",
            "LimitCORE=0",
            "",
            "# it reads cameras and the network, and writes its own state",
            *([f"User={self.user}"] if self.user else ["DynamicUser=yes"]),
            f"SupplementaryGroups={' '.join(self.groups)}",
            f"StateDirectory=sightline/{self.name}",
            f"WorkingDirectory=%S/sightline/{self.name}",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            f"ProtectHome={'read-only' if home else 'yes'}",
            "PrivateTmp=yes",
            "DevicePolicy=closed",
            *(f"DeviceAllow={device}" for device in devices),
            "ProtectKernelTunables=yes",
            "ProtectKernelModules=yes",
            "ProtectKernelLogs=yes",
            "ProtectControlGroups=yes",
            "ProtectClock=yes",
            "ProtectHostname=yes",
            "ProtectProc=invisible",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
            "RestrictNamespaces=yes",
            "RestrictRealtime=yes",
            "RestrictSUIDSGID=yes",
            "LockPersonality=yes",
            "MemoryDenyWriteExecute=yes",
            "RemoveIPC=yes",
            "UMask=0077",
            "CapabilityBoundingSet=",
            "AmbientCapabilities=",
            "SystemCallArchitectures=native",
            "SystemCallFilter=@system-service",
            "SystemCallFilter=~@privileged @resources",
            "SystemCallFilter=sched_setaffinity sched_setscheduler setpriority",
            "SystemCallErrorNumber=EPERM",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        ]
        return "\n".join(lines) + "\n"


def escape(argument: str) -> str:
    """One word of ExecStart: systemd takes backslashes, quotes, %x and $x for its own."""
    if not argument.isprintable():
        raise ConfigError(f"{argument!r}: a unit cannot have this in its command line")
    argument = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{argument}"' if not argument or re.search(r"[\s'\";]", argument) else argument


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
@_shared
def install(model: Path, options: tuple[str, ...], root: Path | None, **o: object) -> None:
    """Write the unit for MODEL, and start it now and at every boot. OPTIONS are those of `sightline run`."""
    unit = _unit(model, options, **o)
    path = _path(unit.name, root)
    if root is None:
        _need_root("install")
    write_file(path, unit.text.encode())
    click.echo(f"wrote {path}")
    if root is None:
        _systemctl("daemon-reload")
        _systemctl("enable", path.name)
        _systemctl("restart", path.name)
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
        _systemctl("disable", "--now", path.name)
    path.unlink()
    if root is None:
        _systemctl("daemon-reload")
    click.echo(f"removed {path}")


def _unit(model: Path, options: tuple[str, ...], **o: object) -> Unit:
    bundle = read_model(model)
    name = str(o["name"] or bundle.manifest.name)
    text = list(options)
    if not has_source(text):
        raise ConfigError("a --source or a --config is needed, as for `sightline run`")
    check_options(text)
    if not re.fullmatch(r"[a-z_][a-z0-9_-]*\$?|", str(o["user"])):
        raise ConfigError(f"--user {o['user']!r}: not the name of a user")
    env_file = o["env_file"]
    installed = shutil.which("sightline", path=str(Path(sys.executable).parent))
    start = (str(Path(installed).absolute()),) if installed else (sys.executable, "-m", "sightline")
    return Unit(
        name=check_unit_name(name),
        command=(*start, "run", str(model.absolute()), *_absolute(text)),
        bundle=model.absolute(),
        user=str(o["user"]),
        groups=tuple(o["groups"]),  # type: ignore[arg-type]
        env_file=env_file.absolute() if isinstance(env_file, Path) else None,
        edgetpu=load_device(device_of(text, bundle))[1].delegate == "edgetpu",
        ribbon=has_ribbon_camera(text),
    )


def check_options(options: Sequence[str]) -> None:
    """Of `sightline run`, in a unit. Raises ConfigError."""
    if any(map(shows_credentials, options)):
        raise ConfigError(
            "a password in a unit's command line is seen by all; write ${NAME} and put it into --env-file"
        )
    if "--supervise" in options:
        raise ConfigError("--supervise: systemd does that; leave it out")


def value_of(options: Sequence[str], name: str) -> str | None:
    """Of `--name value` or `--name=value`, the last one that is given."""
    value = None
    for word, following in zip(options, [*options[1:], None], strict=False):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.partition("=")[2]
    return value


def has_source(options: Sequence[str]) -> bool:
    """Whether it is said what it shall look at."""
    return value_of(options, "--source") is not None or value_of(options, "--config") is not None


def device_of(options: Sequence[str], bundle: Bundle) -> str:
    """As which device it runs."""
    return value_of(options, "--device") or bundle.manifest.device


def has_ribbon_camera(options: Sequence[str]) -> bool:
    """A Raspberry Pi's own: its driver hands pictures over in memory that has a device file of its own."""
    config = value_of(options, "--config")
    cameras = [c.source for c in read_agent_config(Path(config)).cameras.values()] if config else []
    return any(re.search(r"(^|=)picamera(:\d+)?$", source) for source in [*options, *cameras])


def _absolute(options: list[str]) -> list[str]:
    """A unit starts in a folder of its own: what is a file here must be found from there."""
    return [str(Path(o).absolute()) if not o.startswith("-") and os.sep not in o[:1] and Path(o).exists() else o
            for o in options]  # fmt: skip


def _path(name: str, root: Path | None) -> Path:
    folder = root / UNITS.relative_to("/") if root else UNITS
    return folder / f"sightline-{check_unit_name(name)}.service"


def check_unit_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: letters, digits, '_', '.' and '-', at most 60")
    return name


def _need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise ConfigError(f"only root may {what} a service: sudo {sys.executable} -m sightline service {what} ..")
    if not Path("/run/systemd/system").is_dir():
        raise ConfigError("systemd does not run here: use `sightline run --supervise`, or --root for an image")


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise DeviceError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
