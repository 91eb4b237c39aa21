"""A Raspberry Pi's Python without a Pi: the real aarch64 programs and wheels, run by QEMU's user emulation.

Nothing is mounted, and all system calls go to this machine's kernel: files, sockets and threads are real. Processes
that the emulated Python starts are not emulated; for that the kernel would have to know QEMU. Its speed means nothing.
Needs root and Debian (apt, mmdebstrap). QEMU is Debian 13's, unpacked and not installed: that of Debian 12 crashes
LiteRT on the host's /proc/cpuinfo, and its default processor computes wrong int8 results.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edge.deploy.payload import Payload, Platform
from tests.support.debian import call, extracted, unpacked

SUITES = {"bookworm": "3.11", "trixie": "3.13"}  # of Raspberry Pi OS, and their Python
PROCESSOR = "cortex-a72"  # as in a Pi 4
PACKAGES = ("python3", "libpython3-stdlib", "ca-certificates", "libgomp1", "libstdc++6")


@dataclass(frozen=True)
class Pi:
    """An emulated Raspberry Pi.

    suite: Debian's name of the release.
    python: script that starts the emulated Python.
    site: folder with the installed packages.
    wheels: folder with the downloaded wheels.
    """

    suite: str
    python: Path
    site: Path
    wheels: Path

    def run(self, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def build(work: Path, suite: str, wheel: Path) -> Pi:
    """Make a Pi in `work`, or use the parts of an earlier one.

    wheel: of Sightline. Its dependencies are downloaded as wheels.
    """
    work.mkdir(parents=True, exist_ok=True)
    qemu = unpacked("qemu-user", "trixie", work) / "usr" / "bin" / "qemu-aarch64"
    root = extracted(PACKAGES, suite, work, "--architectures=arm64")
    site, wheels = work / f"site-{suite}", work / f"wheels-{suite}"
    for folder in (site, wheels):
        shutil.rmtree(folder, ignore_errors=True)
    wheels.mkdir()
    shutil.copy(wheel, wheels)
    version = SUITES[suite]
    for name, content in Payload().wheels(Platform(version, "aarch64")).items():
        (wheels / name).write_bytes(content)
    # pip would compare the wheels with the Python that it runs in; uv takes another one
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-index", "--find-links", wheels]
    target = ["--python-version", version, "--python-platform", "aarch64-manylinux_2_28", "--only-binary", ":all:"]
    call(*uv, *target, "--target", site, wheel)
    python = work / f"python-{suite}"
    python.write_text(
        f"#!/bin/sh\nexec env QEMU_CPU={PROCESSOR} PYTHONPATH={site} PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 "
        f'{qemu} -L {root} {root}/usr/bin/python{version} "$@"\n'
    )
    python.chmod(0o755)
    return Pi(suite, python, site, wheels)
