"""The live page in a real browser: what a person sees, and that they are told when nobody looks."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import cv2
import numpy as np
import pytest

from benchmarks.support.browser import start_chromium
from benchmarks.support.waiting import wait_until
from edge.capture.mailbox import Slot
from edge.results.jpeg import encode_jpeg
from edge.web.handler import Limits
from edge.web.live_page import Page
from edge.web.routes import Web
from sightline.bundle import read_bundle
from sightline.errors import DeviceError
from sightline.predictions import Cause, Classification, Code, ModelId, Result
from sightline.preprocess import Frame
from tests.conftest import BGR, LABELS
from tests.support.bad_network import BadNetwork

SHA = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a screen and with a new profile. Its console and its requests are recorded."""
    # a stream is never loaded to its end, and may have no first image yet
    driver = start_chromium(tmp_path_factory.mktemp("profile"), load="eager")
    driver.set_page_load_timeout(20)
    driver.set_script_timeout(10)
    yield driver
    driver.quit()


@pytest.fixture
def fresh(browser: Any) -> Iterator[Any]:
    """The browser, wide, with nothing open and nothing recorded; nothing stays open afterwards."""
    browser.get("about:blank")
    width(browser, 1280)
    browser.get_log("browser")
    browser.get_log("performance")
    yield browser
    browser.get("about:blank")


def width(browser: Any, pixels: int, height: int = 800) -> None:
    """Of the page, as a phone's browser would have it: a window cannot be made so narrow."""
    metrics = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def text(browser: Any, id: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).innerText", id))


def seconds_until(condition: Callable[[], object], timeout_s: float) -> float:
    """Seconds until the condition is true."""
    began = time.monotonic()
    wait_until(condition, timeout_s)
    return time.monotonic() - began


def too_wide(browser: Any) -> list[str]:
    """The elements that reach beyond the window's right edge and are not cut off by one that hides what is too much."""
    found: list[str] = browser.execute_script(
        """
        const hidden = e => e && (getComputedStyle(e).overflowX !== "visible" || hidden(e.parentElement));
        const wide = [...document.body.querySelectorAll("*")].filter(
          e => e.getBoundingClientRect().right > innerWidth + 1 && !hidden(e.parentElement));
        const names = wide.map(e => `${e.tagName}#${e.id}`);
        if (document.documentElement.scrollWidth > document.documentElement.clientWidth) names.push("the page scrolls");
        return names;
        """
    )
    return found


