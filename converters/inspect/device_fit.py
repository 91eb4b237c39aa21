"""How well a model fits a device, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from converters.edgetpu.rules import CONVERT_FOR_CORAL
from converters.inspect.model import Inspection
from sightline.device_config import DeviceConfig

_RUNNER_INPUTS = {"browser": "float32", "android": "float32"}  # dtype that a runner passes to the model


@dataclass(frozen=True)
class Remark:
    """fits: whether the device can use the model as it is. text: the fact, and what to change."""

    fits: bool
    text: str


def remarks_for(i: Inspection, config: DeviceConfig) -> list[Remark]:
    """The facts about a model that matter to a device."""
    return [*_size(i, config), *_delegate(i, config), *_input(i, config), *_scheme(i, config)]


def _size(i: Inspection, config: DeviceConfig) -> Iterator[Remark]:
    kib, limit = i.bytes / 1024, config.max_model_kib
    if limit:
        change = "" if kib <= limit else ". Train a smaller --arch, or convert with --scheme static_int8."
        yield Remark(kib <= limit, f"{kib:,.0f} KiB of at most {limit:,} KiB{change}")


def _delegate(i: Inspection, config: DeviceConfig) -> Iterator[Remark]:
    if config.delegate == "edgetpu":
        if i.edgetpu.compiled:
            yield Remark(True, "compiled for the Edge TPU")
        else:
            text = f"not compiled for the Edge TPU; {CONVERT_FOR_CORAL} where edgetpu_compiler is installed"
            yield Remark(False, text)
    elif i.edgetpu.compiled:
        text = f"compiled for the Edge TPU, but the device's delegate is {config.delegate}. Use the plain variant."
        yield Remark(False, text)
    elif config.delegate == "none":
        yield Remark(True, "TFLite's own kernels run all ops (delegate: none)")
    elif not i.runtime.load_error:
        slow = sum(op.macs for op in i.not_in_xnnpack)
        text = f"{1 - slow / max(1, i.macs):.1%} of the MACs run in XNNPACK"
        change = f"; the others run in slow kernels: convert with --scheme {config.scheme}" if slow else ""
        yield Remark(not slow, text + change)


def _input(i: Inspection, config: DeviceConfig) -> Iterator[Remark]:
    dtype = _RUNNER_INPUTS.get(config.runner)
    if dtype and any(t.dtype != dtype for t in i.inputs):
        text = (
            f"the {config.runner} passes {dtype}, but the input is {i.inputs[0].dtype}: "
            "convert with --scheme static_int8_float_io"
        )
        yield Remark(False, text)


def _scheme(i: Inspection, config: DeviceConfig) -> Iterator[Remark]:
    float_ops = [op.name for op in i.ops if op.weights and op.activations.startswith("float")]
    if config.scheme.startswith("static_int8") and config.delegate != "edgetpu" and float_ops:
        text = f"{len(float_ops)} ops with weights compute in float. int8 is faster here: --scheme {config.scheme}"
        yield Remark(False, text)
