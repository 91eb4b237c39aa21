"""The page in Safari's engine, as far as it goes without a Mac: WebKitGTK, with a camera that is a canvas."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.support.phone_browser import served, shown
from benchmarks.support.waiting import wait_until
from tests.conftest import LABELS, coloured, need

# no WebKitGTK has a camera where there is none; what a canvas shows comes the same way
CAMERA = """
const shown = document.createElement("canvas"), pen = Object.assign(shown, {width: 640, height: 480}).getContext("2d");
const images = {};
for (const label of %s) (images[label] = new Image()).src = `${label}.png`;
window.label = "blue";
setInterval(() => images[window.label].complete && pen.drawImage(images[window.label], 0, 0), 33);
if (!navigator.mediaDevices) Object.defineProperty(navigator, "mediaDevices", {value: {}});
navigator.mediaDevices.enumerateDevices = async () => [];
navigator.mediaDevices.getUserMedia = async () => shown.captureStream(30);
"""


@pytest.fixture
def webkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    browsers = sorted(Path("/usr/lib").glob("*/webkit2gtk-4.1/MiniBrowser"))
    programs = [shutil.which("WebKitWebDriver"), shutil.which("Xvfb")]
    need(bool(browsers) and all(programs), "WebKit is needed: apt-get install webkit2gtk-driver xvfb")
    from selenium import webdriver
    from selenium.webdriver.remote.client_config import ClientConfig
    from selenium.webdriver.remote.remote_connection import RemoteConnection
    from selenium.webdriver.webkitgtk.options import Options
    from selenium.webdriver.webkitgtk.service import Service

    read, write = os.pipe()
    line = [str(programs[1]), "-displayfd", str(write), "-screen", "0", "800x900x24"]
    with subprocess.Popen(line, pass_fds=[write], stderr=subprocess.DEVNULL) as screen:
        os.close(write)
        try:
            with os.fdopen(read) as answer:
                monkeypatch.setenv("DISPLAY", f":{answer.readline().strip()}")
            monkeypatch.setenv("WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS", "1")  # it wants what containers lack
            for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
                monkeypatch.setenv(name, str(tmp_path / name))
            options = Options()
            options.binary_location = str(browsers[0])
            options.add_argument("--automation")
            service = Service(str(programs[0]))
            service.start()
            try:
                wire = RemoteConnection(client_config=ClientConfig(service.service_url))
                driver = webdriver.Remote(wire, options=options)
                yield driver
                driver.quit()
            finally:
                service.stop()
        finally:
            screen.kill()


@pytest.mark.slow
def test_its_words_follow_the_camera(site: Path, webkit: Any, tmp_path: Path) -> None:
    """Its copyTo answers blue as red; it has no relaxed SIMD, so it runs the other build of the runtime."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    rng = np.random.default_rng(2)
    for label in LABELS:
        cv2.imwrite(str(copy / f"{label}.png"), coloured(label, rng, 640, 480))
    (copy / "camera.js").write_text(CAMERA % list(LABELS))
    index = copy / "index.html"
    head, script, rest = index.read_text().partition('<script type="module"')
    index.write_text(f'{head}<script src="camera.js"></script>{script}{rest}')
    with served(copy, "--http") as url:
        webkit.get(url)
        wait_until(lambda: shown(webkit, "proof") == "passed: 4 of 4 golden samples match", 60)
        for label in LABELS:
            webkit.execute_script("window.label = arguments[0]", label)
            wait_until(lambda label=label: shown(webkit, "best").startswith(label), 20, label)  # type: ignore[misc]
        assert shown(webkit, "state") == "live"
