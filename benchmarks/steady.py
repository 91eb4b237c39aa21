"""Cost of the agent in normal operation: `python -m benchmarks.steady`.

It measures the share of one core at 5, 15 and 30 frames a second of 720p, divided by that of a minimal script. Then
it measures the bytes that the agent writes to the disk in a minute, as bytes an hour: once with only the live page,
and once with a webhook that receives a message a second through the outbox.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.agent import SIGHTLINE, SIZE, make_bundle, make_clip, make_device, show
from sightline.bundle import read_bundle

RATES = (5, 15, 30)
WARM_S, SECONDS, WRITING_S = 4.0, 20.0, 60.0

BARE = """
import sys, time
import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
model, clip, size, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
cv2.setNumThreads(1)
interpreter = Interpreter(model_path=model, num_threads=1)
interpreter.allocate_tensors()
input_index = interpreter.get_input_details()[0]["index"]
output_index = interpreter.get_output_details()[0]["index"]
capture, turn = cv2.VideoCapture(clip, cv2.CAP_FFMPEG), time.monotonic()
while True:
    ok, frame = capture.read()
    if not ok:
        capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
        continue
    image = cv2.cvtColor(cv2.resize(frame, (size, size)), cv2.COLOR_BGR2RGB)
    interpreter.set_tensor(input_index, (image ^ 0x80).view(np.int8)[None])
    interpreter.invoke()
    print(int(interpreter.get_tensor(output_index).argmax()), flush=True)
    turn += 1 / rate
    time.sleep(max(0.0, turn - time.monotonic()))
"""


class Taker(BaseHTTPRequestHandler):
    """Receives the messages of a webhook."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sightline-steady-", dir=".") as name:
        folder = Path(name).resolve()  # on a disk, not in memory: writes must reach it
        bundle, device = make_bundle(folder), make_device(folder)
        model = bundle / next(iter(read_bundle(bundle).manifest.variants.values()))
        for rate in RATES:
            clip = make_clip(folder / f"{rate}.mp4", 300, rate)
            agent = [*SIGHTLINE, "run", bundle, "--source", clip, "--device", device, "--json", "--realtime", "--loop"]
            bare = [sys.executable, "-c", BARE, model, clip, SIZE, rate]
            ours, theirs = (per_second(command, cpu_s, SECONDS) for command in (agent, bare))
            show(f"steady/cpu_{rate}_fps", ratio=ours / theirs, core_percent=100 * ours, bare_percent=100 * theirs)
        clip = folder / "15.mp4"
        agent = [*SIGHTLINE, "run", bundle, "--source", clip, "--device", device, "--json", "--realtime", "--loop"]
        show("steady/written_page", bytes_an_hour=3600 * per_second(agent, write_bytes, WRITING_S))
        server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hook = ["--webhook", f"http://127.0.0.1:{server.server_port}/", "--outbox", folder / "outbox.sqlite"]
        once = ["--max-fps", 1, "--send", "results"]
        show(
            "steady/written_message_a_second",
            bytes_an_hour=3600 * per_second([*agent, *hook, *once], write_bytes, WRITING_S),
        )
        server.shutdown()


def per_second(command: list[object], of: Callable[[int], float], seconds: float) -> float:
    """Growth of the figure `of` of a process in a second, after its warm-up."""
    with subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(WARM_S)
            before = of(process.pid)
            time.sleep(seconds)
            return (of(process.pid) - before) / seconds
        finally:
            process.kill()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


if __name__ == "__main__":
    main()
