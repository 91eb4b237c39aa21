"""The file of `--env-file`: NAME=value lines with passwords."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from edge.addresses import NAME
from sightline.errors import InputError


def read_env_file(path: Path) -> dict[str, str]:
    """The values by name. The last line of a name counts.

    The format is the common part of systemd's EnvironmentFile and Docker's --env-file. Empty lines and lines that begin
    with # or ; are skipped. A value may be quoted with ' or ". Raises InputError, with the line number and without the
    value, for a line that the two programs would read differently.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as e:
        raise InputError(f"--env-file {path}: cannot be read: {e.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--env-file {path}: not UTF-8 text") from None
    values = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line[0] in "#;":
            continue
        match = re.fullmatch(rf"({NAME})=(?:'([^']*)'|\"([^\"\\]*)\"|([^'\"\\\s].*)?)", line)
        if not match or (match[4] and "\\" in match[4]):
            raise InputError(f"--env-file {path}, line {number}: {_fault(line)}")
        values[match[1]] = match[2] or match[3] or match[4] or ""
    return values


def _fault(line: str) -> str:
    """What is wrong with the line, without its value."""
    name, equals, value = line.partition("=")
    if not equals:
        return "expected NAME=value"
    if not re.fullmatch(NAME, name):
        return "expected a name of letters, digits and _ directly before the =, without `export`"
    if "\\" in value:
        return f"{name}: systemd and Docker read a \\ differently. Put the value in '."
    if value[0].isspace():
        return f"{name}: remove the space after the =. If it belongs to the value, put the value in '."
    return f"{name}: a quotation mark has no partner, or text follows it"


def world_readable_warning(path: Path) -> str | None:
    """A warning if every user of this machine can read the file."""
    if path.stat().st_mode & stat.S_IROTH:
        return f"every user of this machine can read {path}. Run `chmod 600 {path}`."
    return None
