"""A bundle on trial, in a process of its own: hashes, golden samples, latency.

Run as `python -m edge.inference.self_test BUNDLE ..`.

A crafted model can crash the interpreter natively, or keep it for ever; only a child process survives that.
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

from edge.inference.model import open_model
from sightline.bare_model import read_model
from sightline.child import python
from sightline.device import load_device
from sightline.errors import DeviceError, InputError, SightlineError

TIMEOUT_S = 60.0
MEMORY = 4 << 30
SECONDS, INFERENCES = 1.0, 20  # as long as both last


@dataclass(frozen=True)
class Trial:
    """What a bundle is on this machine. sha256: of the variant's file. load_ms: reading, hashing and proving it.
    p50_ms, p95_ms: of one inference. rss_mb: of the process, largest. error: why it must not run here; None = it may.
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


def trial(bundle: Path, device: str, scheme: str | None) -> Trial:
    """In this process. Raises what makes the bundle unusable."""
    began = time.perf_counter()
    config = load_device(device)[1]
    model = open_model(read_model(bundle, config.delegate), config, scheme)
    load_ms = 1000 * (time.perf_counter() - began)
    entry = model.interpreter.quantizer.empty()
    width, height = model.interpreter.size
    model.interpreter.quantizer(np.zeros((height, width, 3), np.uint8), entry)
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(times) < INFERENCES or time.perf_counter() < until:
        began = time.perf_counter()
        model.interpreter.feed(entry)
        model.interpreter.invoke()
        times.append(1000 * (time.perf_counter() - began))
    p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[18]
    error = None
    if p50 > config.latency_budget_ms:
        error = f"too slow for this device: {p50:.1f} ms an inference, latency_budget_ms is {config.latency_budget_ms}"
    identity = model.identity
    return Trial(
        identity.name, identity.version, model.scheme, identity.sha256, load_ms, p50, p95,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, error,
    )  # fmt: skip


def try_in_child(bundle: Path, device: str, scheme: str | None, *, nice: int = 0) -> Trial:
    """The same in a child. Raises InputError or DeviceError with its reason, also where the child crashed or hung.

    nice: added to its niceness, where somebody else is at work.
    """
    command = python("edge.inference.self_test", str(bundle), device, scheme or "", str(nice))
    environment = {k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{bundle}: its self-test took more than {TIMEOUT_S:.0f} s") from None
    if done.returncode < 0:
        raise InputError(f"{bundle}: the interpreter crashed on it ({signal.Signals(-done.returncode).name})")
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise DeviceError(
            f"{bundle}: its self-test ended with exit code {done.returncode}: {done.stderr[-300:]}"
        ) from None
    if "p50_ms" in answer:
        return Trial(**answer)
    raise (InputError if answer["exit_code"] == 2 else DeviceError)(answer["error"])


def main() -> None:
    bundle, device, scheme, nice = Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None, int(sys.argv[4])
    os.nice(nice)
    most = min(MEMORY, sys.maxsize)  # of a 32-bit system
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        print(json.dumps(asdict(trial(bundle, device, scheme))))
    except SightlineError as e:
        print(json.dumps({"error": str(e), "exit_code": e.exit_code}))
    except MemoryError:
        print(json.dumps({"error": f"{bundle}: needs more memory than a model may have", "exit_code": 2}))


if __name__ == "__main__":
    main()
