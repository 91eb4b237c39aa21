"""A robot that stops when the camera shows LABEL: `python -m examples.robot BUNDLE SOURCE LABEL`.

It also stops if a frame got no inference, or if the result is too old. A robot's program needs both checks.
"""

from __future__ import annotations

import sys
import time

from edge import predictions

MAX_AGE_S = 0.3  # of a result


def main(bundle: str, source: str, label: str) -> None:
    moving = False
    with predictions(bundle, source, threshold=0.6) as results:
        for result in results:
            is_late = (time.monotonic_ns() - result.captured_ns) / 1e9 > MAX_AGE_S
            free = result.status == "ok" and not is_late and all(p.label != label for p in result.predictions)
            if free != moving:
                moving = free
                drive(1.0 if free else 0.0)
    drive(0.0)


def drive(speed: float) -> None:
    """Replace it with your motor driver, ROS or serial line."""
    print(f"drive {speed:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
