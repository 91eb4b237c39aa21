"""What is carried to a device: this very Sightline as a wheel, pip to install it with, and the wheels that it needs."""

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
GLIBC = (28, 27, 24, 17)  # minor versions of manylinux; every system with Python 3.10 has them
_HERE = Path(sightline.__file__).parents[1]
_INFO = f"sightline-{__version__}.dist-info"
_KIND = b"Wheel-Version: 1.0\nGenerator: sightline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_EPOCH = (2020, 1, 1, 0, 0, 0)  # the same files make the same wheel


@dataclass(frozen=True)
class Platform:
    """python: such as '3.11'. machine: as `uname -m` says it."""

    python: str
    machine: str


@dataclass
class Payload:
    """One for all devices of a deployment: what several need is made, or fetched, once. Used by several threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _fetched: dict[tuple[Platform, tuple[str, ...]], dict[str, bytes]] = field(default_factory=dict)

    @cached_property
    def sightline(self) -> bytes:
        """What runs here as a wheel, also where it runs from a checkout: the device gets the same, to the last byte."""
        files: dict[str, bytes] = {}
        for package in PACKAGES:
            files |= _tree(_HERE / package, package)
        installed = distribution("sightline")
        for name in ("METADATA", "entry_points.txt"):
            files[f"{_INFO}/{name}"] = (installed.read_text(name) or "").encode()
        files[f"{_INFO}/WHEEL"] = _KIND
        files[f"{_INFO}/RECORD"] = _record(files).encode()
        return _zip(files)

    @cached_property
    def pip(self) -> bytes:
        """As a zip that Python runs it from: many a device's Python comes without. Raises DeviceError."""
        spec = importlib.util.find_spec("pip")
        if spec is None or spec.origin is None:
            raise DeviceError("pip is not installed here, and a device needs it: python -m ensurepip")
        return _zip(_tree(Path(spec.origin).parent, "pip"))

    def wheels(self, platform: Platform, more: Iterable[str] = ()) -> Mapping[str, bytes]:
        """{file: content} of all that Sightline needs there, from the index that this machine's pip is set up with.
        more: other requirements. Raises DeviceError."""
        key = platform, tuple(more)
        with self._lock:
            if key not in self._fetched:
                self._fetched[key] = self._fetch(*key)
            return self._fetched[key]

    def _fetch(self, platform: Platform, more: tuple[str, ...]) -> dict[str, bytes]:
        tags = [tag for minor in GLIBC for tag in ("--platform", f"manylinux_2_{minor}_{platform.machine}")]
        tags += ["--platform", f"manylinux2014_{platform.machine}"]
        with tempfile.TemporaryDirectory(prefix="sightline-") as work:
            own, folder = Path(work) / WHEEL, Path(work) / "wheels"
            own.write_bytes(self.sightline)
            command = [
                *python("pip", "download", "--quiet", "--disable-pip-version-check", "--dest"), folder,
                "--only-binary=:all:", "--implementation", "cp", "--python-version", platform.python, *tags, own, *more,
            ]  # fmt: skip
            done = subprocess.run([*map(str, command)], capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
                raise DeviceError(
                    f"the wheels for Python {platform.python} on {platform.machine} cannot be fetched: {reason[0]}"
                )
            return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != WHEEL}


def _tree(folder: Path, name: str) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


def _record(files: Mapping[str, bytes]) -> str:
    """As PEP 427 wants it."""
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
