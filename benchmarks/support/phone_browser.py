"""Chromium as a phone, with a camera that plays a clip."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.support.browser import start_chromium

OPTIONS = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
COLLECT = "window.seen = []; addEventListener('sightline', e => seen.push(e.detail));"


def write_y4m(path: Path, frames: Sequence[np.ndarray[Any, Any]], fps: int = 10) -> Path:
    """Write a clip for Chromium's camera. Returns `path`.

    frames: uint8 [height, width, 3], BGR, with even width and height.
    """
    height, width = frames[0].shape[:2]
    with path.open("wb") as f:
        f.write(f"YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            f.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes())
    return path


@contextlib.contextmanager
def chromium(profile: Path, *more: str, width: int = 360, height: int = 740, scale: int = 2) -> Iterator[Any]:
    """Yields a driver, which records the console and the requests.

    more: further options.
    """
    driver = start_chromium(profile, *OPTIONS, f"--window-size={width},{height}", *more)
    try:
        driver.set_page_load_timeout(30)
        driver.set_script_timeout(30)
        screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COLLECT})
        yield driver
    finally:
        driver.quit()


@contextlib.contextmanager
def served(site: Path, *options: str, port: int = 0) -> Iterator[str]:
    """Serve an exported page. Yields its address on this machine.

    options: of `sightline serve-web`.
    """
    line = [sys.executable, "-m", "sightline", "serve-web", site, "--address", "127.0.0.1", "--json", *options]
    with subprocess.Popen([*map(str, line), "--port", str(port)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield str(json.loads(server.stdout.readline())["address"])
        finally:
            server.kill()


def shown(driver: Any, element: str) -> str:
    """Text of the element with this id."""
    return str(driver.execute_script("return document.getElementById(arguments[0]).textContent", element))
