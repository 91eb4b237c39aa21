"""Sightline and similar programs on the same int8 model and 720p clip: `python -m benchmarks.peers [options]`.

    --ultralytics ENV/bin/yolo      command in an environment with `ultralytics` and `ai-edge-litert`
    --inference ENV/bin/python      Python of an environment with Roboflow's `inference` and `ai-edge-litert`

Each is a whole program with one inference thread, run as its documentation describes. The milliseconds a frame come
from the difference between a long and a short clip, without the start. The start is a separate figure. The programs
alternate for three rounds. It prints one JSON line with the medians of each.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from benchmarks.agent import FRAMES, SIGHTLINE, SIZE, make_bundle, make_clip, make_device, peak_mb, show
from sightline.bundle import read_bundle

SHORT, ROUNDS = 60, 3


@click.command()
@click.option("--ultralytics", type=click.Path(exists=True))
@click.option("--inference", type=click.Path(exists=True))
def main(ultralytics: str | None, inference: str | None) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "true"}
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        folder = Path(name)
        os.environ["YOLO_CONFIG_DIR"] = name
        bundle, device = make_bundle(folder), make_device(folder)
        model = folder / "model_int8.tflite"  # its kind is read from its name
        model.write_bytes((bundle / next(iter(read_bundle(bundle).manifest.variants.values()))).read_bytes())
        long, short = (make_clip(folder / f"{n}.mp4", n) for n in (FRAMES, SHORT))

        def commands(clip: Path) -> dict[str, list[str]]:
            here = Path(__file__).parent
            programs = {
                "sightline": [*SIGHTLINE, "run", str(bundle), "--source", str(clip), "--device", str(device), "--json"],
                "bare script": [sys.executable, str(here / "bare.py"), str(model), str(clip), str(SIZE)],
            }
            if ultralytics:
                programs["ultralytics"] = [
                    ultralytics, "classify", "predict", f"model={model}", f"source={clip}", f"imgsz={SIZE}",
                    "save=False", f"project={folder}",
                ]  # fmt: skip
            if inference:
                programs["inference"] = [inference, str(here / "peer_inference.py"), str(model), str(clip), str(SIZE)]
            return programs

        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands(long)}
        for _ in range(ROUNDS):
            for name in times:
                times[name].append((seconds(commands(long)[name]), seconds(commands(short)[name])))
        for name, rounds in times.items():
            ms = statistics.median(1000 * (a - b) / (FRAMES - SHORT) for a, b in rounds)
            start = statistics.median(b - ms / 1000 * SHORT for _, b in rounds)
            show(f"peers/{name}", ms_a_frame=ms, start_and_end_s=start, peak_mb=peak_mb(commands(short)[name]))


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
