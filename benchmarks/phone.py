"""Cost of the phone page over that of LiteRT.js' own inference: `python -m benchmarks.phone [--minutes 10]`.

The browser is headless Chromium with a 720p camera at 60 frames a second. The model is MobileNetV2 at 416 pixels with
an int8 body: a model faster than the camera would measure the camera. The milliseconds a frame are compared with
those of two bare pages, whose worker runs the model on one input again and again. One shows the camera. The other
does not, because showing it takes much of a core without a GPU. Then the memory of the page's process is measured:
all of it every minute, and the rest after a garbage collection.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import cv2
import websocket  # a part of selenium

from benchmarks.agent import make_bundle, make_clip, show
from benchmarks.support.phone_browser import chromium, served, shown, write_y4m
from benchmarks.support.waiting import wait_until
from edge.web_export.export import export
from sightline.bundle import read_bundle

SIZE = 416
SECONDS, ROUNDS = 8, 5
WARM_S = 3
FILES = {
    "bare.html": """<!doctype html><title>bare</title><link rel="stylesheet" href="bare.css">
<video id="video" autoplay muted playsinline></video><script type="module" src="bare.js"></script>""",
    "bare.css": "body { margin: 0; background: #000 } video { width: 100%; height: 60vh; object-fit: contain }",
    "bare.js": """
const query = new URLSearchParams(location.search), worker = new Worker("bareworker.js");
if (query.has("camera")) {
  video.srcObject = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1280}, height: {ideal: 720}}});
}
window.bare = 0;
worker.onmessage = () => window.bare++;
worker.postMessage(new URL(query.get("site") + "/", location.href).href);""",
    "bareworker.js": """
self.onmessage = async ({data: here}) => {
  const {loadLiteRt, loadAndCompile, Tensor} = await import(here + "litert.js");
  self.Module = {locateFile: file => here + file};
  await loadLiteRt(here);
  const model = await loadAndCompile(here + "model.tflite", {accelerator: "wasm"});
  const input = new Float32Array(SIZE * SIZE * 3).fill(90);
  for (;;) {
    const tensor = new Tensor(input, [1, SIZE, SIZE, 3]), results = await model.run([tensor]);
    results[0].toTypedArray();
    tensor.delete();
    for (const result of results) result.delete();
    self.postMessage(0);
    await 0;
  }
};""",
}


def main() -> None:
    minutes = float(sys.argv[sys.argv.index("--minutes") + 1]) if "--minutes" in sys.argv else 0.0
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        site = folder / "site"
        bundle = read_bundle(make_bundle(folder, "static_int8_float_io", SIZE))
        done = export(bundle, site, scheme=None, post="", runtime=None)
        for name, content in FILES.items():
            (site / name).write_text(content.replace("SIZE", str(SIZE)))
        capture = cv2.VideoCapture(str(make_clip(folder / "clip.mp4", 60)))
        frames = [frame for ok, frame in iter(capture.read, (False, None)) if ok]
        speed(folder, site, done.version, write_y4m(folder / "fast.y4m", frames, 60))
        if minutes:
            memory(folder, site, write_y4m(folder / "clip.y4m", frames, 30), minutes)


def speed(folder: Path, site: Path, version: str, clip: Path) -> None:
    camera = f"--use-file-for-fake-video-capture={clip}"
    results: list[dict[str, Any]] = []
    per_frame: dict[str, list[float]] = {"page": [], "bare": [], "dark": []}
    with served(site, "--http") as url, chromium(folder / "profile", camera, scale=1) as driver:
        pages = {
            "page": (url, "return seen.length"),
            "bare": (f"{url}bare.html?camera&site={version}", "return window.bare ?? 0"),
            "dark": (f"{url}bare.html?site={version}", "return window.bare ?? 0"),
        }
        for _ in range(ROUNDS):  # alternating, so that a disturbance affects all of them
            for name, (address, count) in pages.items():
                driver.get(address)
                wait_until(lambda count=count: driver.execute_script(count) > 0, 60)  # type: ignore[misc]
                time.sleep(WARM_S)
                first, began = driver.execute_script(count), time.monotonic()
                time.sleep(SECONDS)
                last, ended = driver.execute_script(count), time.monotonic()
                per_frame[name].append(1000 * (ended - began) / (last - first))
                if name == "page":
                    results += driver.execute_script("return seen")[first:]
    ms = {name: statistics.median(values) for name, values in per_frame.items()}
    ratios = [a / b for a, b in zip(per_frame["page"], per_frame["bare"], strict=True)]
    parts = {k: statistics.median(r["ms"][k] for r in results) for k in results[0]["ms"]}
    show("phone/frame", width=results[0]["width"], frames=len(results), page_ms=ms["page"], bare_ms=ms["bare"],
         ratio=ms["page"] / ms["bare"], ratios=json.dumps([round(r, 2) for r in ratios]), dark_ms=ms["dark"],
         ratio_dark=ms["page"] / ms["dark"],
         latency_ms=statistics.median(r["total"] for r in results), **parts)  # fmt: skip


def memory(folder: Path, site: Path, clip: Path, minutes: float) -> None:
    """Measure the memory after garbage collections. Before one, a browser's heap grows with garbage."""
    camera = f"--use-file-for-fake-video-capture={clip}"
    with served(site, "--http") as url, chromium(folder / "memory", camera, scale=1) as driver:
        driver.get(url)
        wait_until(lambda: shown(driver, "state") == "live", 60)
        time.sleep(60)
        collect(driver)
        held, everything = page_mb(driver.service.process.pid), []
        for minute in range(1, round(minutes) + 1):
            for _ in range(4):
                driver.execute_script("seen.length = 0")
                driver.get_log("performance")  # otherwise the driver keeps all entries
                time.sleep(15)
            everything.append(page_mb(driver.service.process.pid))
            print(f"{minute} min: {everything[-1]:.0f} MB", flush=True)
        collect(driver)
        show("phone/memory", minutes=minutes, held_first_mb=held, held_last_mb=page_mb(driver.service.process.pid),
             garbage_mb=max(everything) - held)  # fmt: skip


