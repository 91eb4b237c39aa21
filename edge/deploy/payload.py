"""The files that a device receives: this Sightline as a wheel, pip to install it with, and the wheels it depends on."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import io
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import distribution
from pathlib import Path

import sightline
from sightline import __version__
from sightline.child import python
from sightline.errors import DeviceError

PACKAGES = ("sightline", "trainer", "converters", "edge", "device_configs")
WHEEL = f"sightline-{__version__}-py3-none-any.whl"
GLIBC = (28, 27, 24, 17)  # minor versions of manylinux. Every system with Python 3.10 supports them.
_ROOT = Path(sightline.__file__).parents[1]
_INFO = f"sightline-{__version__}.dist-info"
_WHEEL_FILE = b"Wheel-Version: 1.0\nGenerator: sightline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_EPOCH = (2020, 1, 1, 0, 0, 0)  # date of all files in an archive, so that the same files make the same bytes


@dataclass(frozen=True)
class Platform:
    """What wheels must fit.

    python: minor version, such as '3.11'.
    machine: as `uname -m` prints it.
    """

    python: str
    machine: str


@dataclass
class Payload:
    """The files for all devices of a deployment. What several devices need is made or fetched once.

    Threads: one thread for each device calls everything. `_lock` guards `_wheels`, and is held while wheels are
    fetched, so that a second thread waits for the same wheels. Two threads may both make `sightline` or `pip` at first:
    the bytes are the same, and one of them is kept.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wheels: dict[tuple[Platform, tuple[str, ...]], dict[str, bytes]] = field(default_factory=dict)

    @cached_property
    def sightline(self) -> bytes:
        """The running Sightline as a wheel, also if it runs from a checkout. The device gets exactly this code."""
        files: dict[str, bytes] = {}
        for package in PACKAGES:
            files |= _tree(_ROOT / package, package)
        installed = distribution("sightline")
        for name in ("METADATA", "entry_points.txt"):
            files[f"{_INFO}/{name}"] = (installed.read_text(name) or "").encode()
        files[f"{_INFO}/WHEEL"] = _WHEEL_FILE
        files[f"{_INFO}/RECORD"] = _record(files).encode()
        return _zip(files)

    @cached_property
    def pip(self) -> bytes:
        """pip as a zip that Python can run it from. Debian's Python comes without pip. Raises DeviceError."""
        spec = importlib.util.find_spec("pip")
        if spec is None or spec.origin is None:
            raise DeviceError("pip is not installed on this machine, and the device needs a copy: python -m ensurepip")
        return _zip(_tree(Path(spec.origin).parent, "pip"))

    def wheels(self, platform: Platform, requirements: Iterable[str] = ()) -> Mapping[str, bytes]:
        """{file: content} of the wheels that Sightline depends on, from the index that pip uses on this machine.

        requirements: further ones, as pip takes them.
        Raises DeviceError.
        """
        key = platform, tuple(requirements)
        with self._lock:
            if key not in self._wheels:
                self._wheels[key] = self._fetch(*key)
            return self._wheels[key]

    def _fetch(self, platform: Platform, requirements: tuple[str, ...]) -> dict[str, bytes]:
        tags = [tag for minor in GLIBC for tag in ("--platform", f"manylinux_2_{minor}_{platform.machine}")]
        tags += ["--platform", f"manylinux2014_{platform.machine}"]
        with tempfile.TemporaryDirectory(prefix="sightline-") as work:
            wheel, folder = Path(work) / WHEEL, Path(work) / "wheels"
            wheel.write_bytes(self.sightline)
            command = [
                *python("pip", "download", "--quiet", "--disable-pip-version-check", "--dest"), folder,
                "--only-binary=:all:", "--implementation", "cp", "--python-version", platform.python, *tags, wheel,
                *requirements,
            ]  # fmt: skip
            done = subprocess.run([*map(str, command)], capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
                raise DeviceError(
                    f"cannot fetch the wheels for Python {platform.python} on {platform.machine}: {reason[0]}"
                )
            return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != WHEEL}


def _tree(folder: Path, name: str) -> dict[str, bytes]:
    """{path below `name`: content} of all files in a folder, of every type, without compiled ones."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


def _record(files: Mapping[str, bytes]) -> str:
    """The RECORD file of a wheel, as PEP 427 defines it."""
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    return "".join(lines) + f"{_INFO}/RECORD,,\n"


def _zip(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with contextlib.closing(zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
