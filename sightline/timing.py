"""Times repeated calls."""

from __future__ import annotations

import time
from collections.abc import Callable


def durations_ms(
    call: Callable[[], object],
    seconds: float,
    *,
    min_calls: int = 5,
    max_calls: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Duration of each call in milliseconds. Repeats the call for a time, within the limits of the number of calls.

    seconds: time after which no further call starts, unless `min_calls` are not reached.
    clock: monotonic, in seconds.
    """
    durations: list[float] = []
    until = clock() + seconds
    while len(durations) < min_calls or clock() < until:
        began = clock()
        call()
        durations.append(1000 * (clock() - began))
        if max_calls is not None and len(durations) >= max_calls:
            break
    return durations
