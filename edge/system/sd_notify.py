"""Report the agent's progress to its supervisor with systemd's notify protocol. `--supervise` speaks it too.

A message is sent only when the main loop turns. A thread of its own would go on reporting progress while the
interpreter hangs. A camera that is away is no hang: the loop turns, and reports why it has no frame.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

from edge.inference.time_limit import MINIMUM_S, stuck_after_s

PINGS_PER_INTERVAL = 8  # at most, however fast the loop turns


class Watchdog:
    """Sends readiness, progress and status to systemd or to the supervisor.

    It does nothing where the environment has no NOTIFY_SOCKET.

    environment: holds NOTIFY_SOCKET and, if the supervisor expects progress, WATCHDOG_USEC.
    minimum_s: shortest watchdog interval in seconds.
    clock: monotonic time in seconds.
    status: returns one line for `systemctl status`, or ''.

    Threads: the main thread calls `ready`, `progress` and `stopping`. The hot-reload thread calls `allow`, but only
    after `ready`, so it is then the only writer of the interval, which `progress` reads as one float. Each message is
    one datagram, so messages of two threads cannot mix. A message after `stopping` is dropped.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        *,
        minimum_s: float = MINIMUM_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watched = bool(self._address) and environment.get("WATCHDOG_USEC", "").isdigit()
        self._interval_s = int(environment["WATCHDOG_USEC"]) / 1e6 if self._watched else 0.0
        self._minimum_s = minimum_s
        self._clock = clock
        self._socket: socket.socket | None = None
        self._next_ping_s = 0.0
        self.status: Callable[[], str] = lambda: ""
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self, inference_s: float) -> None:
        """Report that the model passed its golden samples. The cameras may still be away.

        inference_s: duration of one inference.
        """
        self.allow(inference_s)
        self._send("READY=1\nWATCHDOG=1")

    def allow(self, inference_s: float) -> None:
        """Lengthen the watchdog interval for a slow model. Call this before the model takes over.

        inference_s: duration of one inference.
        """
        if self._watched:
            self._interval_s = max(self._interval_s, stuck_after_s(inference_s, self._minimum_s))
            self._send(f"WATCHDOG_USEC={int(self._interval_s * 1e6)}")

    def progress(self) -> None:
        """Report progress and the status line. Call this at every turn of the loop."""
        if not self._watched:
            return
        now = self._clock()
        if now >= self._next_ping_s:
            self._next_ping_s = now + self._interval_s / PINGS_PER_INTERVAL
            status = self.status()
            self._send(f"WATCHDOG=1\nSTATUS={status}" if status else "WATCHDOG=1")

    def stopping(self) -> None:
        """Report that the agent is exiting. This is the last message."""
        self._send("STOPPING=1")
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        connection = self._socket  # one read: `stopping` in another thread may set it to None
        if connection is not None:
            address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            with contextlib.suppress(OSError):  # the listener is gone or its queue is full; neither may stop the loop
                connection.sendto(text.encode(), address)
