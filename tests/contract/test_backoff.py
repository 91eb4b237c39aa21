"""Backoff: pauses double, stay below a limit, are varied, and start from the first one after a success."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sightline.backoff import MAX_DOUBLINGS, SPREAD, Backoff


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def test_each_pause_is_twice_the_one_before_up_to_the_limit() -> None:
    backoff = Backoff(0.5, 30.0, vary=middle)
    assert [backoff.next_s() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_after_a_success_the_first_pause_comes_again() -> None:
    backoff = Backoff(0.5, 30.0, vary=middle)
    for _ in range(3):
        backoff.next_s()
    assert backoff.failures == 3
    backoff.reset()
    assert (backoff.failures, backoff.next_s()) == (0, 0.5)


def test_the_first_attempts_may_come_at_once() -> None:
    backoff = Backoff(0.5, 30.0, immediate=1, vary=middle)
    assert [backoff.next_s() for _ in range(4)] == [0, 0.5, 1, 2]
    backoff.reset()
    assert backoff.next_s() == 0


def test_pauses_are_varied_within_the_spread() -> None:
    pauses = [Backoff(10.0, 10.0).next_s() for _ in range(200)]
    assert len(set(pauses)) > 100
    assert min(pauses) >= 10 * (1 - SPREAD) and max(pauses) <= 10 * (1 + SPREAD)


@pytest.mark.parametrize("immediate", [0, 1])
def test_months_of_failures_neither_overflow_nor_grow(immediate: int) -> None:
    backoff = Backoff(0.001, 1e9, immediate=immediate, vary=middle)
    for _ in range(10_000):
        pause = backoff.next_s()
    assert pause == 0.001 * 2**MAX_DOUBLINGS and backoff.failures == MAX_DOUBLINGS + immediate


def test_the_supervisor_stays_small() -> None:
    code = "import sys, edge.system.supervisor; assert not {'numpy', 'cv2'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
