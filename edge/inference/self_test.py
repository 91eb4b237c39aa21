"""Tests a bundle on this machine in its own process: hashes, golden samples, latency.

Run as `python -m edge.inference.self_test BUNDLE DEVICE SCHEME NICE`.

A crafted model can crash the interpreter natively, or never return. Only a child process survives that.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edge.inference.model import Model, open_model
from sightline.bare_model import read_model
from sightline.child import python
from sightline.device_config import load_device
from sightline.errors import DeviceError, InputError, SightlineError
from sightline.timing import durations_ms

TIMEOUT_S = 60.0  # of the child
MAX_MEMORY_BYTES = 4 << 30  # of the child's address space
SECONDS, MIN_INFERENCES = 1.0, 20  # of the latency measurement, which lasts until both are reached


@dataclass(frozen=True)
class Trial:
    """Result of the self-test.

    name, version: of the bundle.
    scheme: variant that was tested.
    sha256: of the variant's file.
    load_ms: duration of reading, hashing and proving the bundle.
    p50_ms, p95_ms: median and 95th percentile of one inference's duration.
    rss_mb: largest resident memory of the process.
    error: why it must not run on this machine; None if it may.
    """

    name: str
    version: str
    scheme: str
    sha256: str
    load_ms: float
    p50_ms: float
    p95_ms: float
    rss_mb: float
    error: str | None


def run_trial(bundle: Path, device: str, scheme: str | None) -> Trial:
    """Test the bundle in this process. Raises InputError and DeviceError for an unusable bundle."""
    began = time.perf_counter()
    config = load_device(device)[1]
    model = open_model(read_model(bundle, config.delegate), config, scheme)
    return measure_model(model, config.latency_budget_ms, 1000 * (time.perf_counter() - began))


def measure_model(
    model: Model,
    latency_budget_ms: float,
    load_ms: float,
    *,
    seconds: float = SECONDS,
    min_inferences: int = MIN_INFERENCES,
) -> Trial:
    """Measure an open model's latency.

    latency_budget_ms: largest median duration of one inference.
    load_ms: see `Trial`.
    seconds, min_inferences: length of the measurement.
    """
    interpreter, identity = model.interpreter, model.identity
    input_tensor = interpreter.quantizer.empty()
    width, height = interpreter.size
    interpreter.quantizer(np.zeros((height, width, 3), np.uint8), input_tensor)

    def infer() -> None:
        interpreter.feed(input_tensor)
        interpreter.invoke()

    durations = durations_ms(infer, seconds, min_calls=min_inferences)
    p50, p95 = statistics.median(durations), statistics.quantiles(durations, n=20)[18]
    error = None
    if p50 > latency_budget_ms:
        error = f"too slow for this device: {p50:.1f} ms per inference, latency_budget_ms is {latency_budget_ms}"
    return Trial(
        identity.name, identity.version, model.scheme, identity.sha256, load_ms, p50, p95,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, error,
    )  # fmt: skip


def try_in_child(
    bundle: Path, device: str, scheme: str | None, *, nice: int = 0, timeout_s: float = TIMEOUT_S
) -> Trial:
    """Test the bundle in a child process. Raises InputError and DeviceError, also if the child crashes or hangs.

    nice: added to the child's niceness, for a machine with other work.
    """
    command = python("edge.inference.self_test", str(bundle), device, scheme or "", str(nice))
    environment = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{bundle}: the self-test took more than {timeout_s:g} s") from None
    if child.returncode < 0:
        raise InputError(f"{bundle}: the interpreter crashed on it ({signal.Signals(-child.returncode).name})")
    try:
        reply = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise DeviceError(
            f"{bundle}: the self-test ended with exit code {child.returncode}: {child.stderr[-300:]}"
        ) from None
    if "p50_ms" in reply:
        return Trial(**reply)
    raise (InputError if reply["exit_code"] == 2 else DeviceError)(reply["error"])


def main() -> None:
    bundle, device, scheme, nice = Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None, int(sys.argv[4])
    os.nice(nice)
    limit = min(MAX_MEMORY_BYTES, sys.maxsize)  # a 32-bit system has less
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        print(json.dumps(asdict(run_trial(bundle, device, scheme))))
    except SightlineError as e:
        print(json.dumps({"error": str(e), "exit_code": e.exit_code}))
    except MemoryError:
        print(json.dumps({"error": f"{bundle}: needs more memory than a model may use", "exit_code": 2}))


if __name__ == "__main__":
    main()
