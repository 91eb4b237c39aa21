"""Latency statistics that never grow, however many months they are kept."""

from __future__ import annotations

import math

_LOWEST_MS, _GROWTH = 1e-3, 1.01
_BUCKETS = math.ceil(math.log(1e8) / math.log(_GROWTH))  # up to 100 s


class Histogram:
    """Counts of milliseconds in buckets 1 % wide: a percentile is right to 1 %, in 15 KB for ever."""

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
        """How many lie in the buckets up to `ms`, to 1 %."""
        return sum(self._counts[: int(math.log(ms / _LOWEST_MS) / math.log(_GROWTH)) + 1])

    def percentile(self, p: float) -> float:
        """Milliseconds under which `p` percent lie; 0 when nothing was added."""
        if not self.count:
            return 0.0
        left = math.ceil(self.count * p / 100)
        for index, n in enumerate(self._counts):
            left -= n
            if left <= 0:
                return float(_LOWEST_MS * _GROWTH ** (index + 0.5))
        raise AssertionError("the counts do not add up")
