"""The text of the agent's systemd unit: watched, restarted for ever, with few rights."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from edge.inference.time_limit import MINIMUM_S
from sightline.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
# where a person's own files are, which the unit may read and not write
_HOMES = ("/home", "/root", "/run/user")
# systemd knows a growing pause from version 254 on, and Debian 12 has 252. Deaths within a minute of the start count:
# the first restart comes at once, further ones after 1, 2, 4, 8, 16 and then always 30 seconds.
# What its file says counts only where it is two numbers: the file may be damaged, and a shell ends with the code of
# bad input upon others.
_PAUSE = (
    "f=$RUNTIME_DIRECTORY/{key}; n=0 t=-60; [ ! -s $f ] || read n t <$f; "
    "case $n in ''|*[!0-9]*|0?*|?????????*) n=0 ;; esac; case $t in ''|*[!0-9]*|0?*|?????????????*) n=0 t=-60 ;; esac; "
    "read now _ </proc/uptime; "
    "[ $((${now%.*} - t)) -lt 60 ] && n=$((n + 1)) || n=0; [ $n -lt 2 ] || sleep $((n < 7 ? 1 << (n - 2) : 30)); "
    "read now _ </proc/uptime; echo $n ${now%.*} >$f"
)


@dataclass(frozen=True)
class Unit:
    """What a unit is written from. command: absolute program and its arguments. reads: absolute files and folders that
    it reads. user: '' = one that exists only while it runs. groups: that may open cameras and accelerators. env_file:
    with passwords, read by systemd before the user changes; None = none. edgetpu: whether it needs a Coral. ribbon: or
    a Raspberry Pi's own camera."""

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
        """The unit file."""
        home = any(str(path).startswith(f"{h}/") for h in _HOMES for path in self.reads)
        # another command starts without the pause of the one before
        pause = _PAUSE.replace("{key}", hashlib.sha256(repr(self.command).encode()).hexdigest()[:12])
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
            "# a model on a disk that is not there yet would count as bad input",
            f"RequiresMountsFor={' '.join(_quoted(path) for path in self.reads)}",
            "# it comes back for ever, however often it has died in a row",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=notify",
            "# a pause where it has died again and again right after its start; -: without it where that fails",
            f"ExecStartPre=-/bin/sh -c {escape(pause)}",
            f"ExecStart={' '.join(map(escape, self.command))}",
            *([f"EnvironmentFile={str(self.env_file).replace('%', '%%')}"] if self.env_file else []),
            "Environment=PYTHONUNBUFFERED=1",
            "Restart=always",
            "RestartSec=100ms",
            "# bad input: another start would end in the same way",
            "RestartPreventExitStatus=2",
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
            f"RuntimeDirectory=sightline-{self.name}",
            "RuntimeDirectoryPreserve=restart",
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


def _quoted(path: Path) -> str:
    """Of a setting that takes several paths."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text}"' if re.search(r"[\s'\"]", text) else text


def escape(argument: str) -> str:
    """One word of ExecStart: systemd takes backslashes, quotes, %x and $x for its own."""
    if not argument.isprintable():
        raise ConfigError(f"{argument!r}: a unit cannot have this in its command line")
    argument = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{argument}"' if not argument or re.search(r"[\s'\";]", argument) else argument


def check_unit_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: letters, digits, '_', '.' and '-', at most 60")
    return name
