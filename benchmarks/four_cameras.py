"""Cost of one bad camera for three good ones: `python -m benchmarks.four_cameras [--minutes M]`.

The agent has four MJPEG cameras of 320x240 at 5 frames a second, on loopback. For a quarter of the time all four
behave well (`control`). Then, round after round (`bad`), the fourth misbehaves in each manner of
benchmarks/support/mjpeg_camera.py in turn, and behaves well until inference on it goes on.

It prints JSON lines. For each good camera in both parts: the images that it sent, the frames with inference and the
lost ones by cause, and the longest gap between two frames with inference. For each manner: the agent's reports about
the bad camera, the time until inference on it went on, and the agent's largest resident memory. At the end: that
memory divided by the one of `control`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.agent import SIGHTLINE, make_bundle, show
from benchmarks.support.mjpeg_camera import MANNERS, Camera

GOOD, BAD = ("first", "second", "third"), "bad"
FPS = 5.0
WARM_UP_S = 10.0
SEEN_AGAIN_S = 60.0  # limit; the longest pause before a camera is opened again is 30 s, plus its time-outs


@dataclass
class CameraRecord:
    """Results of one camera.

    at: monotonic time of each result with inference.
    dropped, causes: number of frames without inference, by cause.
    """

    at: list[float] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)


class Agent:
    """The agent as a user runs it.

    Threads: the reader thread adds to `records`, and the main thread replaces it in `take`; both hold `_lock`.
    """

    def __init__(self, bundle: Path, cameras: dict[str, Camera], log: Path) -> None:
        sources = [f"--source={name}={camera.address}" for name, camera in cameras.items()]
        command = [*SIGHTLINE, "run", str(bundle), *sources, "--json", "--no-page"]
        self._log = log.open("w")
        environment = {**os.environ, "P": "password"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment)
        self._names = list(cameras)
        self._lock = threading.Lock()
        self.records = {name: CameraRecord() for name in self._names}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            result, now = json.loads(line), time.monotonic()
            with self._lock:
                records = self.records[result["source"]]
                records.dropped.update(result["dropped"])
                if result["status"] == "ok":
                    records.at.append(now)
                else:
                    records.causes[result["cause_code"]] += 1

    def take(self) -> dict[str, CameraRecord]:
        """The records since the last call, by camera."""
        with self._lock:
            before, self.records = self.records, {name: CameraRecord() for name in self._names}
        return before

    def largest_mb(self) -> float:
        """Largest resident memory since the last call, in MB."""
        place = Path(f"/proc/{self.process.pid}")
        lines = (place / "status").read_text().splitlines()
        (place / "clear_refs").write_text("5")
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def close(self) -> None:
        """Stop the agent. Raises SystemExit if it has exited before."""
        code = self.process.poll()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self._log.close()
        if code is not None:
            raise SystemExit(f"the agent exited with code {code}: {Path(self._log.name).read_text()[-2000:]}")


class Part:
    """Adds up the records of the good cameras."""

    def __init__(self, cameras: dict[str, Camera]) -> None:
        self._cameras = {name: cameras[name] for name in GOOD}
        self._sent = {name: camera.sent for name, camera in self._cameras.items()}
        self._seen = {name: CameraRecord() for name in GOOD}

    def add(self, records: dict[str, CameraRecord]) -> float:
        """Returns the longest gap without inference on one of them, in seconds."""
        longest = 0.0
        for name, total in self._seen.items():
            last = total.at[-1:]
            total.at += records[name].at
            total.dropped += records[name].dropped
            total.causes += records[name].causes
            longest = max(longest, longest_gap(last + records[name].at))
        return longest

    def show(self, name: str, seconds: float) -> None:
        for camera, total in self._seen.items():
            show(
                f"four_cameras/{name}/{camera}",
                seconds=seconds,
                sent=self._cameras[camera].sent - self._sent[camera],
                inferred=len(total.at),
                longest_gap_s=longest_gap(total.at),
                **{f"dropped_{cause}": n for cause, n in total.dropped.items()},
                **{f"not_inferred_{code}": n for code, n in total.causes.items()},
            )


def longest_gap(at: list[float]) -> float:
    return max((b - a for a, b in itertools.pairwise(at)), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    seconds = 60 * parser.parse_args().minutes
    manners = [name for name in MANNERS if name != "well"]
    bad_s = 0.75 * seconds
    each_s = min(15.0, max(3.0, bad_s / len(manners) - 3))
    with tempfile.TemporaryDirectory(prefix="sightline-cameras-") as name:
        bundle = make_bundle(Path(name))
        cameras = {camera: Camera(FPS) for camera in GOOD} | {BAD: Camera(FPS, login="admin:${P}@")}
        agent = Agent(bundle, cameras, Path(name) / "log")
        try:
            wait_until_seen(agent, [*GOOD, BAD])
            time.sleep(WARM_UP_S)
            agent.largest_mb()
            agent.take()
            part = Part(cameras)
            time.sleep(seconds - bad_s)
            part.add(agent.take())
            part.show("control", seconds - bad_s)
            normal_mb = agent.largest_mb()
            began, part, worst_mb, rounds = time.monotonic(), Part(cameras), 0.0, 0
            while time.monotonic() - began < bad_s:
                for manner in manners:
                    figures = misbehave(agent, cameras[BAD], manner, each_s, part)
                    show(f"four_cameras/manner/{manner}", round=rounds, **figures)
                    worst_mb = max(worst_mb, figures["rss_mb"])
                rounds += 1
            part.show("bad", time.monotonic() - began)
            show("four_cameras/memory", ratio=worst_mb / normal_mb, normal_mb=normal_mb, worst_mb=worst_mb)
        finally:
            agent.close()
            for camera in cameras.values():
                camera.close()


def misbehave(agent: Agent, camera: Camera, manner: str, seconds: float, part: Part) -> dict[str, Any]:
    camera.manner = manner
    time.sleep(seconds)
    records = agent.take()
    longest, causes = part.add(records), records[BAD].causes
    camera.manner = "well"
    began = time.monotonic()
    part.add(wait_until_seen(agent, [BAD]))
    return {
        "rss_mb": agent.largest_mb(),
        "others_longest_gap_s": longest,
        "seen_again_s": time.monotonic() - began,
        "inferred": len(records[BAD].at),
        **{f"not_inferred_{code}": n for code, n in causes.items()},
    }


def wait_until_seen(agent: Agent, names: list[str]) -> dict[str, CameraRecord]:
    """Wait until each camera had inference for a second without a fault. Returns the records of that time."""
    total = {name: CameraRecord() for name in agent.records}
    until = time.monotonic() + SEEN_AGAIN_S
    while time.monotonic() < until and agent.process.poll() is None:
        time.sleep(1)
        records = agent.take()
        for name, one in records.items():
            total[name].at += one.at
            total[name].dropped += one.dropped
            total[name].causes += one.causes
        if all(len(records[name].at) > 1 and not records[name].causes for name in names):
            return total
    raise SystemExit(f"{', '.join(names)}: no inference within {SEEN_AGAIN_S:g} s")


if __name__ == "__main__":
    main()
