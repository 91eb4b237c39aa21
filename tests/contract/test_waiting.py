"""The helper that waits for a condition: its value, its limit, and a process that exits."""

from __future__ import annotations

import subprocess
import sys
import time
import unittest

import pytest

from benchmarks.support.needs import need
from benchmarks.support.waiting import wait_until


def test_it_returns_the_first_true_value() -> None:
    values = iter(["", 0, "here", "later"])
    assert wait_until(lambda: next(values), 5) == "here"


def test_after_the_limit_it_fails_with_the_message() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: the third result"):
        wait_until(lambda: False, 0.05, "the third result")
    with pytest.raises(AssertionError, match=r"\['a line'\]"):
        wait_until(lambda: False, 0.05, lambda: ["a line"])


def test_it_does_not_wait_for_a_process_that_has_exited() -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    began = time.monotonic()
    with pytest.raises(AssertionError, match="the process exited with 7"):
        wait_until(lambda: False, 60, process=process)
    assert time.monotonic() - began < 30


def test_a_missing_program_skips_a_test_and_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    need(True, "nothing")
    with pytest.raises(unittest.SkipTest, match="apt-get install x"):
        need(False, "apt-get install x")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RuntimeError, match="CI must have everything: apt-get install x"):
        need(False, "apt-get install x")
