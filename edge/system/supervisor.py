"""`sightline run --supervise`: a small parent process that does systemd's work where systemd is missing.

It starts the agent, and restarts it after a crash or a hang.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.backoff import Backoff
from sightline.child import python

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_WAKE_BYTES = 64  # read at once from the wake pipe; each byte is one signal


@dataclass(frozen=True)
class Limits:
    """How long the supervisor waits, in seconds.

    watchdog_s: for a sign of progress, unless the child asks for more time.
    starting_s: for a child that is not ready yet. It may open a large model from a slow card.
    ending_s: for a child that reported that it is exiting, and writes its last results.
    stop_s: for a child that was asked to stop.
    kill_s: between SIGABRT, upon which Python writes the stack of each thread, and SIGKILL.
    backoff_s: pause before the second restart in a row. Each further pause is twice as long.
    backoff_max_s: longest pause.
    healthy_s: a child that ran this long starts the pauses from the beginning.
    """

    watchdog_s: float = 2.0
    starting_s: float = 60.0
    ending_s: float = 60.0
    stop_s: float = 10.0
    kill_s: float = 0.3
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    healthy_s: float = 60.0


@dataclass
class Signals:
    """Signals that arrived, and a pipe that wakes `select` for each of them and for a child's death.

    wake_fd: read end of the pipe.
    stop: SIGTERM and SIGINT. hangups: SIGHUP.

    The supervisor has one thread: Python runs the signal handlers in it, between two bytecodes.
    """

    wake_fd: int
    stop: list[int] = field(default_factory=list)
    hangups: list[int] = field(default_factory=list)

    @classmethod
    def catch(cls) -> Signals:
        """Install the handlers in this process, for as long as it lives."""
        wake_read, wake_write = os.pipe()
        signals = cls(wake_read)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda n, _: signals.stop.append(n))
        signal.signal(signal.SIGHUP, lambda n, _: signals.hangups.append(n))
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return signals


def supervise(command: Sequence[str], log: Callable[[str], None], limits: Limits = Limits()) -> int:
    """Run `command` and restart it for ever. Returns its exit code once it must not run again.

    That is so if it exits with 0, if a signal stops this process, or if its first start exits with 2 (bad input).
    A child is killed if it reports no progress (see `Watchdog`) for the interval that it asked for, or has not exited
    `ending_s` after it reported that it is exiting. SIGHUP is passed on to it.

    log: called with one line for each end and each restart.
    """
    signals = Signals.catch()
    backoff, first_start = Backoff(limits.backoff_s, limits.backoff_max_s, immediate=1), True
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        path = str(Path(folder) / "notify")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(path)
        environment = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(int(limits.watchdog_s * 1e6))}
        died_at = 0.0
        while True:
            began = time.monotonic()
            child = subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent)
            ready, kill_reason = _Watch(child, listener, signals, limits, died_at, log).run()
            code = child.wait()
            died_at = time.monotonic()
            if signals.stop or code == 0 or (code == 2 and first_start and not ready):
                return code if code >= 0 else 128 - code
            first_start = first_start and not ready
            pause_s = 0.0
            if ready and died_at - began > limits.healthy_s:
                backoff.reset()
            else:
                pause_s = backoff.next_s()
            log(f"agent: {kill_reason or _cause(code)}; restarting{f' in {pause_s:.1f} s' if pause_s else ''}")
            rest(pause_s, signals)
            if signals.stop:
                return 128 + signals.stop[0]


def rest(
    pause_s: float,
    signals: Signals,
    *,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[..., tuple[list[Any], list[Any], list[Any]]] = select.select,
) -> None:
    """Wait `pause_s` seconds, or until a signal asks to stop. A child's death and SIGHUP do not end the pause.

    clock: monotonic time in seconds.
    wait: like `select.select`.
    """
    until = clock() + pause_s
    while not signals.stop and (left_s := until - clock()) > 0:
        if wait([signals.wake_fd], [], [], left_s)[0]:
            os.read(signals.wake_fd, _WAKE_BYTES)


@dataclass
class _Watch:
    """Watches one child until it has exited.

    died_at: when the child before it died, in monotonic seconds; 0 for the first child.
    ready, exiting: the child reported so. interval_s: the watchdog interval that it asked for.
    heard_at: time of its last message. stopped_at: when it was asked to stop; None = it was not.
    kill_reason: why it is being killed; '' = it is not.
    """

    child: subprocess.Popen[bytes]
    listener: socket.socket
    signals: Signals
    limits: Limits
    died_at: float
    log: Callable[[str], None]
    ready: bool = False
    exiting: bool = False
    interval_s: float = field(init=False)
    heard_at: float = field(default_factory=time.monotonic)
    stopped_at: float | None = None
    kill_reason: str = ""

    def __post_init__(self) -> None:
        self.interval_s = self.limits.watchdog_s

    def run(self) -> tuple[bool, str]:
        """Returns whether the child became ready, and why it was killed ('' = it was not)."""
        while self.child.poll() is None:
            timeout_s = max(0.0, self._deadline() - time.monotonic())
            inputs: list[Any] = [self.listener, self.signals.wake_fd]
            readable, _, _ = select.select(inputs, [], [], timeout_s)
            if self.signals.wake_fd in readable:
                os.read(self.signals.wake_fd, _WAKE_BYTES)
            if self.listener in readable:
                self._read_messages()
            self._pass_signals_on()
            if time.monotonic() >= self._deadline():
                self._enforce()
        return self.ready, self.kill_reason

    def _deadline(self) -> float:
        """When the child is killed unless it reports or exits before."""
        if self.stopped_at is not None:
            return self.stopped_at + (self.limits.kill_s if self.kill_reason else self.limits.stop_s)
        if self.exiting:
            return self.heard_at + self.limits.ending_s
        return self.heard_at + (self.interval_s if self.ready else self.limits.starting_s)

    def _read_messages(self) -> None:
        while True:
            try:
                message = self.listener.recv(4096, socket.MSG_DONTWAIT).decode(errors="replace")
            except BlockingIOError:
                return
            self.heard_at = time.monotonic()
            for line in message.splitlines():
                key, _, value = line.partition("=")
                if key == "WATCHDOG_USEC" and value.isdigit():
                    self.interval_s = int(value) / 1e6
                self.exiting |= key == "STOPPING"
                if key == "READY" and not self.ready:
                    self.ready = True
                    if self.died_at:
                        self.log(f"agent: ready again after {self.heard_at - self.died_at:.1f} s")

    def _pass_signals_on(self) -> None:
        while self.signals.hangups:
            number = self.signals.hangups.pop()
            if self.ready:  # SIGHUP would end a child without its handler, and a starting one reads the model anyway
                self.child.send_signal(number)
        if self.signals.stop and self.stopped_at is None:
            self.stopped_at = time.monotonic()
            self.child.send_signal(self.signals.stop[0])

    def _enforce(self) -> None:
        """Stop a child whose deadline has passed: first with SIGABRT, then with SIGKILL."""
        if self.stopped_at is not None:
            self.child.kill()
            return
        silent_s = time.monotonic() - self.heard_at
        if self.exiting:
            self.kill_reason = f"did not exit within {silent_s:.0f} s: killed"
        elif self.ready:
            self.kill_reason = f"no progress for {silent_s:.1f} s: killed"
        else:
            self.kill_reason = f"not ready after {silent_s:.0f} s: killed"
        self.stopped_at = time.monotonic()
        self.child.send_signal(signal.SIGABRT)


def _cause(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def log_to_stderr(line: str) -> None:
    """Write a line to stderr, or drop it: a reader that is gone or has stopped must not stop the supervisor.

    It uses no thread, because the supervisor forks.
    """
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{line}\n".encode())


def _die_with_parent() -> None:
    """In the child: die with the supervisor. A camera must not stay taken by an agent without one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """`python("edge.system.supervisor", ARGUMENTS)`: run `sightline ARGUMENTS` under supervision."""
    return supervise(python("sightline", *sys.argv[1:]), log_to_stderr)


if __name__ == "__main__":
    sys.exit(main())
