"""Debian packages for the tests, from the mirror that this machine uses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def call(*command: object, cwd: Path | None = None) -> str:
    """Run a command. Returns its stdout; raises RuntimeError with its stderr if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command[:4]))}: {done.stderr[-2000:]}")
    return done.stdout


def source() -> str:
    """Address of the mirror that this machine uses."""
    done = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    return next(line for line in done.splitlines() if "security" not in line)


def missing(*programs: str) -> str | None:
    """What this machine lacks of `programs` and of the parts that mmdebstrap needs. None = it has everything."""
    if os.geteuid() != 0:
        return "root, which mmdebstrap needs"
    absent = [program for program in ("apt-get", "mmdebstrap", *programs) if not shutil.which(program)]
    return f"{', '.join(absent)}: make system" if absent else None


def extracted(packages: Iterable[str], suite: str, work: Path, *options: str) -> Path:
    """Returns a folder below `work` with the packages and their dependencies, unpacked without their install scripts.
    It is made at the first call.

    options: options of mmdebstrap.
    """
    root, fresh = work / f"root-{suite}", work / f"root-{suite}.partial"
    if root.exists():
        return root
    shutil.rmtree(fresh, ignore_errors=True)
    line = f"deb [signed-by={KEYS}] {source()} {suite} main"
    call("mmdebstrap", "-q", "--variant=extract", *options, f"--include={','.join(packages)}", suite, fresh, line)
    for name in ("bin", "lib", "lib64"):
        link = fresh / name  # the package that makes this link is not in the folder
        if (fresh / "usr" / name).exists() and not link.exists():
            link.symlink_to(f"usr/{name}")
    fresh.rename(root)
    return root


def unpacked(package: str, suite: str, work: Path) -> Path:
    """Returns a folder below `work` with the package's files. It is made at the first call. The package is not
    installed, because an installed server would start.
    """
    folder = work / f"{package}-{suite}"
    if folder.exists():
        return folder
    apt, fresh = work / f"apt-{suite}", work / f"{package}-{suite}.partial"
    for part in ("lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYS}] {source()} {suite} main\n")
    own = [
        f"-oDir::Etc::SourceList={apt}/sources.list", "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={apt}/lists", f"-oDir::Cache={apt}", "-qq",
    ]  # fmt: skip
    call("apt-get", *own, "update")
    call("apt-get", *own, "download", package, cwd=apt)
    (archive,) = apt.glob(f"{package}_*.deb")
    shutil.rmtree(fresh, ignore_errors=True)
    call("dpkg-deb", "-x", archive, fresh)
    archive.unlink()
    fresh.rename(folder)
    return folder
