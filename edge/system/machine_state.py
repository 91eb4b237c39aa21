"""Read the machine's temperature, a Raspberry Pi's power state, and this process's use of resources."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
# bits of the firmware's mask: bit n is the state now, bit n + 16 is set if it occurred since the start
_POWER_BITS = {0: "undervoltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}


@dataclass(frozen=True)
class Machine:
    """The state of the machine at one moment.

    celsius: temperature of the hottest thermal zone. None if the kernel reports none.
    power: {problem: (present now, occurred since boot)}. Empty if this is not a Raspberry Pi.
    """

    celsius: float | None
    power: dict[str, tuple[bool, bool]]


def read_machine(root: Path = Path("/")) -> Machine:
    """Read the state from the kernel's files.

    root: folder that stands for `/`. Tests pass their own.
    """
    degrees = []
    for zone in root.glob("sys/class/thermal/thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            degrees.append(int(zone.read_text()) / 1000)
    power: dict[str, tuple[bool, bool]] = {}
    with contextlib.suppress(OSError, ValueError):
        mask = int((root / _THROTTLED).read_text(), 16)
        power = {name: (bool(mask >> bit & 1), bool(mask >> bit + 16 & 1)) for bit, name in _POWER_BITS.items()}
    return Machine(max(degrees, default=None), power)


@dataclass(frozen=True)
class Process:
    """What this process uses.

    started: start time in seconds since 1970.
    rss: resident memory in bytes.
    threads: number of threads.
    files: number of open file descriptors.
    cpu_s: CPU seconds of all threads, user and system together.
    """

    started: float
    rss: int
    threads: int
    files: int
    cpu_s: float


def this_process() -> Process:
    """Read this process's figures from /proc."""
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
