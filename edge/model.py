"""Opening a bundle on this device, and proving that it computes here what it computed where it was measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sightline.arrays import unpack
from sightline.bundle import Bundle, Manifest
from sightline.detect import check_outputs
from sightline.device import DeviceConfig
from sightline.errors import InterpreterError, ModelError
from sightline.interpreter import Interpreter
from sightline.predictions import ModelId

# an int8 step more or less is how x86 and Arm kernels differ; four are another model
GOLDEN_STEPS = 4
GOLDEN_FRAMES = 2  # at every start; `convert` has proven them all

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Model:
    """inference_s: seconds that one inference took, when it was proven."""

    manifest: Manifest
    scheme: str
    identity: ModelId
    interpreter: Interpreter
    inference_s: float


def stamp_of(bundle: Path) -> Stamp | None:
    """Changes with the bundle; None while there is none."""
    try:
        info = (bundle / "manifest.json").stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def open_model(bundle: Bundle, config: DeviceConfig, scheme: str | None = None) -> Model:
    """Load a variant, unless named the one that fits the device's delegate, and run the first golden frames through it.

    Raises ModelError for a bundle that does not fit together, InterpreterError where this machine computes other
    numbers than were measured.
    """
    chosen, content, identity = bundle.variant(scheme or bundle.fitting(config.delegate))
    name = str(bundle.path / bundle.manifest.variants[chosen])
    spec = bundle.manifest.input
    interpreter = Interpreter(content, spec, threads=config.threads, delegate=config.delegate, name=name)
    _check_outputs(interpreter, bundle.manifest, name)
    inference_s = _prove(bundle, chosen, interpreter, name)
    return Model(bundle.manifest, chosen, identity, interpreter, inference_s)


def _check_outputs(interpreter: Interpreter, manifest: Manifest, name: str) -> None:
    """Raises ModelError where they are not what the manifest says."""
    output = manifest.output
    if output.task == "detect":
        try:
            check_outputs(interpreter.outputs, output, manifest.input.width, manifest.input.height)
        except ValueError as e:
            raise ModelError(f"{name}: {e}, by its manifest") from None
        return
    sizes = [int(np.prod(t.shape)) for t in interpreter.outputs]
    if sizes != [len(output.labels)]:
        raise ModelError(f"{name}: gives {sizes} numbers, its manifest has {len(output.labels)} labels")


def _prove(bundle: Bundle, scheme: str, interpreter: Interpreter, name: str) -> float:
    """Seconds of the last inference."""
    if "golden.npz" not in bundle.contents:
        raise ModelError(f"{bundle.path}: has no golden.npz, so nothing proves what it computes; convert it again")
    keys = [f"{scheme}/output_{i}" for i in range(len(interpreter.outputs))]
    golden = unpack(bundle.contents["golden.npz"], str(bundle.path / "golden.npz"), "frames", *keys)
    seconds = 0.0
    for i, frame in enumerate(golden["frames"][:GOLDEN_FRAMES]):
        began = time.monotonic()
        outputs = interpreter(frame)
        seconds = time.monotonic() - began
        for key, output, tensor in zip(keys, outputs, interpreter.outputs, strict=True):
            expected = golden[key][i]
            difference = float(np.abs(output.reshape(-1) - expected.reshape(-1)).max())
            # float outputs of an int8 body move by steps too: a hundredth of their range is less than four of 255
            allowed = GOLDEN_STEPS * tensor.scale if tensor.scale else max(1e-3, 0.016 * float(np.ptp(expected)))
            if not difference <= allowed:
                raise InterpreterError(
                    f"{name}: this machine computes other numbers than were measured: a golden sample is off by "
                    f"{difference:.3g}, {allowed:.3g} is rounding; try --device with delegate: none, and report it"
                )
    return seconds
