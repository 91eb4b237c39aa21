"""The text of the agent's systemd unit, made from the template `sightline.service`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from edge.inference.time_limit import MINIMUM_S
from sightline.errors import ConfigError

_TEMPLATE = Path(__file__).with_name("sightline.service")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
# folders with people's own files; the unit may read below them, but not write
_HOMES = ("/home", "/root", "/run/user")
# A pause before the start that grows with each death in a row. systemd has such a pause from version 254 on, and Debian
# 12 has 252. A death counts if it comes within a minute of the start. The first restart comes at once, the next ones
# after 1, 2, 4, 8 and 16 seconds, and all further ones after 30.
# The file with the count is used only if it holds two numbers. It may be damaged, and upon other content the shell
# would exit with 2, the code of bad input.
_PAUSE = (
    "f=$RUNTIME_DIRECTORY/{key}; n=0 t=-60; [ ! -s $f ] || read n t <$f; "
    "case $n in ''|*[!0-9]*|0?*|?????????*) n=0 ;; esac; case $t in ''|*[!0-9]*|0?*|?????????????*) n=0 t=-60 ;; esac; "
    "read now _ </proc/uptime; "
    "[ $((${now%.*} - t)) -lt 60 ] && n=$((n + 1)) || n=0; [ $n -lt 2 ] || sleep $((n < 7 ? 1 << (n - 2) : 30)); "
    "read now _ </proc/uptime; echo $n ${now%.*} >$f"
)


@dataclass(frozen=True)
class Unit:
    """The options of one unit.

    name: the unit is `sightline-NAME.service`.
    command: absolute path of the program, then its arguments.
    reads: absolute paths of the files and folders that the agent reads.
    user: name of the user that runs it. '' = a user that exists only while the unit runs.
    groups: groups that may open cameras and accelerators.
    env_file: file with passwords, which systemd reads before it changes the user. None = no file.
    edgetpu: the agent uses a Coral.
    ribbon: the agent uses a Raspberry Pi's ribbon-cable camera.
    """

    name: str
    command: tuple[str, ...]
    reads: tuple[Path, ...]
    user: str = ""
    groups: tuple[str, ...] = ("video",)
    env_file: Path | None = None
    edgetpu: bool = False
    ribbon: bool = False

    @property
    def text(self) -> str:
        """The content of the unit file. Raises ConfigError for a command line that systemd cannot take."""
        reads_home = any(str(path).startswith(f"{home}/") for home in _HOMES for path in self.reads)
        # the file has the command's hash in its name: a new command does not wait for the deaths of an old one
        pause = _PAUSE.replace("{key}", hashlib.sha256(repr(self.command).encode()).hexdigest()[:12])
        return _render(
            name=self.name.replace("%", "%%"),
            unit_name=self.name,
            mounts=" ".join(map(_quote_path, self.reads)),
            pause=escape(pause),
            command=" ".join(map(escape, self.command)),
            env_file=str(self.env_file).replace("%", "%%") if self.env_file else None,
            watchdog_s=f"{MINIMUM_S:g}",
            user=self.user or None,
            dynamic_user=None if self.user else "yes",
            groups=" ".join(self.groups),
            protect_home="read-only" if reads_home else "yes",
            coral_usb="char-usb_device rw" if self.edgetpu else None,
            coral_pcie="/dev/apex_0 rw" if self.edgetpu else None,
            dma_heap="char-dma_heap rw" if self.ribbon else None,
        )


def _render(**fields: str | None) -> str:
    """Fill in the template. A field that is None leaves out its line."""
    omitted = tuple(f"=${{{name}}}" for name, value in fields.items() if value is None)
    lines = [line for line in _TEMPLATE.read_text().splitlines(keepends=True) if not line.rstrip().endswith(omitted)]
    return Template("".join(lines)).substitute(fields)


def _quote_path(path: Path) -> str:
    """Escape one path of a setting that takes several paths."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if re.search(r"[\s'\"]", text) else text


def escape(argument: str) -> str:
    """Escape one word of ExecStart: systemd gives a meaning to backslashes, quotes, %x and $x.

    Raises ConfigError for control characters, such as a line break.
    """
    if not argument.isprintable():
        raise ConfigError(f"{argument!r}: a systemd unit cannot have control characters in its command line")
    argument = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{argument}"' if not argument or re.search(r"[\s'\";]", argument) else argument


def check_unit_name(name: str) -> str:
    """Returns `name`. Raises ConfigError if it cannot be part of a unit's file name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r}: use letters, digits, '_', '.' and '-', at most 61 characters, and begin with a letter "
            "or a digit"
        )
    return name
