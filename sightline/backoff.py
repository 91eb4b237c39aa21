"""The pauses between attempts to reach something that fails: a camera, a broker, a web server, an agent.

This module is for the supervisor too, a small process: it imports neither numpy nor cv2.
"""

from __future__ import annotations

from collections.abc import Callable

SPREAD = 0.3  # fraction: each pause is varied by at most this much, so that many devices do not retry at once
MAX_DOUBLINGS = 16


class Backoff:
    """The pause doubles with each failure in a row, up to a limit. Only one thread may use an object.

    failures: number of failures in a row, at most MAX_DOUBLINGS + `immediate`.
    """

    def __init__(
        self,
        first_s: float,
        limit_s: float,
        *,
        immediate: int = 0,
        vary: Callable[[float, float], float] | None = None,
    ) -> None:
        """
        first_s: first pause, in seconds.
        limit_s: longest pause, in seconds, before it is varied.
        immediate: number of attempts after the first failures that need no pause.
        vary: returns a factor between its two arguments. None = a random one.
        """
        self.failures = 0
        self._first_s, self._limit_s, self._immediate, self._vary = first_s, limit_s, immediate, vary

    def next_s(self) -> float:
        """Count a failure. Returns the seconds to wait before the next attempt."""
        doublings = self.failures - self._immediate
        self.failures = min(self.failures + 1, MAX_DOUBLINGS + self._immediate)
        if doublings < 0:
            return 0.0
        if self._vary is None:
            import random  # 2 ms, which a program without failures does not pay

            self._vary = random.uniform
        pause_s = min(self._limit_s, self._first_s * float(2**doublings))
        return pause_s * self._vary(1 - SPREAD, 1 + SPREAD)

    def reset(self) -> None:
        """An attempt succeeded: the next pause is the first one again."""
        self.failures = 0