def collect(driver: Any) -> None:
    """Collect the garbage of the page and of its workers."""
    address = driver.capabilities["goog:chromeOptions"]["debuggerAddress"]
    with urlopen(f"http://{address}/json/list", timeout=10) as answer:
        (target,) = (t["webSocketDebuggerUrl"] for t in json.load(answer) if t["type"] == "page")
    wire = websocket.create_connection(target, timeout=30, suppress_origin=True)
    everyone = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
    wire.send(json.dumps({"id": 0, "method": "Target.setAutoAttach", "params": everyone}))
    sessions: list[dict[str, str]] = [{}]
    while (message := json.loads(wire.recv())).get("id") != 0:
        if message.get("method") == "Target.attachedToTarget":
            sessions.append({"sessionId": message["params"]["sessionId"]})
    for k, session in enumerate(sessions, 1):
        wire.send(json.dumps({"id": k, "method": "HeapProfiler.collectGarbage", **session}))
        while json.loads(wire.recv()).get("id") != k:
            pass
    wire.close()
    assert len(sessions) == 4, "the page, preprocess-worker.js, inference-worker.js and service-worker.js"
    time.sleep(5)


def page_mb(pid: int) -> float:
    """Memory in MB of the largest renderer below a process, without shared memory."""
    sizes_mb, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        try:
            fields = Path(f"/proc/{one}/statm").read_text().split()
            if b"--type=renderer" in Path(f"/proc/{one}/cmdline").read_bytes():
                sizes_mb.append((int(fields[1]) - int(fields[2])) * 4096 / 1e6)
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:  # the process has exited
            continue
    return max(sizes_mb)


if __name__ == "__main__":
    main()
