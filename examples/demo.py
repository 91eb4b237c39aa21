"""`make demo`: from real pictures to a streaming camera, with the same commands that everybody uses.

Learns to find handwritten digits, real scans that are scattered over photographs, converts the detector to int8 for a
device, and runs the agent on a camera clip in which digits that training never saw go their ways and are followed.
Some minutes on two cores; everything lands in the folder demo/.
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

from examples.scattered import Digit, write_moving, write_scattered
from sightline.bundle import read_bundle

OUT = Path("demo")
DEVICE = "raspberry_pi_5"
PICTURES, HELD_OUT, SIZES = 1500, 150, (56, 110)


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    took: dict[str, float] = {}

    began = _phase("1/4  pictures: scans of digits over photographs, both of which ship with scikit-learn")
    boxes = write_scattered(OUT / "pictures", train=PICTURES, val=HELD_OUT, sizes=SIZES)
    took["pictures"] = time.monotonic() - began
    print(f"{PICTURES + HELD_OUT:,} pictures with {boxes:,} boxes in {OUT / 'pictures'}, in COCO's form")

    began = _phase("2/4  train a detector")
    # from nothing, because weights would be a download; no flips, because a mirrored digit is none
    _sightline(
        "train", OUT / "pictures", "--task", "detect", "--out", OUT / "digits", "--arch", "mobilenetv4_conv_small_050",
        "--weights", "none", "--image-size", 128, "--epochs", 10, "--batch", 6, "--learning-rate", 0.003,
        "--augment", "light", "--no-flip",
    )  # fmt: skip
    took["train"] = time.monotonic() - began

    began = _phase(f"3/4  convert to int8 for {DEVICE}, and verify")
    bundle_path = OUT / "digits.bundle"
    _sightline("convert", OUT / "digits", "--device", DEVICE, "--out", bundle_path)
    took["convert"] = time.monotonic() - began

    began = _phase("4/4  run on a camera clip of held-out digits that move and cross, and follow them")
    clip = OUT / "camera.mp4"
    truth = write_moving(clip)
    results, summary = OUT / "predictions.jsonl", OUT / "summary.json"
    _sightline(
        "run", bundle_path, "--source", clip, "--track", "--no-page", "--output", results, "--summary", summary
    )  # fmt: skip
    took["run"] = time.monotonic() - began

    metrics = read_bundle(bundle_path).manifest.metrics
    float32, int8 = metrics["float32"], metrics["static_int8"]
    figures = json.loads(summary.read_text())
    found, there, changes = _followed([json.loads(line) for line in results.read_text().splitlines()], truth)
    print(
        f"""
Done in {sum(took.values()):.0f} s ({", ".join(f"{phase} {seconds:.0f} s" for phase, seconds in took.items())}).

  mAP          {int8["map"]:.1%} in int8, {float32["map"]:.1%} in float, on {metrics["pictures"]} new pictures \
(at IoU 0.5: {int8["map50"]:.1%})
  agreement    int8 draws float's boxes in {int8["agreement"]:.2%} of the cases
  size         {int8["bytes"] / 1024:,.0f} KiB, {float32["bytes"] / int8["bytes"]:.1f} times smaller than float
  on the clip  digits found {found:,} of {there:,} times; their number changed {changes} times; {figures["fps"]:.0f} \
frames a second here
               ({figures["latency_ms"]["total"]["p50"]:.2f} ms from capture to prediction, 99 % under \
{figures["latency_ms"]["total"]["p99"]:.2f} ms)

  the bundle   {bundle_path}  (its report: {bundle_path.with_suffix(".report.html")})
  predictions  {results}

Try next:
  {_program()} run {bundle_path} --source {clip} --realtime --loop --track   # and open the page that it names
  {_program()} run {bundle_path} --source 0 --track                           # your webcam: hold a digit before it
  {_program()} evaluate {OUT / "digits"} {bundle_path} {OUT / "pictures"} --report {OUT / "evaluation.html"}

With your own pictures, in one folder per class (or with boxes, and --task detect):
  {_program()} train PICTURES --out mine
  {_program()} convert mine --device {DEVICE} --out mine.bundle
  {_program()} run mine.bundle --source 0"""
    )


def _followed(results: Sequence[dict[str, Any]], truth: Sequence[Sequence[Digit]]) -> tuple[int, int, int]:
    """(how often a digit was found, where it is and as what it is; how often there was one; how often the number of one
    changed from one time that it was found to the next)."""
    found = changes = 0
    last: dict[int, int] = {}
    for result, there in zip(results, truth, strict=True):
        for k, digit in enumerate(there):
            hits = [
                p for p in result["predictions"] if p["label"] == str(digit.label) and _overlap(p["box"], digit) > 0.5
            ]
            if hits:
                found += 1
                number = hits[0].get("track")
                changes += number is not None and last.get(k, number) != number
                last[k] = number or last.get(k, 0)
    return found, sum(map(len, truth)), changes


def _overlap(box: dict[str, float], d: Digit) -> float:
    """Intersection over union."""
    width = min(box["x"] + box["width"], d.x + d.width) - max(box["x"], d.x)
    height = min(box["y"] + box["height"], d.y + d.height) - max(box["y"], d.y)
    shared = max(width, 0) * max(height, 0)
    return shared / (box["width"] * box["height"] + d.width * d.height - shared)


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
