"""`sightline run --supervise`: what systemd does, where there is none. A small parent that starts the agent, notices
that it makes no progress or has died, and starts it anew."""

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
from pathlib import Path
from typing import Any

from sightline.backoff import Backoff
from sightline.child import python

WATCHDOG_S = 2.0
STARTING_S = 60.0  # to open a large model on a slow card
ENDING_S = 60.0  # for one that ends by itself, and writes what it has
KILL_S = 0.3  # for SIGABRT, upon which Python writes where each thread was, before SIGKILL
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
HEALTHY_S = 60.0
_PR_SET_PDEATHSIG = 1


def supervise(command: Sequence[str], say: Callable[[str], None]) -> int:
    """Run `command` for ever; returns its exit code once it ends by itself (0), by a signal to us, or at once with bad
    input (2). say: told each end and each new start.

    It is killed when it does not say that it makes progress (see `Watchdog`) for the time that it asked for, or has not
    ended a minute after it said that it does. SIGHUP is passed on to it.
    """
    stopping: list[int] = []
    hangups: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopping.append(n))
    signal.signal(signal.SIGHUP, lambda n, _: hangups.append(n))
    wake_r, wake_w = os.pipe()  # a signal, and a child's death, wake the `select` below
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    backoff, first = Backoff(BACKOFF_S, BACKOFF_MAX_S, immediate=1), True
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        path = str(Path(folder) / "notify")
        ears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ears.bind(path)
        environment = {**os.environ, "NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        died_at = 0.0
        while True:
            began = time.monotonic()
            child = subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent)
            ready, why = _watch(child, ears, wake_r, stopping, hangups, died_at, say)
            code = child.wait()
            died_at = time.monotonic()
            if stopping or code == 0 or (code == 2 and first and not ready):
                return code if code >= 0 else 128 - code
            first = first and not ready
            pause = 0.0
            if ready and died_at - began > HEALTHY_S:
                backoff.reset()
            else:
                pause = backoff.next_s()
            say(f"agent: {why or _cause(code)}; starting it anew{f' in {pause:.1f} s' if pause else ''}")
            _rest(pause, wake_r, stopping)
            if stopping:
                return 128 + stopping[0]


def _rest(pause_s: float, wake_r: int, stopping: list[int]) -> None:
    """Until the time is over or a signal asks to stop. The byte of a child's death, or of SIGHUP, is none."""
    until = time.monotonic() + pause_s
    while not stopping and (left := until - time.monotonic()) > 0:
        if select.select([wake_r], [], [], left)[0]:
            os.read(wake_r, 64)


def _watch(
    child: subprocess.Popen[bytes],
    ears: socket.socket,
    wake_r: int,
    stopping: list[int],
    hangups: list[int],
    died_at: float,
    say: Callable[[str], None],
) -> tuple[bool, str]:
    """Until the child has ended. Returns whether it was ready once, and why it was killed, if it was."""
    ready, ending, interval, why = False, False, WATCHDOG_S, ""
    heard = time.monotonic()
    told: float | None = None  # when it was asked to end
    while child.poll() is None:
        limit = heard + (ENDING_S if ending else interval if ready else STARTING_S)
        if told is not None:
            limit = told + (KILL_S if why else 10.0)
        waiting: list[Any] = [ears, wake_r]
        readable, _, _ = select.select(waiting, [], [], max(0.0, limit - time.monotonic()))
        if wake_r in readable:
            os.read(wake_r, 64)
        while ears in readable:
            try:
                message = ears.recv(4096, socket.MSG_DONTWAIT).decode(errors="replace")
            except BlockingIOError:
                break
            heard = time.monotonic()
            for line in message.splitlines():
                key, _, value = line.partition("=")
                if key == "WATCHDOG_USEC" and value.isdigit():
                    interval = int(value) / 1e6
                ending |= key == "STOPPING"
                if key == "READY" and not ready:
                    ready = True
                    if died_at:
                        say(f"agent: ready again after {heard - died_at:.1f} s")
        while hangups:
            number = hangups.pop()
            if ready:  # before that it would end it; and it has not read the model yet
                child.send_signal(number)
        if stopping and told is None:
            told = time.monotonic()
            child.send_signal(stopping[0])
        elif time.monotonic() >= limit:
            if told is not None:
                child.kill()
            else:
                silent = time.monotonic() - heard
                why = f"no progress for {silent:.1f} s: killed" if ready else f"not ready after {silent:.0f} s: killed"
                why = f"not ended after {silent:.0f} s: killed" if ending else why
                told = time.monotonic()
                child.send_signal(signal.SIGABRT)
    return ready, why


def _cause(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def main() -> int:
    """`python("edge.system.supervisor", ARGUMENTS)`: of `sightline`, which run under supervision."""
    command = python("sightline", *sys.argv[1:])
    return supervise(command, say)


def say(line: str) -> None:
    """A reader of stderr that is gone, or has stopped, must not stop the supervisor. No thread here: it forks."""
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{line}\n".encode())


def _die_with_parent() -> None:
    """In the child: a camera must not stay taken by an agent whose supervisor is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
