"""Cost of the agent over that of a minimal program: `make bench`.

The model is MobileNetV2 at 224 pixels in int8 with one inference thread, on a 720p clip. It prints one JSON line for
each ratio: the agent's milliseconds a frame to the interpreter's own invoke, without and with a viewer on the live
page; its resident memory and its time to the first prediction to those of benchmarks/bare.py; and the larger share of
two cameras to the smaller one. Both sides alternate, and the medians of the rounds are compared.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sightline.bundle import Manifest, read_bundle, write_bundle
from sightline.device_config import load_device
from sightline.interpreter import Interpreter
from sightline.npz import pack
from sightline.output_spec import OutputSpec
from sightline.preprocess import InputSpec

SIZE, CLASSES, FRAMES, ROUNDS = 224, 1000, 600, 5
# an installed package has bytecode files; without them each start would measure the compiler
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
SIGHTLINE = [sys.executable, "-m", "sightline"]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sightline-bench-") as name:
        folder = Path(name)
        bundle, clip, device = make_bundle(folder), make_clip(folder / "720p.mp4"), make_device(folder)
        model = bundle / next(iter(read_bundle(bundle).manifest.variants.values()))
        agent = [*SIGHTLINE, "run", str(bundle), "--source", str(clip), "--device", str(device), "--json"]
        bare = [sys.executable, str(Path(__file__).with_name("bare.py")), str(model), str(clip), str(SIZE)]
        summary = folder / "summary.json"

        def frame_ms(*options: str) -> float:
            subprocess.run([*agent, "--summary", str(summary), *options], check=True, capture_output=True)
            figures = json.loads(summary.read_text())
            return float(1000 * figures["seconds"] / figures["frames"])

        rounds = []
        for _ in range(ROUNDS):
            # three times the clip: the page is opened once, and that must not count as cost of the frames
            long = ["--loop", "--frames", str(3 * FRAMES)]
            watched = watched_ms([*agent, *long, "--summary", str(summary)], summary)
            rounds.append((frame_ms(*long), watched, invoke_ms(model), clip_ms(bare)))
        ours, watched, invoke, script = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(a / b for a, _, b, _ in rounds)
        show("e2e_over_invoke", ratio=ratio, agent_ms=ours, invoke_ms=invoke, bare_script_ms=script)
        ratio = statistics.median(a / b for _, a, b, _ in rounds)
        show("e2e_with_a_viewer_over_invoke", ratio=ratio, agent_ms=watched, invoke_ms=invoke)

        two = ["--source", f"also={clip}", "--realtime", "--loop", "--frames", str(FRAMES), "--summary", str(summary)]
        subprocess.run([*agent, *two], check=True, capture_output=True)
        first, second = json.loads(summary.read_text())["cameras"].values()
        show("two_cameras_share", ratio=max(first, second) / min(first, second), first=first, second=second)

        memory = [(peak_mb(agent), peak_mb(bare)) for _ in range(3)]
        ours, script = (statistics.median(column) for column in zip(*memory, strict=True))
        show("rss_over_bare_script", ratio=ours / script, agent_mb=ours, bare_script_mb=script)

        starts = [(first_line_s(agent), first_line_s(bare)) for _ in range(2 * ROUNDS)]
        ours, script = (statistics.median(column) for column in zip(*starts, strict=True))
        show("cold_start_over_bare_script", ratio=ours / script, agent_s=ours, bare_script_s=script)


def show(benchmark: str, **figures: Any) -> None:
    """Print the figures as one JSON line, with the machine and the commit."""
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps({"benchmark": benchmark, **rounded, **machine, "commit": commit}), flush=True)


def make_bundle(folder: Path, scheme: str = "static_int8", size: int = SIZE) -> Path:
    """A bundle of an untrained MobileNetV2: its results are noise, but its speed is real."""
    import timm
    import torch

    from converters.quantize.calibrate import observe, ranges
    from converters.quantize.quantize import quantize
    from converters.sources.from_torch import convert_program, open_program
    from trainer.export import save_program
    from trainer.model import Classifier

    torch.manual_seed(0)
    backbone = timm.create_model("mobilenetv2_100", num_classes=CLASSES)
    spec = InputSpec(size, size)
    program = save_program(Classifier(backbone, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).eval(), spec)
    content = convert_program(open_program(program, "bench"), "bench")
    frames = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    int8 = quantize(content, scheme, ranges(observe(content, frames, spec), "min_max"), "per_channel")
    golden = np.concatenate([Interpreter(int8)(frame)[0] for frame in frames])
    path = folder / "bench.bundle"
    output = OutputSpec("classify", "softmax", tuple(str(i) for i in range(CLASSES)))
    manifest = Manifest("bench", "0", "desktop", scheme, spec, output, {scheme: "bench.tflite"}, {}, {})
    write_bundle(
        path, manifest, {"bench.tflite": int8, "golden.npz": pack(frames=frames, **{f"{scheme}/output_0": golden})}
    )
    return path


def make_clip(path: Path, frames: int = FRAMES, fps: int = 30) -> Path:
    """A 720p clip with a moving texture, as MPEG-4, the only encoder that OpenCV always has."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (1280, 720))
    noise = np.random.default_rng(0).integers(0, 256, (90, 240, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(cv2.resize(noise, (1920, 720), interpolation=cv2.INTER_CUBIC), (0, 0), 3)
    for i in range(frames):
        shift = 4 * i % 640
        writer.write(np.ascontiguousarray(texture[:, shift : shift + 1280]))
    writer.release()
    return path


def make_device(folder: Path) -> Path:
    """A device config: the desktop with one inference thread."""
    source = Path(__file__).parent.parent / "device_configs" / "desktop.yaml"
    lines = ["threads: 1\n" if line.startswith("threads:") else line for line in source.read_text().splitlines(True)]
    path = folder / "one_thread.yaml"
    path.write_text("".join(lines))
    load_device(str(path))
    return path


def invoke_ms(model: Path) -> float:
    """Median duration of the interpreter's own invoke in milliseconds."""
    interpreter = Interpreter(model.read_bytes(), threads=1)
    interpreter.fill(np.zeros((SIZE, SIZE, 3), np.uint8))
    times = []
    for _ in range(300):
        began = time.perf_counter()
        interpreter.invoke()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def watched_ms(command: list[str], summary: Path) -> float:
    """The agent's milliseconds a frame while a viewer reads the page's images and results."""
    with subprocess.Popen([*command, "--page-port", "0"], stdout=-3, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "live page: " in line)
        address = line.split("live page: ")[1].strip()
        viewers = [threading.Thread(target=view, args=(address + path,)) for path in ("stream.mjpg", "events")]
        for viewer in viewers:
            viewer.start()
        process.stderr.read()
        for viewer in viewers:
            viewer.join()
    figures = json.loads(summary.read_text())
    return float(1000 * figures["seconds"] / figures["frames"])


def view(address: str) -> None:
    """Read a stream until it ends."""
    with contextlib.suppress(OSError, http.client.HTTPException), urllib.request.urlopen(address, timeout=10) as page:
        while page.read1(65536):
            pass


def clip_ms(command: list[str]) -> float:
    """Milliseconds a frame of the minimal program, from its first line of output to its last."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.perf_counter()
        lines = sum(1 for _ in process.stdout)
        return 1000 * (time.perf_counter() - began) / lines


def peak_mb(command: list[str]) -> float:
    """Largest resident memory of a whole run over the clip, in MB."""
    # measured by a small process in between: a child's peak begins with the size of the process that forked it
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3, stderr=-3, check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", measure, *command], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def first_line_s(command: list[str]) -> float:
    """Seconds from the start of the process to its first prediction."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


if __name__ == "__main__":
    main()
