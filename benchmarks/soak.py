"""Does the agent's memory grow? `python -m benchmarks.soak [MINUTES]`: two RTSP cameras of 640x480 at 30 frames a
second, and a viewer on the live page.

It samples the agent's resident memory, threads and file descriptors every second. The first minute is warm-up. It
prints one JSON line, with dropped frames and frames without inference by cause. It needs the programs of
benchmarks/support/rtsp_camera.py.
"""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.agent import SIGHTLINE, make_bundle, show, view
from benchmarks.support.rtsp import rtsp_camera

WARM_UP_S = 60


def main() -> None:
    seconds = 60 * float(sys.argv[1]) if len(sys.argv) > 1 else 30 * 60
    with tempfile.TemporaryDirectory(prefix="sightline-soak-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        bundle, summary = make_bundle(folder), folder / "summary.json"
        addresses = []
        for _ in range(2):
            options = ("--codec", "h264", "--size", "640x480", "--fps", "30", "--seconds", str(int(seconds) + 60))
            addresses.append(stack.enter_context(rtsp_camera(0, *options))[1])
        cameras = [f"--source={name}={address}" for name, address in zip(("first", "second"), addresses, strict=True)]
        command = [*SIGHTLINE, "run", str(bundle), *cameras, "--json", "--page-port", "0", "--summary", str(summary)]
        agent = stack.enter_context(subprocess.Popen(command, stdout=-3, stderr=subprocess.PIPE, text=True))
        stack.callback(agent.kill)
        assert agent.stderr is not None
        line = next(line for line in agent.stderr if "live page: " in line)
        threading.Thread(target=agent.stderr.read, daemon=True).start()
        address = line.split("live page: ")[1].strip()
        for path in ("stream.mjpg", "events"):
            threading.Thread(target=view, args=(address + path,), daemon=True).start()
        samples = watch(agent.pid, seconds)
        agent.send_signal(signal.SIGTERM)
        agent.wait(20)
        figures = json.loads(summary.read_text())
    warm = samples[WARM_UP_S:] if len(samples) > 2 * WARM_UP_S else samples[len(samples) // 2 :]
    part = max(1, len(warm) // 10)
    before, after = (statistics.median(s[0] for s in part_samples) for part_samples in (warm[:part], warm[-part:]))
    show(
        "soak",
        ratio=after / before,
        rss_mb=after,
        minutes=seconds / 60,
        threads_grown=max(s[1] for s in warm[-part:]) - max(s[1] for s in warm[:part]),
        files_grown=max(s[2] for s in warm[-part:]) - max(s[2] for s in warm[:part]),
        frames=figures["frames"],
        **{f"dropped_{cause}": n for cause, n in figures["dropped"].items()},
        **{f"not_inferred_{code}": n for code, n in figures["not_inferred"].items()},
    )


def watch(pid: int, seconds: float) -> list[tuple[float, int, int]]:
    """Sample (resident MB, threads, file descriptors) of a process every second."""
    samples, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(1)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        samples.append((int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), files))
    return samples


if __name__ == "__main__":
    main()
