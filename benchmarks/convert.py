"""Cost of `sightline convert` over that of the bare libraries: `python -m benchmarks.convert RUN`.

It compares whole processes from start to end. `sightline convert` measures its result on the held-out images and
refuses a bad one. benchmarks/bare_convert.py calls litert-torch and ai-edge-quantizer on the same program and the
same calibration images. The two alternate, and the medians are compared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.agent import SIGHTLINE, show

ROUNDS = 3


def main() -> None:
    run = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        folder = Path(name)
        bare = [sys.executable, str(Path(__file__).with_name("bare_convert.py")), str(run), str(folder / "bare.tflite")]
        ours = [*SIGHTLINE, "convert", str(run), "--device", "desktop", "--out", str(folder / "ours.bundle")]
        rounds = [(seconds(ours), seconds(bare)) for _ in range(ROUNDS)]
    mine, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    show("convert_over_bare", ratio=mine / theirs, convert_s=mine, bare_s=theirs)


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
