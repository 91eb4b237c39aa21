"""Measure how fast a model is on this machine, in alternating rounds whose spread shows how certain the figures are.

`python -m edge.benchmark BUNDLE DEVICE SCHEME` is one cold start: it opens the model, computes one result, and exits.
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
from edge.system.benchmark_report import Comparison, Figures, SoakResult
from edge.system.machine_state import read_machine
from sightline.bare_model import read_model
from sightline.child import python
from sightline.device_config import DeviceConfig, load_device
from sightline.errors import DeviceError
from sightline.postprocess import postprocess
from sightline.preprocess import Frame, Preprocessor
from sightline.timing import durations_ms

ROUNDS = 5
WARM_UP_S = 0.2  # for caches and clocks, before the first round
SOAK_PART_S = 10.0  # a soak test is measured in parts of this duration
COLD_STARTS = 3  # processes whose median is reported
MIN_REPEATS = 5  # of one measurement, however slow the model is


@dataclass(frozen=True)
class Subject:
    """One thing to measure: a variant with a number of threads.

    name: bundle, scheme and threads.
    config: device config with that number of threads.
    """

    name: str
    model: Model
    config: DeviceConfig


def subjects(bundle: Path, device: str, schemes: Sequence[str], threads: Sequence[int]) -> list[Subject]:
    """Open every combination of scheme and number of threads.

    schemes: empty = the one that fits the device. threads: empty = the device's number.
    Raises InputError and DeviceError.
    """
    _, config = load_device(device)
    model = read_model(bundle, config.delegate)
    result = []
    for scheme in schemes or (model.fitting(config.delegate),):
        for count in threads or (config.threads,):
            own_config = replace(config, threads=count)
            name = f"{model.manifest.name} {scheme}, {count} thread{'' if count == 1 else 's'}"
            result.append(Subject(name, open_model(model, own_config, scheme), own_config))
    return result


def measure(
    chosen: Sequence[Subject], seconds: float, progress: Callable[[int], None] = lambda _: None
) -> list[Figures]:
    """Measure all subjects in alternating rounds, so that a disturbance affects all of them.

    seconds: duration of a round of one subject.
    progress: called with the number of finished rounds.
    """
    cv2.setNumThreads(1)
    model_ms: list[list[float]] = [[] for _ in chosen]
    whole_ms: list[list[float]] = [[] for _ in chosen]
    frames = [_frame(s.config) for s in chosen]
    for k, subject in enumerate(chosen):
        _median_ms(_whole(subject, frames[k]), WARM_UP_S)
    for turn in range(ROUNDS):
        order = [(k + turn) % len(chosen) for k in range(len(chosen))]
        for k in order:
            model_ms[k].append(_median_ms(_model(chosen[k]), seconds / 2))
            whole_ms[k].append(_median_ms(_whole(chosen[k], frames[k]), seconds / 2))
        progress(turn + 1)
    return [Figures(s.name, *_summarize(m), *_summarize(w)) for s, m, w in zip(chosen, model_ms, whole_ms, strict=True)]


def check_noise(figures: Sequence[Figures], limit: float) -> None:
    """Raises DeviceError if the rounds of a figure differ too much.

    limit: largest accepted deviation of a round, as a share of the median.
    """
    for f in figures:
        spread = max(f.model_spread, f.whole_spread)
        if spread > limit:
            load = os.getloadavg()[0]
            raise DeviceError(
                f"{f.name}: the measurement is too noisy: a round deviates by {spread:.0%} from the median, the "
                f"limit is {limit:.0%}. Stop other programs (load {load:.1f} on {os.cpu_count()} cores), measure "
                "longer with --seconds, or raise the limit with --noise"
            )


def compare_figures(base: Figures, other: Figures) -> Comparison:
    """Compare the duration of a whole frame: `other` divided by `base`."""
    return Comparison(other.name, other.whole_ms / base.whole_ms, base.whole_spread + other.whole_spread)


def soak_test(subject: Subject, minutes: float, progress: Callable[[float], None] = lambda _: None) -> SoakResult:
    """Compute whole frames without a pause.

    progress: called with the minutes that have passed.
    """
    began, frame = time.monotonic(), _frame(subject.config)
    parts: list[float] = []
    degrees: list[float] = []
    power: dict[str, None] = {}
    while time.monotonic() - began < minutes * 60:
        parts.append(_median_ms(_whole(subject, frame), min(SOAK_PART_S, minutes * 60 / 2)))
        machine = read_machine()
        if machine.celsius is not None:
            degrees.append(machine.celsius)
        power |= {name.replace("_", " "): None for name, (now, _) in machine.power.items() if now}
        progress((time.monotonic() - began) / 60)
    return SoakResult((time.monotonic() - began) / 60, parts[0], parts[-1], max(degrees, default=None), tuple(power))


def cold_start_ms(bundle: Path, device: str, scheme: str) -> float:
    """Milliseconds from the start of a process that computes one result to its end. The median of several processes."""
    times = []
    for _ in range(COLD_STARTS):
        began = time.monotonic()
        command = python("edge.benchmark", str(bundle), device, scheme)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        times.append(1000 * (time.monotonic() - began))
        if done.returncode:
            raise DeviceError(f"{bundle}: the cold start exited with code {done.returncode}: {done.stderr[-300:]}")
    return statistics.median(times)


def _frame(config: DeviceConfig) -> Frame:
    """A frame of the device's camera size with smooth random colours."""
    clouds = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    size = (config.camera_width, config.camera_height)
    return np.asarray(cv2.resize(clouds, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _model(s: Subject) -> Callable[[], object]:
    """A function that runs one inference."""
    interpreter = s.model.interpreter
    input_tensor = interpreter.quantizer.empty()
    width, height = interpreter.size
    interpreter.quantizer(np.full((height, width, 3), 90, np.uint8), input_tensor)
    interpreter.feed(input_tensor)
    return interpreter.invoke


def _whole(s: Subject, frame: Frame) -> Callable[[], object]:
    """A function that resizes a frame, runs the model, and decodes the result."""
    interpreter, m = s.model.interpreter, s.model.manifest
    preprocess, input_tensor = Preprocessor(m.input), interpreter.quantizer.empty()
    image = preprocess.empty()
    size = frame.shape[1], frame.shape[0]

    def once() -> object:
        interpreter.quantizer(preprocess(frame, out=image), input_tensor)
        interpreter.feed(input_tensor)
        interpreter.invoke()
        return postprocess(interpreter.raw(), interpreter.outputs, m.input, m.output, size, m.output.threshold)

    return once


def _median_ms(work: Callable[[], object], seconds: float) -> float:
    """Median duration of `work` in milliseconds, repeated for `seconds`."""
    return statistics.median(durations_ms(work, seconds, min_calls=MIN_REPEATS))


def _summarize(rounds: Sequence[float]) -> tuple[float, float]:
    """Median of the rounds, and the largest deviation from it as a share of it."""
    median = statistics.median(rounds)
    return median, max(abs(r - median) for r in rounds) / median


def main() -> None:
    (subject,) = subjects(Path(sys.argv[1]), sys.argv[2], sys.argv[3:4], ())
    _whole(subject, _frame(subject.config))()


if __name__ == "__main__":
    main()
