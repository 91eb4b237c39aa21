"""A Raspberry Pi's Python without a Pi: the real aarch64 programs and wheels, run by QEMU's user emulation.

Nothing is mounted, and no system call goes anywhere but to this machine's kernel: files, sockets and threads are real.
Processes that it starts itself are not emulated, for that the kernel would have to know QEMU. Speed says nothing.
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
PROCESSOR = "cortex-a72"  # a Pi 4's
PACKAGES = ("python3", "libpython3-stdlib", "ca-certificates", "libgomp1", "libstdc++6")


@dataclass(frozen=True)
class Pi:
    """python: a launcher, to be called as one. site: what was installed by pip. wheels: what came over the net."""

    suite: str
    python: Path
    site: Path
    wheels: Path

    def run(self, *arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def build(work: Path, suite: str, wheel: Path) -> Pi:
    """Make one in `work`, or take what is there. wheel: of Sightline; its dependencies come as wheels."""
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
    # pip itself would hold the wheels against the Python that it runs in
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-index", "--find-links", wheels]
    aim = ["--python-version", version, "--python-platform", "aarch64-manylinux_2_28", "--only-binary", ":all:"]
    call(*uv, *aim, "--target", site, wheel)
    python = work / f"python-{suite}"
    python.write_text(
        f"#!/bin/sh\nexec env QEMU_CPU={PROCESSOR} PYTHONPATH={site} PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 "
        f'{qemu} -L {root} {root}/usr/bin/python{version} "$@"\n'
    )
    python.chmod(0o755)
    return Pi(suite, python, site, wheels)
