"""Standard error whose reader may be closed, full, stopped or gone: that costs its lines, and nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import deque

ROOM = 1 << 16  # bytes that may wait for a reader that takes nothing, as in a pipe
PATIENCE_S = 1.0  # with such a reader, at the end


class Stderr(io.TextIOBase):
    """Writes to a file descriptor and never raises. `never_wait` has a thread write, so that no other one waits either;
    what finds `ROOM` bytes waiting is lost then, and is counted in the line that follows it."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._waiting: deque[bytes] = deque()
        self._bytes = self._lost = 0  # _bytes: with what is being written
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        data = text.encode(self.encoding, self.errors)
        if self._thread is None:
            self._written(data)
            return len(text)
        with self._changed:
            if self._bytes + len(data) > ROOM:
                self._lost += data.count(b"\n")
            elif data:
                self._waiting.append(data)
                self._bytes += len(data)
                self._changed.notify_all()
        return len(text)

    def never_wait(self) -> None:
        """From now on a thread of its own writes, to a copy of the descriptor, which no redirection of fd 2 changes."""
        if self._thread is None:
            self._fd = os.dup(self._fd)
            self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
            self._thread.start()

    def drain(self) -> None:
        """Wait until everything is written, or for a second in which nothing is."""
        before, until = -1, 0.0
        with self._changed:
            while self._bytes and self._thread is not None:
                if self._bytes != before:
                    before, until = self._bytes, time.monotonic() + PATIENCE_S
                if not self._changed.wait(until - time.monotonic()):
                    return

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data, lost = self._waiting.popleft(), self._lost
                self._lost = 0
            note = f"warning: {lost} lines of stderr are lost: nobody took them\n".encode() if lost else b""
            written = self._written(note + data)
            with self._changed:
                self._bytes -= len(data)
                if not written:
                    self._lost += lost + data.count(b"\n")
                self._changed.notify_all()

    def _written(self, data: bytes) -> bool:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]
        return not data
