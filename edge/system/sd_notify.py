"""Telling whoever watches this process that it makes progress: systemd's protocol, which `--supervise` speaks too.

A message goes out only when the loop turns, never from a thread of its own: a thread would go on saying that all is
well while the interpreter hangs. A camera that is away is no hang: the loop turns, and says why it sees nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable

from edge.inference.time_limit import stuck_after_s


class Watchdog:
    """Does nothing where nobody watches (no NOTIFY_SOCKET in the environment)."""

    def __init__(self, environment: os._Environ[str] | dict[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watched = bool(self._address) and environment.get("WATCHDOG_USEC", "").isdigit()
        self._interval_s = int(environment["WATCHDOG_USEC"]) / 1e6 if self._watched else 0.0
        self._socket: socket.socket | None = None
        self._due = 0.0
        self.status: Callable[[], str] = lambda: ""  # one line for `systemctl status`
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, inference_s: float) -> None:
        """The model has been proven by golden samples, which are its first inferences; the cameras may still be away.

        inference_s: of one of them."""
        self.allow(inference_s)
        self._send("READY=1\nWATCHDOG=1")

    def allow(self, inference_s: float) -> None:
        """A model that takes long gets a longer time to be watched with. Called before another model takes over."""
        if self._watched:
            self._interval_s = max(self._interval_s, stuck_after_s(inference_s))
            self._send(f"WATCHDOG_USEC={int(self._interval_s * 1e6)}")

    def progress(self) -> None:
        """Called at every turn of the loop; says so at most eight times an interval."""
        if not self._watched:
            return
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._interval_s / 8
            status = self.status()
            self._send(f"WATCHDOG=1\nSTATUS={status}" if status else "WATCHDOG=1")

    def stopping(self) -> None:
        """The last thing that is said."""
        self._send("STOPPING=1")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            with contextlib.suppress(OSError):  # nobody listens any more: nothing that this process could do
                self._socket.sendto(text.encode(), address)
