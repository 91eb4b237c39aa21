"""A unit that is written, started, watched for its first seconds, and taken back where it does not run."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from edge.system.systemd_unit import Unit
from sightline.errors import ConfigError, DeviceError
from sightline.files import write_file

STATE = Path("/var/lib/sightline")
STEADY_S = 3  # an agent that lives so long after it said that it is ready does not die at once


def check_readable(unit: Unit) -> None:
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


def write_files(files: Mapping[Path, bytes | None]) -> None:
    for path, content in files.items():
        if content is None:
            remove(path)
        else:
            write_file(path, content)


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # its folder, unless others are in it
        path.parent.rmdir()


def start(unit: Unit, path: Path, files: Mapping[Path, bytes]) -> None:
    """Put the files in place, of which `path` is the unit, and see it run; otherwise what was there before is there
    again. Raises ConfigError for what the agent says is bad input, DeviceError for everything else."""
    before = {file: file.read_bytes() if file.exists() else None for file in files}
    had_state, began = (STATE / unit.name).exists(), time.time()
    write_files(files)
    systemctl("daemon-reload")
    systemctl("enable", path.name)
    systemctl("stop", path.name)
    try:
        systemctl("start", path.name)
        for _ in range(STEADY_S):
            time.sleep(1)
            systemctl("is-active", path.name)
        if _shown(path.name, "NRestarts") != "0":
            raise DeviceError("it has died and was started again")
    except DeviceError as e:
        words, code = _last_words(path.name, began) or str(e), _shown(path.name, "ExecMainStatus")
        systemctl("stop", path.name)
        if before[path] is None:
            with contextlib.suppress(DeviceError):  # systemd may have forgotten it by now
                systemctl("reset-failed", path.name)  # one that has failed cannot be cleaned
            if not had_state:
                systemctl("clean", "--what=state", path.name)
            systemctl("disable", path.name)
        write_files(before)
        systemctl("daemon-reload")
        went = "nothing is installed"
        if before[path] is not None:
            systemctl("start", "--no-block", path.name)
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


def systemctl(*arguments: str) -> str:
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise DeviceError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _shown(name: str, key: str) -> str:
    return systemctl("show", "--value", "--property", key, name)
