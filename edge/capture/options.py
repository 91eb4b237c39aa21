"""What a user chooses for each camera."""

from __future__ import annotations

import math
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


DEFAULT_OPTIONS = CaptureOptions()
