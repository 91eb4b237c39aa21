"""A disk that is full on demand."""

from __future__ import annotations

from pathlib import Path

from edge.outputs import outbox


class Disk:
    """full: whether the disk has no free bytes. The test's thread writes it, and an outbox reads it: one bool."""

    def __init__(self) -> None:
        self.full = False

    def free_bytes(self, folder: Path) -> int:
        """For `Outbox`. Below zero: an outbox must not count on the free pages of its own file either."""
        return -(1 << 60) if self.full else outbox.free_bytes(folder)
