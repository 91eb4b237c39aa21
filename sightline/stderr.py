"""Standard error whose reader may be closed, full, stopped or gone. Lines may be lost; nothing else fails or waits."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
from collections import deque

MAX_WAITING_BYTES = 1 << 16  # for a reader that is stopped; a pipe holds as much
PATIENCE_S = 1.0  # how long `drain` waits for such a reader


class Stderr(io.TextIOBase):
    """Writes to a file descriptor and never raises.

    After `never_wait` a thread of its own writes, so no caller waits. Text that finds `MAX_WAITING_BYTES` in the queue
    is lost, and the next line that is written reports how many lines were lost.

    Threads: any thread may call `write` and `drain`; only the writer thread takes from the queue. `_queue`,
    `_queued_bytes` and `_lost_lines` change only while `_changed` is held. `_fd` and `_thread` are set once, in
    `never_wait`, which is called before other threads write.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int = 2, *, patience_s: float = PATIENCE_S) -> None:
        """patience_s: how long `drain` waits for a reader that takes nothing, in seconds."""
        self._fd = fd
        self._patience_s = patience_s
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0  # includes the text that is being written
        self._lost_lines = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        data = text.encode(self.encoding, self.errors)
        if self._thread is None:
            self._write(data)
            return len(text)
        with self._changed:
            if self._queued_bytes + len(data) > MAX_WAITING_BYTES:
                self._lost_lines += data.count(b"\n")
            elif data:
                self._queue.append(data)
                self._queued_bytes += len(data)
                self._changed.notify_all()
        return len(text)

    def never_wait(self) -> None:
        """Start the writer thread. It writes to a copy of the descriptor, so redirecting fd 2 does not change it."""
        if self._thread is None:
            self._fd = os.dup(self._fd)
            self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
            self._thread.start()

    def drain(self) -> bool:
        """Wait until everything is written, or until the reader takes nothing for `patience_s`.

        Returns whether everything is written.
        """
        before, until = -1, 0.0
        with self._changed:
            while self._queued_bytes and self._thread is not None:
                if self._queued_bytes != before:
                    before, until = self._queued_bytes, time.monotonic() + self._patience_s
                if not self._changed.wait(until - time.monotonic()):
                    return False
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                data, lost = self._queue.popleft(), self._lost_lines
                self._lost_lines = 0
            warning = f"warning: {lost} lines of stderr are lost: nobody reads it\n".encode() if lost else b""
            is_written = self._write(warning + data)
            with self._changed:
                self._queued_bytes -= len(data)
                if not is_written:
                    self._lost_lines += lost + data.count(b"\n")
                self._changed.notify_all()

    def _write(self, data: bytes) -> bool:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._fd, data) :]
        return not data
