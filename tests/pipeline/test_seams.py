"""The three seams, once, with a model whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import LABELS, Sightline


def test_a_run_becomes_a_bundle_that_reads_the_clip(bundle: Path, clip: Path, sightline: Sightline) -> None:
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page")
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["predictions"][0]["label"] for r in results] == [label for label in LABELS for _ in range(20)]
    assert [r["frame_id"] for r in results] == list(range(60))


@pytest.mark.parametrize("scheme", ["static_int8", "float32"])
def test_every_variant_runs(bundle: Path, clip: Path, sightline: Sightline, scheme: str) -> None:
    done = sightline("run", bundle, "--source", clip, "--json", "--no-page", "--scheme", scheme, "--frames", 3)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
