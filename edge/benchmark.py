"""How fast a model is on this machine, with what the figures are worth: rounds in turns, and how far they differ.

`python -m edge.benchmark BUNDLE DEVICE SCHEME` is one cold start: from nothing to the first answer, and out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edge.inference.model import Model, open_model
from edge.system.machine import read_machine
from sightline.bare_model import read_model
from sightline.child import python
from sightline.device import DeviceConfig, load_device
from sightline.errors import DeviceError
from sightline.postprocess import answer
from sightline.preprocess import Frame, Preprocessor

ROUNDS = 5
STEP_S = 10.0  # of a sustained run: so long are the parts that are told apart
COLD_STARTS = 3


@dataclass(frozen=True)
class Subject:
    """What is measured: a variant with a number of threads."""

    name: str
    model: Model
    config: DeviceConfig


@dataclass(frozen=True)
class Figures:
    """model_ms: of one inference; whole_ms: of a camera's frame that is resized, looked at and decoded; each the median
    of the rounds' medians. model_spread, whole_spread: by how much a round's median was off that, at most, as a share.
    """

    name: str
    model_ms: float
    model_spread: float
    whole_ms: float
    whole_spread: float


@dataclass(frozen=True)
class Compared:
    """ratio: how many times as long a whole frame of `name` takes. off: by how much that may be wrong."""

    name: str
    ratio: float
    off: float


@dataclass(frozen=True)
class SoakResult:
    """first_ms, last_ms: medians of a whole frame in the first and in the last part. hottest: degrees Celsius, None
    where no sensor is. power: what was wrong with a Raspberry Pi's power meanwhile."""

    minutes: float
    first_ms: float
    last_ms: float
    hottest: float | None
    power: tuple[str, ...]


def subjects(bundle: Path, device: str, schemes: Sequence[str], threads: Sequence[int]) -> list[Subject]:
    """Every scheme with every number of threads. Raises InputError, DeviceError."""
    _, config = load_device(device)
    read = read_model(bundle, config.delegate)
    found = []
    for scheme in schemes or (read.fitting(config.delegate),):
        for count in threads or (config.threads,):
            mine = replace(config, threads=count)
            plural = "" if count == 1 else "s"
            found.append(
                Subject(f"{read.manifest.name} {scheme}, {count} thread{plural}", open_model(read, mine, scheme), mine)
            )
    return found


def measure(
    chosen: Sequence[Subject], seconds: float, progress: Callable[[int], None] = lambda _: None
) -> list[Figures]:
    """Rounds in turns, so that what disturbs one disturbs all. seconds: of each round of each subject."""
    cv2.setNumThreads(1)
    model_ms: list[list[float]] = [[] for _ in chosen]
    whole_ms: list[list[float]] = [[] for _ in chosen]
    frames = [_frame(s.config) for s in chosen]
    for k, subject in enumerate(chosen):  # the first ones warm up caches and clocks
        _times(_whole(subject, frames[k]), 0.2)
    for turn in range(ROUNDS):
        order = [(k + turn) % len(chosen) for k in range(len(chosen))]
        for k in order:
            model_ms[k].append(_times(_model(chosen[k]), seconds / 2))
            whole_ms[k].append(_times(_whole(chosen[k], frames[k]), seconds / 2))
        progress(turn + 1)
    return [Figures(s.name, *_settled(m), *_settled(w)) for s, m, w in zip(chosen, model_ms, whole_ms, strict=True)]


def check_noise(figures: Sequence[Figures], most: float) -> None:
    """most: share. Raises DeviceError where a figure's rounds differ by more."""
    for f in figures:
        spread = max(f.model_spread, f.whole_spread)
        if spread > most:
            load = os.getloadavg()[0]
            raise DeviceError(
                f"too noisy to say: {f.name}: a round was {spread:.0%} off the others, {most:.0%} are allowed; end "
                f"what else runs here (load {load:.1f} on {os.cpu_count()} cores), measure longer (--seconds), or "
                "allow more (--noise)"
            )


def compared(one: Figures, other: Figures) -> Compared:
    """The second over the first."""
    return Compared(other.name, other.whole_ms / one.whole_ms, one.whole_spread + other.whole_spread)


def soak_test(subject: Subject, minutes: float, progress: Callable[[float], None] = lambda _: None) -> SoakResult:
    """Whole frames, one after the other, for so long."""
    began, frame = time.monotonic(), _frame(subject.config)
    parts: list[float] = []
    degrees: list[float] = []
    power: dict[str, None] = {}
    while time.monotonic() - began < minutes * 60:
        parts.append(_times(_whole(subject, frame), min(STEP_S, minutes * 60 / 2)))
        machine = read_machine()
        if machine.celsius is not None:
            degrees.append(machine.celsius)
        power |= {what.replace("_", " "): None for what, (now, _) in machine.power.items() if now}
        progress((time.monotonic() - began) / 60)
    return SoakResult((time.monotonic() - began) / 60, parts[0], parts[-1], max(degrees, default=None), tuple(power))


def cold_start_ms(bundle: Path, device: str, scheme: str) -> float:
    """Median over some processes, from their start to their end."""
    times = []
    for _ in range(COLD_STARTS):
        began = time.monotonic()
        command = python("edge.benchmark", str(bundle), device, scheme)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        times.append(1000 * (time.monotonic() - began))
        if done.returncode:
            raise DeviceError(f"{bundle}: a cold start ended with exit code {done.returncode}: {done.stderr[-300:]}")
    return statistics.median(times)


def _frame(config: DeviceConfig) -> Frame:
    """What a camera of this device gives, with something to see in it."""
    clouds = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    size = (config.camera_width, config.camera_height)
    return np.asarray(cv2.resize(clouds, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _model(s: Subject) -> Callable[[], object]:
    interpreter = s.model.interpreter
    entry = interpreter.quantizer.empty()
    width, height = interpreter.size
    interpreter.quantizer(np.full((height, width, 3), 90, np.uint8), entry)
    interpreter.feed(entry)
    return interpreter.invoke


def _whole(s: Subject, frame: Frame) -> Callable[[], object]:
    interpreter, m = s.model.interpreter, s.model.manifest
    preprocess, entry = Preprocessor(m.input), interpreter.quantizer.empty()
    image = preprocess.empty()
    size = frame.shape[1], frame.shape[0]

    def once() -> object:
        interpreter.quantizer(preprocess(frame, out=image), entry)
        interpreter.feed(entry)
        interpreter.invoke()
        return answer(interpreter.raw(), interpreter.outputs, m.input, m.output, size, m.output.threshold)

    return once


def _times(work: Callable[[], object], seconds: float) -> float:
    """Milliseconds, the median."""
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < until:
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _settled(rounds: Sequence[float]) -> tuple[float, float]:
    middle = statistics.median(rounds)
    return middle, max(abs(r - middle) for r in rounds) / middle


def main() -> None:
    (subject,) = subjects(Path(sys.argv[1]), sys.argv[2], sys.argv[3:4], ())
    _whole(subject, _frame(subject.config))()


if __name__ == "__main__":
    main()
