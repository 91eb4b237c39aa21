"""Opens a bundle on this device, and proves that it computes the same outputs as on the machine that measured it."""

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
from sightline.device_config import DeviceConfig
from sightline.errors import InterpreterError, ModelError
from sightline.interpreter import Interpreter, TensorInfo
from sightline.npz import unpack_rows
from sightline.output_spec import OutputSpec
from sightline.predictions import ModelId

# int8 steps that an output may differ: x86 and Arm kernels differ by one; more than four are another model
GOLDEN_STEPS = 4
OUTLIER_FACTOR = 8  # a few of a detector's numbers may differ this many times as much as the others
GOLDEN_FRAMES = 2  # samples proven at every start; `convert` has proven them all

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Model:
    """An open, proven model.

    scheme: name of the variant.
    identity: name, version and hash, for the results.
    inference_s: duration of one inference at the proof, in seconds.
    """

    manifest: Manifest
    scheme: str
    identity: ModelId
    interpreter: Interpreter
    inference_s: float


def stamp_of(bundle: Path) -> Stamp | None:
    """A value that changes with the bundle or the bare model; None while it does not exist."""
    try:
        info = (bundle if bundle.is_file() else bundle / "manifest.json").stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def open_model(bundle: Bundle, config: DeviceConfig, scheme: str | None = None) -> Model:
    """Load a variant, and run its first golden frames.

    scheme: name of the variant; None = the one that fits the device's delegate.
    Raises ModelError for an inconsistent bundle, and InterpreterError if this machine computes other outputs than the
    measured ones.
    """
    variant, content, identity = bundle.variant(scheme or bundle.fitting(config.delegate))
    name = str(bundle.path / bundle.manifest.variants[variant])
    spec = bundle.manifest.input
    interpreter = Interpreter(content, spec, threads=config.threads, delegate=config.delegate, name=name)
    _check_outputs(interpreter, bundle.manifest, name)
    inference_s = _prove(bundle, variant, interpreter, name)
    return Model(bundle.manifest, variant, identity, interpreter, inference_s)


def _check_outputs(interpreter: Interpreter, manifest: Manifest, name: str) -> None:
    """Raises ModelError if the model's outputs differ from the manifest's description."""
    output = manifest.output
    if output.decoder and not output.strides:  # a foreign model: its shapes were checked when its kind was identified
        return
    if output.task == "detect":
        try:
            check_outputs(interpreter.outputs, output, manifest.input.width, manifest.input.height)
        except ValueError as e:
            raise ModelError(f"{name}: the model does not fit its manifest: {e}") from None
        return
    sizes = [int(np.prod(t.shape)) for t in interpreter.outputs]
    if sizes != [len(output.labels)]:
        raise ModelError(f"{name}: has {sizes} output values, but its manifest has {len(output.labels)} labels")


def _prove(bundle: Bundle, scheme: str, interpreter: Interpreter, name: str) -> float:
    """Compare the golden samples. Returns the duration of the last inference in seconds."""
    if bundle.path.is_file():  # a bare model has no measured outputs
        began = time.monotonic()
        width, height = interpreter.size
        interpreter(np.zeros((height, width, 3), np.uint8))
        return time.monotonic() - began
    if "golden.npz" not in bundle.contents:
        raise ModelError(f"{bundle.path}: has no golden.npz, so its outputs cannot be proven. Convert it again.")
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
        values = comparable(outputs, spec)
        for key, output, tensor in zip(keys, values, interpreter.outputs, strict=True):
            difference, allowed = _compare(output, golden[key][i], tensor, spec)
            if not difference <= allowed:
                raise InterpreterError(
                    f"{name}: this machine computes other outputs than the measured ones: a golden sample differs by "
                    f"{difference:.3g}, and rounding explains at most {allowed:.3g}. Try a device config with "
                    "delegate: none, and report the fault."
                )
    return seconds


def _compare(
    output: NDArray[np.float32], expected: NDArray[np.float32], tensor: TensorInfo, spec: OutputSpec
) -> tuple[float, float]:
    """(difference of an output from the measured one, largest allowed difference)."""
    if spec.decoder == "mask" and tensor.dtype.startswith("int"):  # classes: one step can change a pixel at an edge
        return float((output.reshape(-1) != expected.reshape(-1)).mean()), 0.01
    error = np.abs(output.reshape(-1) - expected.reshape(-1))
    difference = float(error.max())
    if spec.task != "classify":
        # of thousands of numbers a few differ more between kernels: up to 14 steps were measured, in empty cells. The
        # root of the mean square was never above 3.3 steps
        difference = max(float(np.sqrt(np.square(error).mean())), difference / OUTLIER_FACTOR)
    if spec.decoder in ("ssd", "boxes"):
        return difference, 0.02
    # float outputs of an int8 body move by steps too: 0.016 of their range is about four of 255 steps
    return difference, GOLDEN_STEPS * tensor.scale if tensor.scale else max(1e-3, 0.016 * float(np.ptp(expected)))
