"""Gather facts about a device, and check that a model can be deployed on it, before anything changes there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.deploy.ssh import Device
from sightline.errors import DeviceError

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


class PasswordNeeded(DeviceError):
    """sudo on the device asks for a password."""


@dataclass(frozen=True)
class DeviceFacts:
    """What device.sh reports about a device.

    python: path of its Python; '' = none.
    version: minor version of Python, such as '3.11'; '' = none.
    bits: 32 or 64, of that Python; 0 = none.
    venv: that Python can make virtual environments.
    numpy: version of the system's numpy; '' = not installed.
    machine: as `uname -m` prints it.
    system: name and version of the operating system.
    board: the name that the firmware reports; '' = none.
    memory_mb, free_mb: total memory and free space of the home folder, in MiB; 0 = unknown.
    user, home: the user that ssh logs in as, and the home folder.
    groups: those of video, plugdev and render that exist.
    systemd: systemd runs.
    picamera2: Debian's package is installed.
    ribbon: sensors of cameras on a ribbon cable.
    environments: ids of the finished virtual environments.
    ports: ports of the live pages of other deployments.
    sudo: '' = usable, 'missing' or 'password'.
    refused: sudo refuses a command that the deployment needs.
    as_root: the commands that sudo must allow.
    """

    python: str
    version: str
    bits: int
    venv: bool
    numpy: str
    machine: str
    system: str
    board: str
    memory_mb: int
    free_mb: int
    user: str
    home: str
    groups: tuple[str, ...]
    systemd: bool
    picamera2: bool
    ribbon: tuple[str, ...]
    environments: tuple[str, ...]
    ports: tuple[int, ...]
    sudo: str
    refused: bool
    as_root: tuple[str, ...]

    def __str__(self) -> str:
        memory = f"{self.memory_mb / 1024:.1f} GiB" if self.memory_mb else "memory unknown"
        return (
            f"{self.board or 'a computer'}, {self.system}, {self.machine}, Python {self.version}, {memory}, "
            f"{self.free_mb / 1024:.1f} GiB free"
        )


def gather_facts(device: Device, name: str) -> DeviceFacts:
    """Ask the device. Changes nothing there. Raises DeviceError.

    name: name of the deployment.
    """
    output = device.step("facts", name)
    reply = parse_reply(output)
    version, _, bits = reply["version"].partition(" ") if reply.get("version") else ("", "", "0")
    lists = {key: tuple(reply.get(key, "").split()) for key in ("groups", "ribbon", "environments", "ports")}
    return DeviceFacts(
        python=reply["python"],
        version=version,
        bits=int(bits),
        venv=reply.get("venv") == "yes",
        numpy=reply["numpy"],
        machine=reply["machine"],
        system=reply["system"],
        board=reply["board"],
        memory_mb=int(reply["memory_kb"] or 0) // 1024,
        free_mb=int(reply["free_kb"] or 0) // 1024,
        user=reply["user"],
        home=reply["home"],
        groups=lists["groups"],
        systemd=reply["systemd"] == "yes",
        picamera2=reply["picamera2"] == "yes",
        ribbon=lists["ribbon"],
        environments=lists["environments"],
        ports=tuple(map(int, lists["ports"])),
        sudo=reply.get("sudo", ""),
        refused="refused" in reply,
        as_root=tuple(re.findall(r"^root=(.+)$", output, re.MULTILINE)),
    )


def check_python(facts: DeviceFacts, to: str) -> None:
    """Check that Sightline can run on the device. Raises DeviceError, which names the remedy.

    to: the device's address.
    """
    if facts.bits == 32 or facts.machine not in ("aarch64", "x86_64"):
        raise DeviceError(
            f"{to}: a {facts.bits or 32}-bit system ({facts.machine}), for which LiteRT has no wheels. Install "
            "Raspberry Pi OS (64-bit)"
        )
    if facts.version not in PYTHONS:
        version = f"Python {facts.version}" if facts.version else "no Python"
        raise DeviceError(
            f"{to}: has {version}. Sightline needs Python {PYTHONS[0]} to {PYTHONS[-1]}, as in Raspberry Pi OS "
            "bookworm and trixie"
        )
    if not facts.venv:
        raise DeviceError(f"{to}: Python cannot make virtual environments: sudo apt install python3-venv")


def check(facts: DeviceFacts, to: str, name: str) -> None:
    """Check that the agent can be installed as a service. Raises DeviceError, which names the remedy.

    to: the device's address. name: name of the deployment.
    """
    check_python(facts, to)
    if not facts.systemd:
        raise DeviceError(f"{to}: systemd does not run. Use `sightline run --supervise` on this device")
    if facts.user == "root":
        raise DeviceError(f"{to}: the login is root. Log in as an ordinary user: the agent runs as that user")
    if "video" not in facts.groups:
        raise DeviceError(
            f"{to}: there is no group `video`, whose members may open cameras: sudo groupadd --system video"
        )
    check_rights(facts, to, name)


def check_rights(facts: DeviceFacts, to: str, name: str) -> None:
    """Check that sudo allows what the deployment needs. Raises DeviceError, and PasswordNeeded if sudo asks for one."""
    if facts.sudo == "missing":
        raise DeviceError(f"{to}: sudo is not installed, and only root may install a service: apt install sudo")
    if facts.sudo == "password":
        raise PasswordNeeded(
            f"{to}: sudo asks for a password. Run this command on a terminal, or allow sudo without a password"
        )
    if facts.refused:
        allowed = ", \\\n  ".join(re.sub(r"([,:=\\])", r"\\\1", command) for command in facts.as_root)
        raise DeviceError(
            f"{to}: sudo refuses a command that deploy needs. These lines in /etc/sudoers.d/sightline-{name} allow "
            f"exactly those:\n{facts.user} ALL=(root) NOPASSWD: {allowed}"
        )


def parse_reply(output: str) -> dict[str, str]:
    """The `key=value` lines of a step's output."""
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
