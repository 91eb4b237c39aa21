"""A device at the other end of the system's own ssh: its keys, its aliases, its jump hosts, its questions."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sightline.errors import ConfigError, DeviceError

STEP_S = 1800  # a slow card in a small board takes its time to unpack 200 MB
_SCRIPT = (Path(__file__).parent / "device.sh").read_text()


class StepError(DeviceError):
    """A step that ended with this code on the device; its text is what the step said."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Device:
    """to: as ssh takes it: USER@HOST, an alias, ssh://USER@HOST:PORT. config: of ssh. ask: whether it may ask for a
    password on the terminal. One connection serves all steps."""

    to: str
    config: Path | None = None
    ask: bool = True
    password: str = ""  # for sudo
    _control: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if not self.to or self.to.startswith("-") or not self.to.isprintable():
            raise ConfigError(f"--to {self.to!r}: USER@HOST is needed, as for ssh")

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """While this lasts, the steps share a connection: one login, and one question for a password."""
        with tempfile.TemporaryDirectory(prefix="sl-") as folder:  # the socket's path must be short
            self._control = "" if os.name == "nt" else f"{folder}/c"
            try:
                yield
            finally:
                if self._control:
                    subprocess.run([*self._ssh(), "-O", "exit", self.to], capture_output=True)
                self._control = ""

    @property
    def host(self) -> str:
        """The address that ssh makes of `to`."""
        done = subprocess.run([*self._ssh(), "-G", self.to], capture_output=True, text=True)
        found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("hostname ")]
        return found[0] if found else self.to.rpartition("@")[2]

    def step(
        self, *arguments: str, files: Mapping[str, bytes] | None = None, text: str | None = None, longer_s: float = 0
    ) -> str:
        """One step of device.sh; what it said on stdout. files: sent as a tar with their hashes. text: for its stdin;
        else the password is. Raises StepError with what it said on stderr, DeviceError where it is not reached."""
        remote = shlex.join(["sh", "-c", _SCRIPT, "sightline", *arguments])
        with tempfile.TemporaryFile() as stdin:
            if files is None:
                stdin.write((self.password + "\n" if text is None else text).encode())
            else:
                _pack(files, stdin)
            stdin.seek(0)
            try:
                done = subprocess.run([*self._ssh(), "--", self.to, remote], stdin=stdin, capture_output=True,
                                      text=True, errors="replace", timeout=STEP_S + longer_s)  # fmt: skip
            except FileNotFoundError:
                raise ConfigError("ssh is not installed here: apt install openssh-client") from None
            except subprocess.TimeoutExpired:
                raise DeviceError(f"{self.to}: {arguments[0]} took more than {STEP_S // 60} minutes") from None
        if done.returncode == 255:
            raise DeviceError(f"{self.to}: not reached by ssh: {_last(done.stderr)}")
        if done.returncode:
            raise StepError(f"{self.to}: {_last(done.stderr, 10)}", done.returncode)
        return done.stdout

    def _ssh(self) -> list[str]:
        options = ["ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=6", "LogLevel=ERROR"]
        if self._control:
            options += ["ControlMaster=auto", f"ControlPath={self._control}", "ControlPersist=30"]
        if not self.ask:
            options.append("BatchMode=yes")
        config = ["-F", str(self.config)] if self.config else []
        return ["ssh", *config, *(part for option in options for part in ("-o", option))]


def _pack(files: Mapping[str, bytes], out: object) -> None:
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in {**files, "sums": sums.encode()}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600  # passwords may be among them
            tar.addfile(entry, io.BytesIO(data))


def _last(text: str, lines: int = 3) -> str:
    return "\n".join(text.strip().splitlines()[-lines:]) or "it said nothing"
