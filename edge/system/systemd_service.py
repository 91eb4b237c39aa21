"""Install a systemd unit: write it, start it, watch its first seconds, and roll back if it does not run."""

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

STATE = Path("/var/lib/sightline")  # systemd makes the state folders of all units below it
STEADY_S = 3  # seconds that an agent must run after it reported ready; one that dies at once does not
_ACCESS_SETTINGS = ("User", "DynamicUser", "SupplementaryGroups", "ProtectHome", "ProtectSystem", "PrivateTmp")


def check_readable(unit: Unit) -> None:
    """Check that the unit's user, who has fewer rights than root, may read the unit's files.

    Raises ConfigError if a file is not readable, and DeviceError if the check itself fails.
    """
    properties = [f"--property={line}" for line in unit.text.splitlines() if line.partition("=")[0] in _ACCESS_SETTINGS]
    print_unreadable = 'while IFS= read -r f; do [ -r "$f" ] || echo "$f"; done'
    done = subprocess.run(
        ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *properties, "/bin/sh", "-c", print_unreadable],
        input="".join(f"{path}\n" for path in unit.reads), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode:
        raise DeviceError(
            f"cannot check which files the service may read: systemd-run: {done.stderr.strip() or done.returncode}"
        )
    unreadable = done.stdout.splitlines()
    if not unreadable:
        return
    path = Path(unreadable[0])
    closed = next((p for p in reversed(path.parents) if not p.stat().st_mode & 0o001), None)
    reason = f"other users may not enter {closed}" if closed else "other users may not read it"
    if path.parts[1:2] == ("tmp",):
        reason = "a unit has its own /tmp"
    user = f"user {unit.user}" if unit.user else "service user, which exists only while the service runs,"
    raise ConfigError(
        f"{path}: the {user} may not read it: {reason}. Nothing was installed. Move Sightline, the model and the files "
        "to a folder that everybody may read, such as /opt, or pass --user NAME of a user who may read them"
    )


def write_files(files: Mapping[Path, bytes | None]) -> None:
    """Write each file, or remove it if its content is None."""
    for path, content in files.items():
        if content is None:
            remove(path)
        else:
            write_file(path, content)


def remove(path: Path) -> None:
    """Remove a file, if it exists, and its folder, if that is then empty."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files are in the folder
        path.parent.rmdir()


def start(unit: Unit, path: Path, files: Mapping[Path, bytes]) -> None:
    """Write the files, start the unit, and check that it stays up. Otherwise restore the earlier files and unit.

    path: the unit's file, which is one of `files`.
    files: {path: content}.
    Raises ConfigError if the agent exits with the code of bad input, and DeviceError for every other failure.
    """
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
        if _property(path.name, "NRestarts") != "0":
            raise DeviceError("the agent died, and systemd restarted it")
    except DeviceError as e:
        reason, code = _last_error(path.name, began) or str(e), _property(path.name, "ExecMainStatus")
        systemctl("stop", path.name)
        if before[path] is None:
            with contextlib.suppress(DeviceError):  # systemd may not know the unit any more
                systemctl("reset-failed", path.name)  # `clean` refuses a failed unit
            if not had_state:
                systemctl("clean", "--what=state", path.name)
            systemctl("disable", path.name)
        write_files(before)
        systemctl("daemon-reload")
        outcome = "Nothing was installed"
        if before[path] is not None:
            systemctl("start", "--no-block", path.name)
            outcome = "The previous service is back"
        text = f"{path.name}: the agent did not start or did not stay up. {outcome}. Its last output: {reason}"
        raise (ConfigError(text) if code == "2" else DeviceError(text)) from None


def _last_error(name: str, since: float) -> str:
    """The agent's last error line, else its last 5 lines. The journal receives them a moment after the exit."""
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
    """Run systemctl. Returns its stdout; raises DeviceError with its stderr."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise DeviceError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _property(name: str, key: str) -> str:
    return systemctl("show", "--value", "--property", key, name)
