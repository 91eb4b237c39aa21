"""Opening a bundle on this device, and proving that it computes here what it computed where it was measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sightline.bundle import Bundle, Manifest
from sightline.decoders import comparable
from sightline.detection_postprocess import check_outputs
from sightline.device import DeviceConfig
from sightline.errors import InterpreterError, ModelError
from sightline.interpreter import Interpreter, TensorInfo
from sightline.npz import unpack_rows
from sightline.output_spec import OutputSpec
from sightline.predictions import ModelId

# an int8 step more or less is how x86 and Arm kernels differ; four are another model
GOLDEN_STEPS = 4
FEW = 8  # times as far some few of a detector's numbers may be off
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
    """Changes with the bundle, or the bare model; None while there is none."""
    try:
        info = (bundle if bundle.is_file() else bundle / "manifest.json").stat()
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
    if output.decoder and not output.strides:  # its shapes were read when it was recognized
        return
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
    if bundle.path.is_file():  # a bare model: nobody has measured what it computes
        began = time.monotonic()
        width, height = interpreter.size
        interpreter(np.zeros((height, width, 3), np.uint8))
        return time.monotonic() - began
    if "golden.npz" not in bundle.contents:
        raise ModelError(f"{bundle.path}: has no golden.npz, so nothing proves what it computes; convert it again")
    keys = [f"{scheme}/output_{i}" for i in range(len(interpreter.outputs))]
    width, height = interpreter.size
    shapes = {"frames": ("uint8", height * width * 3)}
    shapes |= {key: ("float32", math.prod(t.shape)) for key, t in zip(keys, interpreter.outputs, strict=True)}
    golden = unpack_rows(bundle.contents["golden.npz"], str(bundle.path / "golden.npz"), GOLDEN_FRAMES, shapes)
    seconds = 0.0
    for i, frame in enumerate(golden["frames"].reshape(-1, height, width, 3)):
        began = time.monotonic()
        outputs = interpreter(frame)
        seconds = time.monotonic() - began
        spec = bundle.manifest.output
        settled = comparable(outputs, spec)
        for key, output, tensor in zip(keys, settled, interpreter.outputs, strict=True):
            difference, allowed = _compare(output, golden[key][i], tensor, spec)
            if not difference <= allowed:
                raise InterpreterError(
                    f"{name}: this machine computes other numbers than were measured: a golden sample is off by "
                    f"{difference:.3g}, {allowed:.3g} is rounding; try --device with delegate: none, and report it"
                )
    return seconds


def _compare(
    output: NDArray[np.float32], expected: NDArray[np.float32], tensor: TensorInfo, spec: OutputSpec
) -> tuple[float, float]:
    """(how far an output is from what was measured, how far it may be)."""
    if spec.decoder == "mask" and tensor.dtype.startswith("int"):  # classes: a step tips a pixel at an edge
        return float((output.reshape(-1) != expected.reshape(-1)).mean()), 0.01
    error = np.abs(output.reshape(-1) - expected.reshape(-1))
    difference = float(error.max())
    if spec.task != "classify":  # of thousands of numbers some few are further off: other kernels, 14 steps, of cells
        # that see nothing; as a whole they were never more than 3.3 apart
        difference = max(float(np.sqrt(np.square(error).mean())), difference / FEW)
    if spec.decoder in ("ssd", "boxes"):
        return difference, 0.02
    # float outputs of an int8 body move by steps too: a hundredth of their range is less than four of 255
    return difference, GOLDEN_STEPS * tensor.scale if tensor.scale else max(1e-3, 0.016 * float(np.ptp(expected)))
