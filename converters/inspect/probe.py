"""Run `probe_child` in a child process, and read its results."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sightline.child import python
from sightline.errors import ModelError

Kernels = Literal["xnnpack", "builtin"]

PROBE = python("converters.inspect.probe_child")
TIMEOUT_S = 120.0
_KERNEL_NAMES = {"xnnpack": "XNNPACK", "builtin": "TFLite's own kernels"}


@dataclass(frozen=True)
class Partition:
    """A group of ops that a delegate runs as one. inputs, outputs: indices of tensors."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class ProbeResult:
    """What LiteRT did with a model.

    load_error: why LiteRT does not load it, or ''.
    run_error: why it does not run on zeros, or ''.
    resident_bytes: growth of the process from before the model was loaded until it had run once, with LiteRT's own
        pages; None where the system does not provide it.
    """

    load_error: str = ""
    run_error: str = ""
    resident_bytes: int | None = None
    partitions: tuple[Partition, ...] = ()


def run_probe(
    content: bytes, kernels: Kernels, name: str, *, command: Sequence[str] = PROBE, timeout_s: float = TIMEOUT_S
) -> ProbeResult:
    """Open and run a model. Raises ModelError if it crashes LiteRT, does not finish, or is damaged.

    name: of the model, for messages.
    command: the child, without the name of the kernels.
    """
    kernel_name = _KERNEL_NAMES[kernels]
    try:
        done = subprocess.run([*command, kernels], input=content, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{name}: LiteRT did not finish within {timeout_s:g} s (with {kernel_name})") from None
    stderr = done.stderr.decode(errors="replace")
    lines = done.stdout.splitlines()
    if done.returncode < 0:
        crash = f"{signal.Signals(-done.returncode).name}, with {kernel_name}"
        moment = "when it runs" if lines else "when opened"
        raise ModelError(f"{name}: crashes LiteRT {moment} ({crash}). Do not deploy it.")
    if done.returncode > 0 or not lines:
        raise RuntimeError(f"the process that opens models failed: {stderr[-2000:]}")
    result = _parse(lines)
    if not result.load_error:
        return result
    reasons = [line.removeprefix("ERROR: ") for line in stderr.splitlines()]
    error = " ".join([result.load_error, *(line for line in reasons if not line.startswith(("INFO", "W0")))])
    if "flatbuffer" in error.lower():
        raise ModelError(f"{name}: damaged or cut off. LiteRT reports: {error}")
    return ProbeResult(load_error=error)


def _parse(lines: Sequence[bytes]) -> ProbeResult:
    facts = {key: value for line in lines for key, value in json.loads(line).items()}
    delegates = facts.pop("delegates", [])
    partitions = tuple(Partition(tuple(d["inputs"]), tuple(d["outputs"])) for d in delegates)
    return ProbeResult(partitions=partitions, **facts)
