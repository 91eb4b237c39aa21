"""What the page costs beside LiteRT.js' own inference: `python -m benchmarks.phone [--minutes 10]`.

A 720p camera at 30 frames a second in headless Chromium, MobileNetV2 at 224 with an int8 body. Milliseconds from taking
a frame to its answer, over those of an inference alone in the same worker; then the memory of all of the browser's
processes, minute by minute. Where there is no GPU, painting the picture takes much of a core: the screen is small.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2

from benchmarks.agent import make_bundle, make_clip, show
from edge.phone.export import export
from sightline.bundle import read_bundle
from tests.phone.browser import chromium, served, shown, until, write_y4m

SECONDS, ROUNDS = 30, 5
WARM_S = 5
HIDDEN = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
# LiteRT.js and nothing else: one input, run again and again
BARE = """
const [version, done] = arguments, here = new URL(version + "/", location.href).href;
(async () => {
  const {loadLiteRt, loadAndCompile, Tensor} = await import(here + "litert.js");
  if (!window.bare) {
    self.Module = {locateFile: file => here + file};
    await loadLiteRt(here);
    window.bare = await loadAndCompile(here + "model.tflite", {accelerator: "wasm"});
  }
  const model = window.bare;
  const input = new Float32Array(224 * 224 * 3).fill(90), times = [];
  for (let k = 0; k < 150; k++) {
    const began = performance.now(), entry = new Tensor(input, [1, 224, 224, 3]), results = await model.run([entry]);
    results[0].toTypedArray();
    times.push(performance.now() - began);
    entry.delete();
    for (const result of results) result.delete();
  }
  done(times.slice(50).sort((a, b) => a - b)[50]);
})();
"""


def main() -> None:
    minutes = float(sys.argv[sys.argv.index("--minutes") + 1]) if "--minutes" in sys.argv else 0.0
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        site = folder / "site"
        done = export(
            read_bundle(make_bundle(folder, "static_int8_float_io")), site, scheme=None, post="", runtime=None
        )
        capture = cv2.VideoCapture(str(make_clip(folder / "clip.mp4", 60)))
        frames = [frame for ok, frame in iter(capture.read, (False, None)) if ok]
        camera = f"--use-file-for-fake-video-capture={write_y4m(folder / 'clip.y4m', frames, 30)}"
        with served(site, "--http") as url, chromium(folder / "profile", camera, scale=1) as driver:
            driver.get(url)
            until(lambda: shown(driver, "state") == "live", 60)
            time.sleep(WARM_S)
            seen: list[dict[str, Any]] = []
            bare = []
            for _ in range(ROUNDS):  # in turns: what disturbs one disturbs the other
                driver.execute_script(f"{HIDDEN % 'false'} document.dispatchEvent(new Event('visibilitychange'))")
                time.sleep(2)
                driver.execute_script("seen.length = 0")
                time.sleep(SECONDS / ROUNDS)
                seen += driver.execute_script("return seen")
                driver.execute_script(f"{HIDDEN % 'true'} document.dispatchEvent(new Event('visibilitychange'))")
                bare.append(float(driver.execute_async_script(BARE, done.version)))
            driver.execute_script(f"{HIDDEN % 'false'} document.dispatchEvent(new Event('visibilitychange'))")
            parts = {k: statistics.median(r["ms"][k] for r in seen) for k in seen[0]["ms"]}
            total, alone = statistics.median(r["total"] for r in seen), statistics.median(bare)
            show("phone/frame", width=seen[0]["width"], frames=len(seen), bare_ms=alone, total_ms=total,
                 ratio=total / alone, first_load=done.first_load, **parts)  # fmt: skip
            memory = []
            for _ in range(round(2 * minutes)):
                driver.execute_script("seen.length = 0")
                time.sleep(30)
                driver.get_log("performance")  # or the driver would keep them all
                memory.append(resident_mb(driver.service.process.pid))
                print(f"{len(memory) / 2:g} min: {memory[-1]:.0f} MB", flush=True)
            if memory:
                half = len(memory) // 2
                show("phone/memory", minutes=minutes, first_mb=statistics.median(memory[1:half]),
                     last_mb=statistics.median(memory[half:]), most_mb=max(memory))  # fmt: skip


def resident_mb(pid: int) -> float:
    """Of a process and all that it has started."""
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        try:
            fields = Path(f"/proc/{one}/statm").read_text().split()
            total += (int(fields[1]) - int(fields[2])) * 4096 / 1e6  # what it shares with others is not counted
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended
            continue
    return total


if __name__ == "__main__":
    main()
