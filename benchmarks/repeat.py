"""Are the spreads right that `sightline bench` reports for its figures? `python -m benchmarks.repeat [BUNDLE]`.

It runs five times. Each run reports a median and its spread. Two runs agree if their medians differ by no more than the
sum of both spreads.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.agent import SIGHTLINE, make_bundle, show

RUNS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else make_bundle(Path(work))
        line = [*SIGHTLINE, "bench", bundle, "--noise", "1000", "--json"]
        runs = []
        for _ in range(RUNS):
            done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=True)
            (figures,) = json.loads(done.stdout)["figures"]
            runs.append(figures)
            print(json.dumps(figures), flush=True)
    for part in ("model", "whole"):
        pairs = list(itertools.combinations([(f[f"{part}_ms"], f[f"{part}_spread"]) for f in runs], 2))
        show(
            f"repeat/{part}",
            pairs=len(pairs),
            agree=sum(abs(a - b) <= a * s + b * t for (a, s), (b, t) in pairs),
            farthest=max(abs(a - b) / min(a, b) for (a, _), (b, _) in pairs),
        )


if __name__ == "__main__":
    main()
