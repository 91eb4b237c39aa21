"""How long one inference may take before it counts as stuck."""

from __future__ import annotations

# an inference may take so many times as long as it did at the start, before it counts as stuck
SLOWER = 20
MINIMUM_S = 2.0


def stuck_after_s(inference_s: float, minimum_s: float = MINIMUM_S) -> float:
    """Seconds in one inference after which it is stuck, for whoever asks: results, `/healthz`, and who restarts.

    inference_s: of one, when the model was proven."""
    return max(minimum_s, SLOWER * inference_s)
