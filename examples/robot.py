"""A robot that stops for what it was told to stop for: `python -m examples.robot BUNDLE SOURCE LABEL`.

The two lines a robot's program must not leave out: what was not seen is no reason to go on, and neither is what was
seen too long ago.
"""

from __future__ import annotations

import sys
import time

from edge import predictions

OLDEST_S = 0.3


def main(bundle: str, source: str, label: str) -> None:
    moving = False
    with predictions(bundle, source, threshold=0.6) as seen:
        for result in seen:
            late = (time.monotonic_ns() - result.captured_ns) / 1e9 > OLDEST_S
            free = result.status == "ok" and not late and all(p.label != label for p in result.predictions)
            if free != moving:
                moving = free
                drive(1.0 if free else 0.0)
    drive(0.0)


def drive(speed: float) -> None:
    """Yours: a motor driver, ROS, a serial line."""
    print(f"drive {speed:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
