"""Where programs keep files of their own: settings, state and downloads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from sightline.documents import home

Kind = Literal["config", "state", "cache"]

# of the XDG base directory specification: variable, and folder below the home folder where it is not set
_BASES = {
    "config": ("XDG_CONFIG_HOME", ".config"),
    "state": ("XDG_STATE_HOME", ".local/state"),
    "cache": ("XDG_CACHE_HOME", ".cache"),
}


def program_folder(kind: Kind, option: str, *, subfolder: str = "") -> Path:
    """Folder for Sightline's own files of one kind. It may not exist yet. Raises ConfigError for a user without a home.

    A service has one folder for its settings and state, which systemd names in $STATE_DIRECTORY. Otherwise it is
    `sightline` in this user's folder of that kind, such as ~/.local/state.

    option: option that makes the folder unnecessary, for the error message.
    subfolder: folder for one of several programs that share this user's folder; a service needs none.
    """
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if service and kind != "cache":
        return Path(service)
    variable, below_home = _BASES[kind]
    base = os.environ.get(variable)
    return (Path(base) if base else home(option) / below_home) / "sightline" / subfolder
