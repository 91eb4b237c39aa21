"""systemd's notify protocol, with a socket that listens as systemd does."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.system.sd_notify import Watchdog


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        listener.settimeout(2)
        yield listener


def messages_in(listener: socket.socket) -> list[str]:
    listener.setblocking(False)
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(listener.recv(4096).decode())
    return messages


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_and_progress_are_reported(tmp_path: Path, abstract: bool) -> None:
    address = f"@sightline-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with listening(address) as listener:
        watchdog = Watchdog({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
        watchdog.ready(0.005)
        assert messages_in(listener) == ["WATCHDOG_USEC=3000000", "READY=1\nWATCHDOG=1"]
        for _ in range(100):
            watchdog.progress()
        assert messages_in(listener) == ["WATCHDOG=1"], "at most eight an interval, however fast the loop turns"
        watchdog.stopping()
        assert messages_in(listener) == ["STOPPING=1"]


def test_the_status_line_goes_to_systemctl_status(tmp_path: Path) -> None:
    with listening(str(tmp_path / "n")) as listener:
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "3000000"})
        watchdog.status = lambda: "29.9 frames a second"
        watchdog.progress()
        assert messages_in(listener) == ["WATCHDOG=1\nSTATUS=29.9 frames a second"]
        watchdog.stopping()


def test_progress_is_reported_eight_times_in_an_interval(tmp_path: Path) -> None:
    now = 0.0
    with listening(str(tmp_path / "n")) as listener:
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "400000"}, clock=lambda: now)
        for turn in range(200):
            now = turn * 0.002
            watchdog.progress()
        assert len(messages_in(listener)) == 8
        watchdog.stopping()


def test_a_slow_model_gets_the_time_that_it_needs(tmp_path: Path) -> None:
    with listening(str(tmp_path / "n")) as listener:
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "2000000"})
        watchdog.ready(1.5)
        assert messages_in(listener)[0] == "WATCHDOG_USEC=30000000"
        watchdog.allow(2.0)
        assert messages_in(listener) == ["WATCHDOG_USEC=40000000"], "a model that is slower still"
        watchdog.allow(0.1)
        assert messages_in(listener) == ["WATCHDOG_USEC=40000000"], "the slow model may still be running"
        watchdog.stopping()


def test_systemd_without_a_watchdog_receives_ready(tmp_path: Path) -> None:
    with listening(str(tmp_path / "n")) as listener:
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "n")})
        watchdog.ready(0.1)
        watchdog.progress()
        assert messages_in(listener) == ["READY=1\nWATCHDOG=1"]
        watchdog.stopping()


def test_without_a_supervisor_nothing_is_sent(tmp_path: Path) -> None:
    watchdog = Watchdog({})
    watchdog.ready(0.1)
    watchdog.progress()
    watchdog.stopping()
    gone = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "2000000"})
    gone.ready(0.1)
    gone.progress()
    gone.stopping()


def test_a_listener_that_does_not_read_stops_nothing(tmp_path: Path) -> None:
    with listening(str(tmp_path / "n")):
        watchdog = Watchdog({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1"})
        began = time.monotonic()
        for _ in range(3000):  # far more than its queue holds
            watchdog.progress()
        assert time.monotonic() - began < 2
        watchdog.stopping()
