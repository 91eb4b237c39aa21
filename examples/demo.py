"""`make demo`: from real pictures to a streaming camera, with the same commands that everybody uses.

Trains on scikit-learn's scans of handwritten digits, converts to int8 for a device, and runs the agent on a camera clip
of digits that training never saw. About two minutes on two cores; everything lands in the folder demo/.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from examples.digits import Shot, write_clip, write_pictures
from sightline.bundle import read_bundle
from sightline.run_folder import read_run

OUT = Path("demo")
DEVICE = "raspberry_pi_5"
DIGITS_IN_CLIP = 24


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    took: dict[str, float] = {}

    began = _phase("1/4  pictures: scans of handwritten digits that ship with scikit-learn")
    count = write_pictures(OUT / "pictures")
    took["pictures"] = time.monotonic() - began
    print(f"{count} pictures in {OUT / 'pictures'}, one folder a class")

    began = _phase("2/4  train")
    # from nothing, because weights would be a download; no flips, because a mirrored digit is none
    _sightline(
        "train", OUT / "pictures", "--out", OUT / "digits", "--arch", "mobilenetv4_conv_small_050", "--weights", "none",
        "--image-size", 64, "--resize", "center_crop", "--epochs", 30, "--batch", 32, "--augment", "light", "--no-flip",
    )  # fmt: skip
    took["train"] = time.monotonic() - began

    began = _phase(f"3/4  convert to int8 for {DEVICE}, and verify")
    bundle_path = OUT / "digits.bundle"
    _sightline("convert", OUT / "digits", "--device", DEVICE, "--out", bundle_path)
    took["convert"] = time.monotonic() - began

    began = _phase("4/4  run on a camera clip of held-out digits: swaying, noisy, unevenly lit")
    root, files = read_run(OUT / "digits").heldout()
    bundle = read_bundle(bundle_path)
    labels = bundle.manifest.output.labels
    chosen = random.Random(0).sample(files, DIGITS_IN_CLIP)
    clip = OUT / "camera.mp4"
    shots = write_clip(clip, [(root / file, labels[label]) for file, label in chosen])
    results, summary = OUT / "predictions.jsonl", OUT / "summary.json"
    _sightline("run", bundle_path, "--source", clip, "--no-page", "--output", results, "--summary", summary)
    took["run"] = time.monotonic() - began

    metrics = bundle.manifest.metrics
    float32, int8 = metrics["float32"], metrics["static_int8"]
    figures = json.loads(summary.read_text())
    right = _digits_recognized(results, shots)
    print(
        f"""
Done in {sum(took.values()):.0f} s ({", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in took.items())}).

  accuracy     {int8["accuracy"]:.2%} in int8, {float32["accuracy"]:.2%} in float, on {metrics["pictures"]} new digits
  agreement    int8 gives float's answer on {int8["agreement"]:.2%} of them
  size         {int8["bytes"] / 1024:,.0f} KiB, {float32["bytes"] / int8["bytes"]:.1f} times smaller than float
  on the clip  {right} of {len(shots)} digits recognized, {figures["fps"]:.0f} frames a second on this machine
               ({figures["latency_ms"]["total"]["p50"]:.2f} ms from capture to prediction, 99 % under \
{figures["latency_ms"]["total"]["p99"]:.2f} ms)

  the bundle   {bundle_path}  (its report: {bundle_path.with_suffix(".report.html")})
  predictions  {results}

Try next:
  {_program()} run {bundle_path} --source {clip} --realtime --loop     # and open the page that it names
  {_program()} run {bundle_path} --source 0                                  # your webcam: hold a digit before it
  {_program()} convert {OUT / "digits"} --device coral_usb --out {OUT / "coral.bundle"}     # another device

With your own pictures, in one folder per class:
  {_program()} train PICTURES --out mine
  {_program()} convert mine --device {DEVICE} --out mine.bundle
  {_program()} run mine.bundle --source 0"""
    )


def _digits_recognized(results: Path, shots: Sequence[Shot]) -> int:
    """Shots in which the digit before the camera is what most frames say."""
    best = {}
    for line in results.read_text().splitlines():
        result = json.loads(line)
        best[result["frame_id"]] = result["predictions"][0]["label"]
    votes = [Counter(best[i] for i in range(shot.first, shot.last)) for shot in shots]
    return sum(vote.most_common(1)[0][0] == shot.label for vote, shot in zip(votes, shots, strict=True))


def _phase(title: str) -> float:
    print(f"\n=== {title}", flush=True)
    return time.monotonic()


def _program() -> str:
    return str(Path(sys.executable).with_name("sightline").relative_to(Path.cwd()))


def _sightline(*arguments: object) -> None:
    command = [str(Path(sys.executable).with_name("sightline")), *map(str, arguments)]
    print(f"$ sightline {' '.join(command[1:])}", flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(e.returncode)