def hosts(browser: Any) -> set[str]:
    """Whom the page asked for anything since the last time."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return {urlsplit(a).netloc or urlsplit(a).scheme for a in addresses}


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@contextmanager
def agent(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sightline run` with its page on any free port, and the page's address."""
    command = [sys.executable, "-m", "sightline", "run", *map(str, arguments), "--page-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("live page: "))
            yield process, line.split()[-1]
        finally:
            process.kill()


@contextmanager
def page_of(
    source: str = "a.mp4", model: str = "colours", encode: Callable[[Frame, int], bytes] = encode_jpeg
) -> Iterator[tuple[Web, Callable[[Result], None]]]:
    """A page without an agent, and what shows it a result: the same one is shown until another is given."""
    identity = {"name": model, "version": "1.0", "sha256": SHA}
    info = {
        "device": "desktop",
        "source": source,
        "scheme": "static_int8",
        "metric": "accuracy",
        "quality": 0.9876,
        "model": identity,
    }
    status = {"fps": 30.0, "frames": 12, "dropped": {}}
    page = Page([source], fps=10, width=320, info=info, status=lambda: status, encode=encode)
    web = Web(page, 0)
    web.start()
    shown: list[Result] = []
    over = threading.Event()

    def loop() -> None:
        frame = np.full((240, 320, 3), BGR["red"], np.uint8)
        slot = Slot(frame=frame)
        while not over.wait(0.05):
            if shown:
                page.observe(replace(shown[-1], source=source), slot if shown[-1].status == "ok" else None)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield web, shown.append
    finally:
        over.set()
        thread.join(2)
        web.close()


def saw(frame_id: int, *labels: str, cause: str | None = None, code: Code = "camera") -> Result:
    """A result that names the labels; none: the model looked and saw nothing; with a cause: nobody looked."""
    model = ModelId("colours", "1.0", SHA)
    predictions = tuple(Classification(label, i, 0.9 / (i + 1)) for i, label in enumerate(labels))
    size = (None, None) if cause else (320, 240)
    return Result(
        "desktop", "a.mp4", frame_id, "2026-01-01T00:00:00.000Z", 1, model, *size, {"total": 1.5, "inference": 1.0},
        predictions, {}, Cause(code, cause) if cause else None,
    )  # fmt: skip


@pytest.mark.slow
def test_a_person_sees_what_the_model_sees_and_when_it_sees_no_more(fresh: Any, bundle: Path, clip: Path) -> None:
    read = read_bundle(bundle)
    with agent(bundle, "--source", clip, "--realtime", "--loop") as (process, address):
        fresh.get(address)
        verdicts = set[str]()
        wait_until(lambda: verdicts.add(text(fresh, "best")) or verdicts >= set(LABELS), 10)
        wait_until(lambda: text(fresh, "state") == "live", 5)
        assert text(fresh, "name") == text(fresh, "model") == read.manifest.name == fresh.title.split(" - ")[0]
        assert text(fresh, "about") == "camera.mp4 on desktop"
        assert text(fresh, "version") == read.manifest.version
        assert text(fresh, "scheme") == "static_int8"
        assert read.files[read.manifest.variants["static_int8"]]["sha256"].startswith(text(fresh, "sha"))
        assert "%" in text(fresh, "score") and text(fresh, "total").endswith(" ms")
        assert float(text(fresh, "fps")) == pytest.approx(30, abs=6)
        size = "const p = document.getElementById('image'); return [p.naturalWidth, p.naturalHeight]"
        assert fresh.execute_script(size) == [160, 120]

        assert complaints(fresh) == []
        assert hosts(fresh) - {"data"} == {urlsplit(address).netloc}

        process.kill()
        seconds = seconds_until(lambda: text(fresh, "state") == "not live", 8)
        assert seconds < 5
        assert text(fresh, "banner") == "the agent does not answer"
        assert fresh.execute_script("return document.getElementById('verdict').hidden")
        assert "grayscale" in fresh.execute_script(
            "return getComputedStyle(document.getElementById('image')).filter"
        ), "the last image must not look like the present one"


def test_where_nothing_moves_what_was_seen_last_still_holds(fresh: Any) -> None:
    with page_of() as (page, show):
        fresh.get(page.url)
        show(saw(1, "red"))
        wait_until(lambda: text(fresh, "best") == "red", 5)
        show(saw(2, cause="nothing moves", code="no_motion"))
        wait_until(lambda: text(fresh, "state") == "no motion", 5)
        assert text(fresh, "best") == "red"
        hidden = "return [document.getElementById('verdict').hidden, document.getElementById('banner').hidden]"
        assert fresh.execute_script(hidden) == [False, True]
        show(saw(3, cause="gone"))
        wait_until(lambda: text(fresh, "state") == "not live", 5)


@pytest.mark.parametrize("pixels", [360, 768, 1280])
def test_nothing_reaches_beyond_the_window(fresh: Any, pixels: int) -> None:
    width(fresh, pixels)
    with page_of() as (page, show):
        show(saw(0, "blue", "green", "red"))
        fresh.get(page.url)
        wait_until(lambda: text(fresh, "best") == "blue", 5)
        assert fresh.execute_script("return innerWidth") == pixels
        assert too_wide(fresh) == []


def test_nothing_reaches_beyond_a_phone_however_long_the_names_are(fresh: Any) -> None:
    width(fresh, 360)
    label = "a_label_that_somebody_made_of_a_whole_sentence_without_any_space_in_it"
    with page_of(source="rtsp://" + "camera" * 20, model="m" * 100) as (page, show):
        show(saw(0, label, "x" * 200))
        fresh.get(page.url)
        wait_until(lambda: text(fresh, "best") == label, 5)
        wait_until(lambda: text(fresh, "name") == "m" * 100, 5)
        assert too_wide(fresh) == []
        show(saw(1, cause="rtsp://127.0.0.1/" + "x" * 150))
        wait_until(lambda: text(fresh, "state") == "not live", 5)
        assert too_wide(fresh) == []


def test_a_label_that_looks_like_html_stays_a_text(fresh: Any) -> None:
    label = "<img id=injected src=/x onerror=\"document.title='taken over'\"><b>red</b>"
    with page_of(source=label, model=label) as (page, show):
        show(saw(0, label))
        fresh.get(page.url)
        wait_until(lambda: text(fresh, "best") == label, 5)
        wait_until(lambda: text(fresh, "name") == label, 5)
        show(saw(1, cause=label))
        wait_until(lambda: text(fresh, "banner") == label, 5)
        assert fresh.execute_script("return document.getElementById('injected')") is None
        assert fresh.title.endswith("Sightline")
    assert not any("/x" in message for message in complaints(fresh))


def test_seeing_nothing_and_not_looking_are_told_apart(fresh: Any) -> None:
    nothing = "Nothing above the threshold."
    with page_of() as (page, show):
        show(saw(0, "red"))
        fresh.get(page.url)
        wait_until(lambda: text(fresh, "best") == "red", 5)
        assert nothing not in text(fresh, "bars")

        show(saw(1))
        wait_until(lambda: nothing in text(fresh, "bars"), 5)
        wait_until(lambda: text(fresh, "state") == "live", 5)
        assert fresh.execute_script("return document.getElementById('verdict').hidden")

        show(saw(2, cause="unplugged?"))
        wait_until(lambda: text(fresh, "state") == "not live", 5)
        assert text(fresh, "banner") == "unplugged?"
        assert nothing not in text(fresh, "bars"), "nobody looked"


def test_what_was_said_of_nothing_goes_when_something_is_seen_again(fresh: Any) -> None:
    with page_of() as (page, show):
        show(saw(0))
        fresh.get(page.url)
        wait_until(lambda: "Nothing above the threshold." in text(fresh, "bars"), 5)
        show(saw(1, "green", "blue"))
        wait_until(lambda: text(fresh, "best") == "green", 5)
        assert text(fresh, "bars").split() == ["green", "90.0", "%", "blue", "45.0", "%"]


def test_a_camera_that_comes_back_is_live_again(fresh: Any) -> None:
    with page_of() as (page, show):
        show(saw(0, cause="unplugged?"))
        fresh.get(page.url)
        wait_until(lambda: text(fresh, "state") == "not live", 5)
        show(saw(1, "red"))
        wait_until(lambda: text(fresh, "state") == "live" and text(fresh, "best") == "red", 5)
        assert fresh.execute_script("return document.getElementById('banner').hidden")


@pytest.mark.slow
def test_a_loop_that_stands_still_is_not_live(fresh: Any) -> None:
    """The page's own threads still answer, with the same frame for ever."""
    with page_of() as (page, show):
        show(saw(7, "red"))
        fresh.get(page.url)
        wait_until(lambda: text(fresh, "best") == "red", 5)
        assert seconds_until(lambda: text(fresh, "state") == "not live", 8) < 5
        assert text(fresh, "banner") == "no new frame for 3 s"


@contextmanager
def bad_network(url: str) -> Iterator[BadNetwork]:
    network = BadNetwork(url)
    try:
        yield network
    finally:
        network.close()


@pytest.mark.slow
def test_the_page_comes_back_by_itself_whatever_was_between(fresh: Any) -> None:
    with page_of() as (page, show), bad_network(page.url) as network:
        fresh.get(network.url)
        frame = 0
        for fault in (401, 502, "cut", "silent", 503):
            frame = live_again(fresh, show, frame)
            network.fault = fault
            wait_until(lambda: text(fresh, "state") == ("signed out" if fault == 401 else "not live"), 20)  # noqa: B023
            if fault == 502:
                wait_until(lambda: "502" in text(fresh, "banner"), 10)
            network.fault = ""
        live_again(fresh, show, frame)


def live_again(browser: Any, show: Callable[[Result], None], frame: int) -> int:
    """Show new frames until the page says that it is live; the number of the last one."""

    def live() -> bool:
        nonlocal frame
        frame += 1
        show(saw(frame, "red"))
        return text(browser, "state") == "live" and text(browser, "best") == "red"

    wait_until(live, 25)
    return frame


@pytest.mark.slow
def test_who_is_one_too_many_is_told_so_and_gets_a_place_when_there_is_one(fresh: Any) -> None:
    with page_of() as (page, show):
        with ExitStack() as others:
            for _ in range(Limits().viewers):
                others.enter_context(urlopen(page.url + "events", timeout=8))
            fresh.get(page.url)
            wait_until(lambda: text(fresh, "banner") == "too many viewers", 10)
        live_again(fresh, show, 0)


@pytest.mark.slow
def test_an_image_whose_stream_ended_is_asked_for_again(fresh: Any) -> None:
    """Browsers go on showing the last one, and say nothing."""
    with page_of() as (page, show), bad_network(page.url) as network:
        fresh.get(network.url)
        live_again(fresh, show, 0)
        wait_until(lambda: len(page.page.views) == 1, 5)
        network.end("stream.mjpg")
        wait_until(lambda: not page.page.views, 5)
        wait_until(lambda: len(page.page.views) == 1, 8)


def test_an_image_that_cannot_be_shown_is_said(fresh: Any) -> None:
    broken = threading.Event()

    def encode(frame: Frame, quality: int) -> bytes:
        if broken.is_set():
            raise DeviceError("no room")
        return encode_jpeg(frame, quality)

    with page_of(encode=encode) as (page, show):
        fresh.get(page.url)
        frame = live_again(fresh, show, 0)
        broken.set()
        wait_until(lambda: "cannot be shown" in text(fresh, "banner"), 5)
        assert text(fresh, "state") == "not live"
        broken.clear()
        live_again(fresh, show, frame)


@pytest.mark.parametrize("hash", ["#%", "#%E0%A4%A", "#nobody"])
def test_an_address_that_names_no_camera_shows_the_first(fresh: Any, hash: str) -> None:
    with page_of() as (page, show):
        fresh.get(page.url + hash)
        live_again(fresh, show, 0)


@pytest.fixture
def downloads(fresh: Any, tmp_path: Path) -> Path:
    fresh.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    return tmp_path


def test_the_slider_changes_what_the_model_says(fresh: Any, bundle: Path, clip: Path) -> None:
    with agent(bundle, "--source", clip, "--realtime", "--loop") as (_, address):
        fresh.get(address)
        wait_until(lambda: text(fresh, "state") == "live" and "Nothing" not in text(fresh, "bars"), 10)
        fresh.execute_script(
            "const t = document.getElementById('threshold'); t.value = 1;"
            "t.dispatchEvent(new Event('input')); t.dispatchEvent(new Event('change'));"
        )
        wait_until(lambda: text(fresh, "bars") == "Nothing above the threshold.", 5)
        assert text(fresh, "limit") == "100 %"
        fresh.refresh()
        wait_until(lambda: text(fresh, "limit") == "100 %", 5)
        assert complaints(fresh) == []


def test_a_snapshot_is_downloaded_as_large_as_it_is(fresh: Any, bundle: Path, clip: Path, downloads: Path) -> None:
    with agent(bundle, "--source", f"door={clip}", "--realtime", "--loop") as (_, address):
        fresh.get(address)
        wait_until(lambda: text(fresh, "state") == "live", 10)
        fresh.execute_script("document.getElementById('snapshot').click()")
        wait_until(lambda: bool(list(downloads.glob("door-*.jpg"))), 8)
        (path,) = downloads.glob("door-*.jpg")
        image = cv2.imread(str(path))
        assert image is not None and image.shape == (120, 160, 3)
        assert complaints(fresh) == []


@pytest.mark.slow
def test_each_camera_is_looked_at_by_itself(fresh: Any, bundle: Path, tmp_path: Path) -> None:
    sources = []
    for label in ("blue", "red"):
        path = tmp_path / f"{label}.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 30, (160, 120))
        for _ in range(30):
            writer.write(np.full((120, 160, 3), BGR[label], np.uint8))
        writer.release()
        sources += ["--source", f"{label}-line={path}"]
    mean = (
        "const p = document.getElementById('image'), c = document.createElement('canvas'); c.width = c.height = 1;"
        "const g = c.getContext('2d'); g.drawImage(p, 0, 0, 1, 1); return [...g.getImageData(0, 0, 1, 1).data];"
    )
    with agent(bundle, *sources, "--realtime", "--loop") as (_, address):
        fresh.get(address)
        for label, other in (("blue", "red"), ("red", "blue"), ("blue", "red")):
            fresh.execute_script(
                "[...document.getElementById('cameras').children].find(b => b.textContent === arguments[0]).click()",
                f"{label}-line",
            ) if text(fresh, "cameras") else wait_until(lambda: bool(text(fresh, "cameras")), 10)
            wait_until(lambda: text(fresh, "best") == label, 8)  # noqa: B023
            for _ in range(10):
                assert text(fresh, "best") != other, "results of another camera are not mixed in"
                time.sleep(0.03)
            wait_until(lambda: abs(fresh.execute_script(mean)[2] - BGR[label][0]) < 25, 5)  # noqa: B023
        assert complaints(fresh) == []


def test_boxes_are_drawn_where_they_are(fresh: Any) -> None:
    with page_of() as (page, show):
        fresh.get(page.url)
        show(saw(1, "red"))
        wait_until(lambda: text(fresh, "best") == "red", 5)
        wait_until(lambda: fresh.execute_script("return document.getElementById('image').clientHeight > 50"), 5)
        box = {"x": 160, "y": 120, "width": 80, "height": 60}
        at = fresh.execute_script(
            """
            const seen = [{label: "<b>fox", score: 0.9, box: arguments[0]}];
            overlay({image: {width: 320, height: 240}, predictions: seen});
            const c = document.getElementById("overlay"), p = document.getElementById("image");
            const o = c.getBoundingClientRect(), i = p.getBoundingClientRect(), g = c.getContext("2d");
            const on = (x, y) => g.getImageData(x * c.width, y * c.height, 1, 1).data[3] > 0;
            const within = o.left >= i.left - 1 && o.right <= i.right + 1 && o.top >= i.top - 1;
            return {left: on(0.5, 0.625), right: on(0.75, 0.625), top: on(0.625, 0.5), bottom: on(0.625, 0.75),
                    inside: on(0.6, 0.6), outside: on(0.2, 0.6), ratio: o.width / o.height,
                    inPicture: within && o.bottom <= i.bottom + 1};
            """,
            box,
        )
    assert [at[k] for k in ("left", "right", "top", "bottom")] == [True] * 4, at
    assert (at["inside"], at["outside"], at["inPicture"]) == (False, False, True), at
    assert at["ratio"] == pytest.approx(4 / 3, rel=0.02)


@pytest.mark.slow
def test_from_elsewhere_it_asks_for_the_token_and_then_shows_all(fresh: Any, bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", "test:64x48@30", "--page-port=0",
               "--page-address=0.0.0.0", f"--page-token-file={tmp_path}/token"]  # fmt: skip
    with subprocess.Popen(command, stdout=-3, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            token = next(line for line in process.stderr if "shown only once" in line).split()[-1]
            address = next(line for line in process.stderr if "live page: " in line).split()[-1]
            fresh.get(address)
            wait_until(lambda: text(fresh, "state") == "signed out", 5)
            assert fresh.execute_script("return document.getElementById('page').hidden")
            for given, state in (("wrong", "signed out"), (token, "live")):
                fresh.execute_script(
                    "document.getElementById('token').value = arguments[0];"
                    "document.getElementById('login').requestSubmit()",
                    given,
                )
                wait_until(lambda: text(fresh, "refused") != "" or text(fresh, "state") == "live", 8)
                wait_until(lambda: text(fresh, "state") == state, 8)  # noqa: B023
            fresh.refresh()
            wait_until(lambda: text(fresh, "state") == "live", 8)
            assert token not in fresh.page_source
            assert token not in fresh.execute_script("return document.cookie"), "no script can read it"
        finally:
            process.kill()
        fresh.delete_all_cookies()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_by_day_and_by_night(fresh: Any, scheme: str) -> None:
    """Contrast of each text against what is behind it, by WCAG's formula: at least 4.5."""
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    fresh.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    with page_of() as (page, show):
        fresh.get(page.url)
        show(saw(1, "red"))
        wait_until(lambda: text(fresh, "best") == "red", 5)
        poor = fresh.execute_script(
            """
            const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255;
              return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
              return .2126 * r + .7152 * g + .0722 * b; };
            const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
              if (!/, 0\\)|transparent/.test(c)) return c; } return "rgb(255,255,255)"; };
            return [...document.querySelectorAll("h2,dt,dd,strong,span,button,label,output")].filter(e => e.innerText)
              .map(e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
                return [e.innerText.slice(0, 20), (a + .05) / (b + .05)]; }).filter(([, ratio]) => ratio < 4.5);
            """
        )
    assert poor == []
