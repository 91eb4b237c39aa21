"""The duration after which an inference counts as stuck."""

from __future__ import annotations

STUCK_FACTOR = 20  # times the duration of an inference at the start
MINIMUM_S = 2.0  # for a fast model


def stuck_after_s(inference_s: float, minimum_s: float = MINIMUM_S) -> float:
    """Seconds in one inference after which it is stuck. Results, `/healthz` and the supervisors use it.

    inference_s: duration of one inference when the model was proven.
    """
    return max(minimum_s, STUCK_FACTOR * inference_s)
