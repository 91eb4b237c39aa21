"""A Raspberry Pi's Python without a Pi: the real aarch64 programs and wheels, run by QEMU's user emulation.

Nothing is mounted, and no system call goes anywhere but to this machine's kernel: files, sockets and threads are real.
Processes that it starts itself are not emulated, for that the kernel would have to know QEMU. Speed says nothing.
Needs root and Debian (apt, mmdebstrap). QEMU is Debian 13's, unpacked and not installed: that of Debian 12 crashes
LiteRT on the host's /proc/cpuinfo, and its default processor computes wrong int8 results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SUITES = {"bookworm": "3.11", "trixie": "3.13"}  # of Raspberry Pi OS, and their Python
PROCESSOR = "cortex-a72"  # a Pi 4's
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
PACKAGES = ("python3", "libpython3-stdlib", "ca-certificates", "libgomp1", "libstdc++6")
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


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


def missing() -> str | None:
    """What this machine lacks to emulate one; None when it has everything."""
    if os.geteuid() != 0:
        return "root, which mmdebstrap needs"
    absent = [program for program in ("apt-get", "dpkg-deb", "mmdebstrap") if not shutil.which(program)]
    return f"{', '.join(absent)}: apt install mmdebstrap" if absent else None


def build(work: Path, suite: str, wheel: Path) -> Pi:
    """Make one in `work`, or take what is there. wheel: of Sightline; its dependencies come as wheels."""
    work.mkdir(parents=True, exist_ok=True)
    source = _source()
    qemu = _qemu(work, source)
    root, site, wheels = work / f"root-{suite}", work / f"site-{suite}", work / f"wheels-{suite}"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        line = f"deb [signed-by={KEYS}] {source} {suite} main"
        _call(
            "mmdebstrap", "-q", "--architectures=arm64", "--variant=extract", f"--include={','.join(PACKAGES)}", suite,
            root, line,
        )  # fmt: skip
        if not (root / "lib").exists():  # trixie's are links that a package makes which is not here
            (root / "lib").symlink_to("usr/lib")
        (root / "complete").touch()
    for folder in (site, wheels):
        shutil.rmtree(folder, ignore_errors=True)
    version = SUITES[suite]
    tags = [part for tag in PLATFORMS for part in ("--platform", f"{tag}_aarch64")]
    only = [*tags, "--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _call(*pip, "download", "--dest", wheels, *only, wheel)
    # pip itself would hold the wheels against the Python that it runs in
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-index", "--find-links", wheels]
    aim = ["--python-version", version, "--python-platform", "aarch64-manylinux_2_28", "--only-binary", ":all:"]
    _call(*uv, *aim, "--target", site, wheel)
    python = work / f"python-{suite}"
    python.write_text(
        f"#!/bin/sh\nexec env QEMU_CPU={PROCESSOR} PYTHONPATH={site} PYTHONNOUSERSITE=1 PYTHONDONTWRITEBYTECODE=1 "
        f'{qemu} -L {root} {root}/usr/bin/python{version} "$@"\n'
    )
    python.chmod(0o755)
    return Pi(suite, python, site, wheels)


def _source() -> str:
    """Where this machine's own Debian packages come from."""
    done = _call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    return next(line for line in done.splitlines() if "security" not in line)


def _qemu(work: Path, source: str) -> Path:
    program = work / "qemu" / "usr" / "bin" / "qemu-aarch64"
    if program.exists():
        return program
    for folder in ("lists/partial", "archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    (work / "trixie.list").write_text(f"deb [signed-by={KEYS}] {source} trixie main\n")
    own = [
        f"-oDir::Etc::SourceList={work}/trixie.list", "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={work}/lists", f"-oDir::Cache={work}", "-qq",
    ]  # fmt: skip
    _call("apt-get", *own, "update")
    _call("apt-get", *own, "download", "qemu-user", cwd=work)
    (package,) = work.glob("qemu-user_*.deb")
    _call("dpkg-deb", "-x", package, work / "qemu")
    package.unlink()
    return program


def _call(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command[:4]))}: {done.stderr[-2000:]}")
    return done.stdout
