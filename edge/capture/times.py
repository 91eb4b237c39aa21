"""When a lost or hung camera is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CaptureTimes:
    """When a capture tries again or gives up, in seconds.

    backoff_s: pause before the first attempt to reopen a camera; it doubles after each failed attempt.
    backoff_max_s: longest pause.
    vary: returns the random factor of a pause, between its two arguments.
    hang_s: time in one call of a source after which the call counts as hung; longer than the sources' own time-outs.
    hang_max_s: the same after many hangs in a row, where it doubles each time.
    """

    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    vary: Callable[[float, float], float] = random.uniform
    hang_s: float = 10.0
    hang_max_s: float = 600.0


DEFAULT_TIMES = CaptureTimes()
