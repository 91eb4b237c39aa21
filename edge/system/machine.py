"""What the machine says of itself: temperature, a Raspberry Pi's power, and this process. Read when asked."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
# bits of the Pi's firmware: now, and the same 16 higher since it started
_POWER = {0: "undervoltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}


@dataclass(frozen=True)
class Machine:
    """celsius: of the hottest zone; None where none is known. power: {what is wrong: (now, once since boot)}, of a
    Raspberry Pi alone."""

    celsius: float | None
    power: dict[str, tuple[bool, bool]]


def read_machine(root: Path = Path("/")) -> Machine:
    """root: another one for tests."""
    degrees = []
    for zone in root.glob("sys/class/thermal/thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            degrees.append(int(zone.read_text()) / 1000)
    power: dict[str, tuple[bool, bool]] = {}
    with contextlib.suppress(OSError, ValueError):
        mask = int((root / _THROTTLED).read_text(), 16)
        power = {what: (bool(mask >> bit & 1), bool(mask >> bit + 16 & 1)) for bit, what in _POWER.items()}
    return Machine(max(degrees, default=None), power)


@dataclass(frozen=True)
class Process:
    """started: seconds since 1970. rss: bytes. cpu_s: of all threads, user and system."""

    started: float
    rss: int
    threads: int
    files: int
    cpu_s: float


def this_process() -> Process:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    ticks = os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return Process(
        started=time.time() - uptime + int(fields[19]) / ticks,
        rss=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        threads=int(fields[17]),
        files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
    )
