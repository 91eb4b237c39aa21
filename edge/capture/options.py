"""Options of a capture: what its user chooses for each camera, and the times after which it acts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from sightline.errors import ConfigError


@dataclass(frozen=True)
class CaptureOptions:
    """A user's options for one camera. A replay ignores them. Raises ConfigError for a number below 0, and for NaN.

    max_fps: maximum number of inferences a second; 0 = no limit.
    motion: minimum percentage of changed pixels for an inference; 0 = no minimum.
    frozen_s: seconds of one identical image after which the camera counts as frozen and is reopened; 0 = never.
    """

    max_fps: float = 0.0
    motion: float = 0.0
    frozen_s: float = 10.0

    def __post_init__(self) -> None:
        for key in ("max_fps", "motion", "frozen_s"):
            value = getattr(self, key)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{key} must be a finite number of at least 0, not {value:g}")


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


DEFAULT_OPTIONS, DEFAULT_TIMES = CaptureOptions(), CaptureTimes()
