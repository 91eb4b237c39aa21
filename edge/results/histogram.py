"""Latency percentiles in memory that does not grow with time."""

from __future__ import annotations

import math

_LOWEST_MS, _GROWTH = 1e-3, 1.01  # first bucket, and each one's size relative to the one before
_BUCKETS = math.ceil(math.log(1e8) / math.log(_GROWTH))  # up to 100 s


class Histogram:
    """Counts of milliseconds in buckets 1 % wide: percentiles are right to 1 %, and the memory stays at 15 KB.

    Threads: the publisher's thread adds; others read at any time, and may miss the value that is being added.
    """

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.sum_ms = 0.0

    def add(self, ms: float) -> None:
        index = int(math.log(max(ms, _LOWEST_MS) / _LOWEST_MS) / math.log(_GROWTH))
        self._counts[min(index, _BUCKETS - 1)] += 1
        self.count += 1
        self.sum_ms += ms

    def below(self, ms: float) -> int:
        """Number of values up to `ms`, to 1 %."""
        return sum(self._counts[: int(math.log(ms / _LOWEST_MS) / math.log(_GROWTH)) + 1])

    def percentile(self, p: float) -> float:
        """Milliseconds below which `p` percent of the values lie; 0 without values."""
        if not self.count:
            return 0.0
        left = math.ceil(self.count * p / 100)
        for index, n in enumerate(self._counts):
            left -= n
            if left <= 0:
                return float(_LOWEST_MS * _GROWTH ** (index + 0.5))
        raise AssertionError("the counts do not add up")
