"""A Debian machine without virtual hardware: systemd as process 1 of its own namespaces, sshd, sudo, and a user `pi`.

Its system calls, units, logins and cgroups are real. It shares this machine's kernel and network. Its files lie in an
overlay, which is removed with it. Needs root and Debian (apt, mmdebstrap).
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.broker import free_port
from benchmarks.support.waiting import wait_until
from tests.support.debian import call, source

SUITE = "bookworm"
PACKAGES = (
    "python3", "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "ca-certificates", "libgomp1", "libstdc++6",
    "procps",
)  # fmt: skip
GROUPS = "video,systemd-journal"
BOOT = Path(__file__).with_name("deploy_boot.sh")


@dataclass(frozen=True)
class Machine:
    """A booted machine.

    root: folder with its files, on this machine.
    ssh_config: configuration file in which the machine is called `device`.
    port: port of its sshd.
    """

    root: Path
    ssh_config: Path
    port: int

    def ssh(self, command: str, timeout: float = 60) -> str:
        """Run a command as `pi`. Returns its stdout; raises CalledProcessError."""
        line = ["ssh", "-F", str(self.ssh_config), "device", command]
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=True).stdout

    def sudoers(self, text: str) -> None:
        """Replace the rights of `pi` for sudo."""
        path = self.root / "etc/sudoers.d/pi"
        path.write_text(text)
        path.chmod(0o440)


def build(work: Path) -> Path:
    """Returns the folder with the machine's system, and makes it at the first call."""
    root = work / f"root-{SUITE}"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        call("mmdebstrap", "-q", "--variant=apt", f"--include={','.join(PACKAGES)}", SUITE, root,
              f"deb {source()} {SUITE} main")  # fmt: skip
        call("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "--groups", GROUPS, "pi")
        (root / "complete").touch()
    return root


@contextlib.contextmanager
def booted(system: Path, work: Path, *, index: bool) -> Iterator[Machine]:
    """Boot a machine.

    system: result of `build`.
    index: the machine reaches this machine's package index.
    """
    for folder in ("upper", "work", "merged"):
        (work / folder).mkdir(parents=True)
    port = free_port()
    upper, root = work / "upper", work / "merged"
    key = work / "key"
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    config = work / "ssh_config"
    config.write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  User pi\n  IdentityFile {key}\n  IdentitiesOnly yes\n"
        "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    layers = f"lowerdir={system},upperdir={upper},workdir={work / 'work'}"
    call("mount", "-t", "overlay", "overlay", "-o", layers, root)
    try:
        (root / "etc/ssh/sshd_config.d/here.conf").write_text(f"Port {port}\nListenAddress 127.0.0.1\nMaxStartups 50\n")
        (root / "etc/hosts").write_text("127.0.0.1 localhost device\n")
        (root / "etc/hostname").write_text("device\n")
        login = root / "home/pi/.ssh"
        login.mkdir()
        shutil.copy(key.with_suffix(".pub"), login / "authorized_keys")
        call("chroot", root, "chown", "-R", "pi:pi", "/home/pi")
        (root / "etc/resolv.conf").unlink(missing_ok=True)
        if index:
            for name in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt", "etc/pip.conf"):
                if Path("/", name).exists():
                    shutil.copy(Path("/", name), root / name)
        machine = Machine(root, config, port)
        machine.sudoers("pi ALL=(root) NOPASSWD: ALL\n")
        with (work / "boot.log").open("w") as log:
            first = subprocess.Popen(
                ["sh", BOOT, root],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(lambda: _is_running(machine), 60, (work / "boot.log").read_text, process=first)
            yield machine
        finally:
            first.kill()
            first.wait(30)
            for group in Path("/sys/fs/cgroup").rglob(f"machine-{first.pid}"):
                for folder in [*sorted(p for p in group.rglob("*") if p.is_dir())[::-1], group]:
                    with contextlib.suppress(OSError):  # a process in it has not exited yet
                        folder.rmdir()
    finally:
        unmount = ["umount", "--recursive", root]
        with contextlib.suppress(AssertionError):
            wait_until(lambda: subprocess.run(unmount, capture_output=True).returncode == 0, 10)


def _is_running(machine: Machine) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return "running" in machine.ssh("systemctl is-system-running --wait || true", 30)
    return False
