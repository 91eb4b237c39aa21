"""A detector whose answers are known, as the agent runs it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from sightline.bundle import Manifest, write_bundle
from sightline.interpreter import Interpreter
from sightline.npz import pack
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec
from tests.support.models import SpotNet


def write_crossing(path: Path, frames: int, step: int, start: int = 0) -> Path:
    """A clip of 320x200 at 30 frames a second: a red thing goes to the right, `step` pixels a frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (320, 200))
    for left in range(start, start + frames * step, step):
        picture = np.full((200, 320, 3), 90, np.uint8)
        picture[60:120, left : left + 60] = (30, 30, 230)
        writer.write(picture)
    writer.release()
    return path


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the variants static_int8 (default) and float32. Read only."""
    from converters.quantize.calibrate import observe, ranges
    from converters.quantize.quantize import quantize
    from converters.sources.from_torch import convert_program, open_program
    from trainer.export import save_program

    spec = InputSpec(64, 64)
    program = save_program(SpotNet().eval(), spec)
    content = convert_program(open_program(program, "spots"), "spots")
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    frames[:, 8:24, 8:24] = (230, 30, 30)
    frames[:, 40:56, 40:56] = (30, 30, 230)
    frames[:2] //= 4
    int8 = quantize(content, "static_int8", ranges(observe(content, frames, spec), "min_max"), "per_channel")
    files, golden = {}, {}
    for scheme, model in (("static_int8", int8), ("float32", content)):
        files[f"spots.{scheme}.tflite"] = model
        interpreter = Interpreter(model)
        outputs = [interpreter(frame) for frame in frames]
        golden |= {f"{scheme}/output_{i}": np.concatenate([o[i] for o in outputs]) for i in range(4)}
    output = OutputSpec("detect", "sigmoid", ("red", "blue"), (8, 16), 0.5)
    variants = {s: f"spots.{s}.tflite" for s in ("static_int8", "float32")}
    manifest = Manifest("spots", "1", "desktop", "static_int8", spec, output, variants, {}, {})
    path = tmp_path_factory.mktemp("bundle") / "spots.bundle"
    write_bundle(path, manifest, {**files, "golden.npz": pack(frames=frames, **golden)})
    return path
