"""Models that are broken in ways that no hash tells: our own code has an answer to each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NUMBER = 300


@pytest.mark.slow
def test_no_corrupted_model_is_taken_for_a_fault_of_our_own() -> None:
    """The ten thousand are in benchmarks/: there the rare ones turn up that crash or hang the interpreter natively,
    for which the agent tries a new model in a child."""
    command = [sys.executable, "-m", "benchmarks.corrupted_models", str(NUMBER)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])["outcomes"]
    assert sum(counted.values()) == NUMBER
    known = {"refused", "other_numbers", "passed", "passed_unchanged", "hung", "crashed_6", "crashed_11"}
    assert set(counted) <= known, "an unexpected exception"
    assert counted["refused"] > NUMBER / 2
