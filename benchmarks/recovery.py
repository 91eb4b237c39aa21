"""How long it takes until a fault is reported, and until inference goes on: `python -m benchmarks.recovery`.

The agent runs as a user runs it, with `--supervise`, on a test pattern or on the RTSP camera of
benchmarks/support/rtsp_camera.py (15 frames a second). Each fault is injected from outside. It prints one JSON line for
each fault, in seconds. `told`: from the fault to the first result that reports it. `again`: from the end of the fault
to the next result with inference, or from the fault itself if the agent has to repair it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.agent import SIGHTLINE, make_bundle, show
from benchmarks.support.rtsp import rtsp_camera
from benchmarks.support.waiting import wait_until

CODEC = ("--codec", "h264")
Results = list[tuple[float, dict[str, Any]]]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sightline-recovery-") as name:
        bundle = make_bundle(Path(name))
        for fault in (signal.SIGSTOP, signal.SIGSEGV, signal.SIGKILL):
            with agent(bundle, "test:") as (process, results):
                (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                began = time.monotonic()
                os.kill(int(child), fault)
                time.sleep(0.05)  # for results that are on their way
                show(f"recovery/agent {fault.name}", again=after(results, began + 0.05, is_inferred) - began)
        with rtsp_camera(0, *CODEC) as (server, address), agent(bundle, address) as (_, results):
            began = time.monotonic()
            server.kill()
            server.wait(5)
            reported = after(results, began, reports_fault)
            time.sleep(5)
            with rtsp_camera(port_of(address), *CODEC):
                back = time.monotonic()
                show("recovery/RTSP gone", told=reported - began, again=after(results, back, is_inferred) - back)
        with rtsp_camera(0, *CODEC) as (server, address), agent(bundle, address) as (_, results):
            began = time.monotonic()
            server.send_signal(signal.SIGSTOP)
            reported = after(results, began, reports_fault)
            time.sleep(5)
            server.send_signal(signal.SIGCONT)
            back = time.monotonic()
            show("recovery/RTSP silent", told=reported - began, again=after(results, back, is_inferred) - back)
        absent = "rtsp://127.0.0.1:8561/live"
        with agent(bundle, absent, wait=reports_fault) as (_, results):
            time.sleep(3)
            with rtsp_camera(port_of(absent), *CODEC):
                back = time.monotonic()
                show("recovery/RTSP absent at start", again=after(results, back, is_inferred) - back)
        swap(bundle)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2].split("/")[0])


def swap(bundle: Path) -> None:
    """Measure the time from the rename of a new bundle to its first result."""
    other = Path(shutil.copytree(bundle, bundle.with_name("other.bundle")))
    manifest = json.loads((other / "manifest.json").read_text())
    from sightline.files import seal

    (other / "manifest.json").write_bytes(seal({**manifest, "version": "new"}))
    with agent(bundle, "test:") as (_, results):
        began = time.monotonic()
        old = bundle.with_name("old.bundle")
        bundle.rename(old)
        other.rename(bundle)
        taken = after(results, began, lambda r: r["model"]["version"] == "new") - began
        gaps = [b["captured_monotonic_ns"] - a["captured_monotonic_ns"] for (_, a), (_, b) in
                zip(results[-60:], results[-59:], strict=False)]  # fmt: skip
        show("recovery/new model", again=taken, longest_pause=max(gaps) / 1e9)


def is_inferred(result: dict[str, Any]) -> bool:
    return bool(result["status"] == "ok")


def reports_fault(result: dict[str, Any]) -> bool:
    return not is_inferred(result) and result["cause_code"] != "opening"


def after(results: Results, began: float, condition: Callable[[dict[str, Any]], bool]) -> float:
    """Time of the first result after `began` that meets the condition, in monotonic seconds."""
    position = 0

    def find() -> float:
        nonlocal position
        while position < len(results):
            at, result = results[position]
            position += 1
            if at >= began and condition(result):
                return at
        return 0.0

    return wait_until(find, 60, "the agent did not recover")


@contextlib.contextmanager
def agent(
    bundle: Path, source: str, wait: Callable[[dict[str, Any]], bool] = is_inferred
) -> Iterator[tuple[subprocess.Popen[str], Results]]:
    """Start the supervised agent and wait for a result that meets `wait`. Yields the process and its timed results."""
    command = [*SIGHTLINE, "run", str(bundle), "--source", source, "--json", "--no-page", "--supervise"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        results: Results = []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                results.append((time.monotonic(), json.loads(line)))

        threading.Thread(target=read, daemon=True).start()
        try:
            after(results, 0, wait)
            time.sleep(1)
            yield process, results
        finally:
            process.terminate()
            process.wait(20)


if __name__ == "__main__":
    main()
