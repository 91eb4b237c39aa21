"""Run steps on a device through the system's ssh, with its keys, aliases, jump hosts and questions."""

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

STEP_S = 1800  # time limit of a step: a slow card needs minutes to unpack 200 MB
_SCRIPT = (Path(__file__).parent / "device.sh").read_text()


class StepError(DeviceError):
    """A step failed on the device. The text is its stderr.

    code: its exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Device:
    """A device that ssh reaches. One connection serves all steps. One thread uses it.

    to: USER@HOST, an alias, or ssh://USER@HOST:PORT.
    config: configuration file for ssh. None = its own default.
    ask: ssh may ask for a password on the terminal.
    password: the user's password for sudo. '' = none is needed.
    """

    to: str
    config: Path | None = None
    ask: bool = True
    password: str = ""
    _control: str = field(default="", init=False)

    def __post_init__(self) -> None:
        if not self.to or self.to.startswith("-") or not self.to.isprintable():
            raise ConfigError(f"--to {self.to!r}: not an address. Write USER@HOST, as for ssh")

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Share one connection between the steps in this context: one login, and one question for a password."""
        with tempfile.TemporaryDirectory(prefix="sl-") as folder:  # a socket's path has at most 107 bytes
            self._control = "" if os.name == "nt" else f"{folder}/c"
            try:
                yield
            finally:
                if self._control:
                    subprocess.run([*self._ssh(), "-O", "exit", self.to], capture_output=True)
                self._control = ""

    @property
    def host(self) -> str:
        """The host name that ssh resolves `to` into."""
        done = subprocess.run([*self._ssh(), "-G", self.to], capture_output=True, text=True)
        names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("hostname ")]
        return names[0] if names else self.to.rpartition("@")[2]

    def step(
        self, *arguments: str, files: Mapping[str, bytes] | None = None, text: str | None = None, extra_s: float = 0
    ) -> str:
        """Run one step of device.sh. Returns its stdout.

        files: {path: content}, sent to its stdin as a tar with their hashes.
        text: its stdin. Without files and text it is the password.
        extra_s: seconds that the step may take longer than STEP_S.
        Raises StepError with the step's stderr if it fails, and DeviceError if ssh does not reach the device.
        """
        remote = shlex.join(["sh", "-c", _SCRIPT, "sightline", *arguments])
        with tempfile.TemporaryFile() as stdin:
            if files is None:
                stdin.write((self.password + "\n" if text is None else text).encode())
            else:
                _pack(files, stdin)
            stdin.seek(0)
            try:
                done = subprocess.run([*self._ssh(), "--", self.to, remote], stdin=stdin, capture_output=True,
                                      text=True, errors="replace", timeout=STEP_S + extra_s)  # fmt: skip
            except FileNotFoundError:
                raise ConfigError("ssh is not installed on this machine: apt install openssh-client") from None
            except subprocess.TimeoutExpired:
                raise DeviceError(
                    f"{self.to}: the step {arguments[0]} took more than {(STEP_S + extra_s) / 60:.0f} minutes"
                ) from None
        if done.returncode == 255:
            raise DeviceError(f"{self.to}: ssh cannot reach the device: {_last_lines(done.stderr)}")
        if done.returncode:
            raise StepError(f"{self.to}: {_last_lines(done.stderr, 10)}", done.returncode)
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
    """Write a tar of the files and of `sums`, which holds their hashes as `sha256sum` prints them."""
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, data in {**files, "sums": sums.encode()}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600  # passwords may be among them
            tar.addfile(entry, io.BytesIO(data))


def _last_lines(text: str, count: int = 3) -> str:
    return "\n".join(text.strip().splitlines()[-count:]) or "no message"
