"""What a device is, and whether a model can be deployed on it: asked before anything is changed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.deploy.ssh import Device
from sightline.errors import DeviceError

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


class PasswordNeeded(DeviceError):
    """sudo there wants one."""


@dataclass(frozen=True)
class DeviceFacts:
    """What the device is, as device.sh says it; the texts are its own."""

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
    """What is there; changes nothing."""
    answer = answers(said := device.step("look", name))
    version, _, bits = answer["version"].partition(" ") if answer.get("version") else ("", "", "0")
    words = {key: tuple(answer.get(key, "").split()) for key in ("groups", "ribbon", "environments", "ports")}
    return DeviceFacts(
        python=answer["python"],
        version=version,
        bits=int(bits),
        venv=answer.get("venv") == "yes",
        numpy=answer["numpy"],
        machine=answer["machine"],
        system=answer["system"],
        board=answer["board"],
        memory_mb=int(answer["memory_kb"] or 0) // 1024,
        free_mb=int(answer["free_kb"] or 0) // 1024,
        user=answer["user"],
        home=answer["home"],
        groups=words["groups"],
        systemd=answer["systemd"] == "yes",
        picamera2=answer["picamera2"] == "yes",
        ribbon=words["ribbon"],
        environments=words["environments"],
        ports=tuple(map(int, words["ports"])),
        sudo=answer.get("sudo", ""),
        refused="refused" in answer,
        as_root=tuple(re.findall(r"^root=(.+)$", said, re.MULTILINE)),
    )


def check_python(found: DeviceFacts, to: str) -> None:
    """Whether Sightline runs there. Raises DeviceError with what to do about it."""
    if found.bits == 32 or found.machine not in ("aarch64", "x86_64"):
        raise DeviceError(
            f"{to}: a {found.bits or 32}-bit system ({found.machine}): LiteRT has no wheels for it; install Raspberry "
            "Pi OS (64-bit)"
        )
    if found.version not in PYTHONS:
        has = f"Python {found.version}" if found.version else "no Python"
        raise DeviceError(f"{to}: has {has}; {PYTHONS[0]} to {PYTHONS[-1]} is needed, as Raspberry Pi OS bookworm and "
                          "trixie have it")  # fmt: skip
    if not found.venv:
        raise DeviceError(f"{to}: its Python makes no environments: sudo apt install python3-venv")


def check(found: DeviceFacts, to: str, name: str) -> None:
    """Whether it can be installed as a service. Raises DeviceError with what to do about it."""
    check_python(found, to)
    if not found.systemd:
        raise DeviceError(f"{to}: systemd does not run there; `sightline run --supervise` does its work elsewhere")
    if found.user == "root":
        raise DeviceError(f"{to}: log in as an ordinary user; the agent runs as the one that deploys it")
    if "video" not in found.groups:
        raise DeviceError(f"{to}: has no group `video`, whose members may open cameras: sudo groupadd --system video")
    check_rights(found, to, name)


def check_rights(found: DeviceFacts, to: str, name: str) -> None:
    if found.sudo == "missing":
        raise DeviceError(f"{to}: has no sudo, and a service is root's to install: apt install sudo")
    if found.sudo == "password":
        raise PasswordNeeded(f"{to}: sudo asks for a password there; run this on a terminal, or allow it without")
    if found.refused:
        allowed = ", \\\n  ".join(re.sub(r"([,:=\\])", r"\\\1", command) for command in found.as_root)
        raise DeviceError(
            f"{to}: sudo refuses what is needed there; /etc/sudoers.d/sightline-{name} may allow no more than\n"
            f"{found.user} ALL=(root) NOPASSWD: {allowed}"
        )


def answers(said: str) -> dict[str, str]:
    """`key=value` lines."""
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
