"""Chromium without a screen."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from benchmarks.support.needs import need

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip


def start_chromium(profile: Path, *more: str, load: str = "normal") -> Any:
    """Start Chromium. Returns its driver, which records the console and the requests.

    more: further options.
    load: when a page counts as loaded: `normal`, `eager` or `none`.
    """
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    need(all(programs.values()), "a browser is needed: apt-get install chromium chromium-driver")
    need(importlib.util.find_spec("selenium") is not None, "selenium is needed: pip install 'sightline[dev]'")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.page_load_strategy = load
    options.binary_location = str(programs["chromium"])
    for option in (*OPTIONS, f"--user-data-dir={profile}", *more):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(str(programs["chromedriver"])))
