"""Cost of decoding boxes: `python -m benchmarks.detect`.

An int8 detector of 320 pixels with strides 8, 16 and 32 and 80 classes, with 100 cells over the threshold: the time
from raw outputs to boxes in the frame. It prints one JSON line. Its ratio is to one millisecond.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.agent import show
from sightline.detection_postprocess import detect
from sightline.interpreter import TensorInfo
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec, place

SIZE, CLASSES, SURVIVORS, STRIDES = 320, 80, 100, (8, 16, 32)


def main() -> None:
    rng = np.random.default_rng(0)
    tensors, outputs = [], []
    for stride in STRIDES:
        for channels, scale in ((CLASSES, 0.08), (4, 0.03)):
            shape = (1, SIZE // stride, SIZE // stride, channels)
            tensors.append(TensorInfo(len(tensors), "", shape, "int8", scale, 0))
            low, high = (-128, -20) if channels == CLASSES else (20, 120)
            outputs.append(rng.integers(low, high, shape).astype(np.int8))
    for _ in range(SURVIVORS):
        level = int(rng.integers(len(STRIDES)))
        flat = outputs[2 * level].reshape(-1)
        flat[rng.integers(flat.size)] = rng.integers(20, 100)
    spec = OutputSpec("detect", "sigmoid", tuple(map(str, range(CLASSES))), STRIDES, 0.5)
    placement = place(1280, 720, InputSpec(SIZE, SIZE))
    times = []
    for _ in range(500):
        began = time.perf_counter()
        boxes = detect(outputs, tensors, spec, placement, 0.5)
        times.append(1000 * (time.perf_counter() - began))
    show("detect_100_survivors_320px", ratio=statistics.median(times), boxes=len(boxes), ms=statistics.median(times))


if __name__ == "__main__":
    main()
