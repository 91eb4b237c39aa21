"""`make demo`: from images to a streaming camera, with the commands that users run.

Trains a detector of handwritten digits, which are real scans on photographs. Converts it to int8 for a device. Runs the
agent on a camera clip in which held-out digits move, and tracks them. It takes some minutes on two cores, and writes to
the folder demo/.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.scattered import Digit, write_moving, write_scattered
from sightline.bundle import read_bundle
from sightline.metrics import iou

OUT = Path("demo")
DEVICE = "raspberry_pi_5"
TRAIN_IMAGES, VAL_IMAGES = 1500, 150
SIZES = (56, 110)  # pixels of a digit's longer side
MIN_IOU = 0.5  # of a detection with the digit that it finds


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    seconds_of: dict[str, float] = {}

    began = _phase("1/4  images: scans of digits on photographs, which both ship with scikit-learn")
    boxes = write_scattered(OUT / "images", train=TRAIN_IMAGES, val=VAL_IMAGES, sizes=SIZES)
    seconds_of["images"] = time.monotonic() - began
    print(f"{TRAIN_IMAGES + VAL_IMAGES:,} images with {boxes:,} boxes in {OUT / 'images'}, in COCO's format")

    began = _phase("2/4  train a detector")
    # without pretrained weights, which would be a download; without flips, because a mirrored digit is not a digit
    _sightline(
        "train", OUT / "images", "--task", "detect", "--out", OUT / "digits", "--arch", "mobilenetv4_conv_small_050",
        "--weights", "none", "--image-size", 128, "--epochs", 10, "--batch", 6, "--learning-rate", 0.003,
        "--augment", "light", "--no-flip",
    )  # fmt: skip
    seconds_of["train"] = time.monotonic() - began

    began = _phase(f"3/4  convert to int8 for {DEVICE}, and verify")
    bundle_path = OUT / "digits.bundle"
    _sightline("convert", OUT / "digits", "--device", DEVICE, "--out", bundle_path)
    seconds_of["convert"] = time.monotonic() - began

    began = _phase("4/4  run on a camera clip of held-out digits that move and cross, and track them")
    clip = OUT / "camera.mp4"
    truth = write_moving(clip)
    results, summary = OUT / "predictions.jsonl", OUT / "summary.json"
    _sightline(
        "run", bundle_path, "--source", clip, "--track", "--no-page", "--output", results, "--summary", summary
    )  # fmt: skip
    seconds_of["run"] = time.monotonic() - began

    metrics = read_bundle(bundle_path).manifest.metrics
    float32, int8 = metrics["float32"], metrics["static_int8"]
    figures = json.loads(summary.read_text())
    hits, objects, changes = _count_hits([json.loads(line) for line in results.read_text().splitlines()], truth)
    phases = ", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in seconds_of.items())
    print(
        f"""
Done in {sum(seconds_of.values()):.0f} s ({phases}).

  mAP          {int8["map"]:.1%} in int8, {float32["map"]:.1%} in float, on {metrics["images"]} held-out images \
(at IoU 0.5: {int8["map50"]:.1%})
  agreement    {int8["agreement"]:.2%} of the boxes are the same in int8 and in float
  size         {int8["bytes"] / 1024:,.0f} KiB, {float32["bytes"] / int8["bytes"]:.1f} times smaller than float
  on the clip  {hits:,} of {objects:,} digits found; {changes} changes of a track number; {figures["fps"]:.0f} \
frames per second on this machine
               ({figures["latency_ms"]["total"]["p50"]:.2f} ms from capture to prediction, 99 % below \
{figures["latency_ms"]["total"]["p99"]:.2f} ms)

  the bundle   {bundle_path}  (its report: {bundle_path.with_suffix(".report.html")})
  predictions  {results}

Try next:
  {_program()} run {bundle_path} --source {clip} --realtime --loop --track   # and open the page whose address it prints
  {_program()} run {bundle_path} --source 0 --track                           # your webcam: show it a digit
  {_program()} evaluate {OUT / "digits"} {bundle_path} {OUT / "images"} --report {OUT / "evaluation.html"}

With your own images, in one folder per class (or with boxes, and --task detect):
  {_program()} train IMAGES --out mine
  {_program()} convert mine --device {DEVICE} --out mine.bundle
  {_program()} run mine.bundle --source 0"""
    )


def _count_hits(results: Sequence[dict[str, Any]], truth: Sequence[Sequence[Digit]]) -> tuple[int, int, int]:
    """(digits that were found, digits, changes of a digit's track number), each counted over all frames."""
    hits = changes = 0
    last: dict[int, int] = {}
    for result, digits in zip(results, truth, strict=True):
        for k, digit in enumerate(digits):
            matches = [p for p in result["predictions"] if _matches(p, digit)]
            if matches:
                hits += 1
                number = matches[0].get("track")
                changes += number is not None and last.get(k, number) != number
                last[k] = number or last.get(k, 0)
    return hits, sum(map(len, truth)), changes


def _matches(prediction: dict[str, Any], digit: Digit) -> bool:
    """Whether the prediction has the digit's class and place."""
    box = prediction["box"]
    a = np.asarray([[box["x"], box["y"], box["width"], box["height"]]], np.float64)
    b = np.asarray([[digit.x, digit.y, digit.width, digit.height]], np.float64)
    return prediction["label"] == str(digit.label) and float(iou(a, b)[0, 0]) > MIN_IOU


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
