"""Times repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable


def durations_ms(
    call: Callable[[], object], seconds: float, *, min_calls: int = 5, max_calls: int | None = None
) -> list[float]:
    """Duration of each call in milliseconds. Repeats the call for a time, but not fewer or more times than stated.

    seconds: time after which no further call starts.
    """
    durations: list[float] = []
    until = time.perf_counter() + seconds
    while len(durations) < min_calls or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        durations.append(1000 * (time.perf_counter() - began))
        if max_calls is not None and len(durations) >= max_calls:
            break
    return durations
