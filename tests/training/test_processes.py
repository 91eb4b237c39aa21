"""Training in several processes, as torchrun starts them, on this machine's CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sightline.run_folder import read_run
from tests.support.training import arguments

pytestmark = pytest.mark.slow


def torchrun(*program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])  # for tests.support
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_two_processes_end_in_one_run(pictures: Path, tmp_path: Path) -> None:
    done = torchrun("-m", "trainer", *arguments(pictures, tmp_path / "run", epochs=2, batch=8, json=True))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    run = read_run(tmp_path / "run")
    for name in run.files:
        run.read(name)
    assert json.loads(line)["accuracy"] == run.manifest.metrics["accuracy"]
    assert run.manifest.provenance["processes"] == 2
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
    assert done.stderr.count("48 training images") == 1, "each process told it"


@pytest.mark.parametrize("task", ["detect", "points"])
def test_two_processes_learn_boxes(spots: Path, tmp_path: Path, task: str) -> None:
    out = tmp_path / "run"
    options = {"task": task, "image_size": 64, "batch": 4, "epochs": 2}
    done = torchrun("-m", "trainer", *arguments(spots, out, json=True, **options))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    told, run = json.loads(line), read_run(out).manifest
    metric = "map" if task == "detect" else "f1"
    assert told[metric] == run.metrics[metric] and run.provenance["processes"] == 2


DIVIDED = """
import os, sys
from tests.support.training import run_line, with_accuracies
accuracies = (0.5, 0.5, 0.5, 0.5) if os.environ["RANK"] == "0" else (0.1, 0.2, 0.3, 0.4)
run_line(sys.argv[1:], with_accuracies(*accuracies))
"""


def test_processes_that_measure_otherwise_still_stop_together(pictures: Path, tmp_path: Path) -> None:
    """Batch norm's running means differ between processes, and so may their accuracies: one that stops early by its own
    leaves the others waiting for it."""
    (tmp_path / "divided.py").write_text(DIVIDED)
    out = tmp_path / "run"
    done = torchrun(str(tmp_path / "divided.py"), *arguments(pictures, out, batch=8, patience=1))
    assert done.returncode == 0, done.stderr
    assert read_run(out).manifest.metrics == {"accuracy": 0.5, "best_epoch": 1}
    assert len((out / "history.jsonl").read_text().splitlines()) == 2
