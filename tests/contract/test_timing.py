"""The one loop that times repeated calls, with a clock that only the calls move."""

from __future__ import annotations

import pytest

from sightline.timing import durations_ms


class Clock:
    """now: seconds. Each call of `work` takes the next of `durations_s`, and then the last one for ever."""

    def __init__(self, *durations_s: float) -> None:
        self.now, self.durations_s = 0.0, list(durations_s)

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        self.now += self.durations_s.pop(0) if len(self.durations_s) > 1 else self.durations_s[0]


def test_each_call_has_its_duration() -> None:
    clock = Clock(0.02, 0.001, 0.003)
    assert durations_ms(clock.work, 0.0, min_calls=3, clock=clock) == pytest.approx([20, 1, 3])


@pytest.mark.parametrize(
    ("seconds", "limits", "calls"),
    [(1.0, {}, 8), (0.0, {"min_calls": 7}, 7), (60.0, {"max_calls": 9}, 9), (0.25, {"min_calls": 1}, 2)],
)
def test_it_repeats_for_the_time_and_within_the_limits(seconds: float, limits: dict[str, int], calls: int) -> None:
    clock = Clock(0.125)
    assert len(durations_ms(clock.work, seconds, clock=clock, **limits)) == calls
