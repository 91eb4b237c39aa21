"""The page in a real browser, with a camera that plays a clip: its texts, also for faults."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import jsonschema
import numpy as np
import pytest

from benchmarks.support.phone_browser import chromium, served, shown, write_y4m
from benchmarks.support.waiting import wait_until
from sightline.bundle import read_bundle
from sightline.interpreter import Interpreter
from sightline.postprocess import postprocess
from sightline.predictions import Detection
from sightline.preprocess import Preprocessor
from tests.conftest import LABELS, coloured
from tests.web_export.conftest import exported

pytestmark = pytest.mark.slow

SCHEMA = json.loads((Path(__file__).parents[2] / "sightline/prediction.schema.json").read_text())


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of each colour, again and again."""
    rng = np.random.default_rng(2)
    frames = [coloured(label, rng, 640, 480) for label in LABELS for _ in range(20)]
    return write_y4m(tmp_path_factory.mktemp("clip") / "colours.y4m", frames)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    return tmp_path / "profile"


def camera(clip: Path) -> str:
    return f"--use-file-for-fake-video-capture={clip}"


def results(driver: Any, at_least: int = 1) -> list[dict[str, Any]]:
    wait_until(lambda: driver.execute_script("return seen.length") >= at_least, 40, f"{at_least} results")
    return list(driver.execute_script("return seen"))


def asked(record: Path, url: str) -> set[str]:
    """What the site's pages and workers asked for, by the browser's own record of its network."""
    lines = [line.rstrip(",\n") for line in record.read_text(errors="replace").splitlines() if '"initiator"' in line]
    requests = [json.loads(line)["params"] for line in lines]
    return {r["url"] for r in requests if urlsplit(r["initiator"]).netloc == urlsplit(url).netloc}


def in_their_order(seen: list[dict[str, Any]]) -> None:
    """Results that follow the clip of colours."""
    assert all(a["id"] < b["id"] for a, b in pairwise(seen))
    best = [r["predictions"][0]["label"] for r in seen]
    turns = [b for a, b in zip([None, *best[:-1]], best, strict=True) if a != b]
    assert set(turns) == set(LABELS) and len(turns) <= 6, "two seconds of each, and none in between"
    order = [*LABELS, *LABELS]
    assert set(pairwise(turns)) <= set(pairwise(order)), turns


def refused(driver: Any) -> str:
    """The code of the fault that the page shows, once it does."""
    banner = "const b = document.getElementById('banner'); return b.hidden ? '' : b.dataset.code"
    code = str(wait_until(lambda: driver.execute_script(banner), 40, "a message"))
    assert len(shown(driver, "words")) > 30
    return code


@pytest.mark.parametrize("build", ["internal", "compat"])
def test_its_words_follow_the_camera_and_nothing_goes_elsewhere(
    site: Path, clip: Path, profile: Path, build: str
) -> None:
    record = f"{profile}.netlog"
    with served(site, "--http") as url, chromium(profile, camera(clip), f"--log-net-log={record}") as driver:
        driver.get(f"{url}?build={build}")
        wait_until(lambda: shown(driver, "state") == "live", 40, "live")
        in_their_order(results(driver, 65))
        assert shown(driver, "heard") in LABELS, "read aloud without its score, which changes all the time"
        assert shown(driver, "proof") == "passed: 4 of 4 golden samples match"
        worst = [
            e["message"]
            for e in driver.get_log("browser")
            if e["level"] == "SEVERE" and "litert_wasm" not in e["message"]
        ]
        assert worst == [], "LiteRT logs much to the console; nothing else does"
    requests = asked(Path(record), url)
    assert {urlsplit(u).netloc for u in requests} == {urlsplit(url).netloc}
    assert any(f"litert_wasm{'_compat' if build == 'compat' else ''}_internal.wasm" in u for u in requests)


def by_python(bundle: Path, frame: np.ndarray[Any, Any], threshold: float) -> list[Detection]:
    read = read_bundle(bundle)
    m = read.manifest
    interpreter = Interpreter(read.variant("static_int8_float_io")[1], m.input, threads=1, name="x")
    entry = interpreter.quantizer.empty()
    interpreter.quantizer(Preprocessor(m.input)(frame), entry)
    interpreter.feed(entry)
    interpreter.invoke()
    size = frame.shape[1], frame.shape[0]
    predictions = postprocess(interpreter.raw(), interpreter.outputs, m.input, m.output, size, threshold)
    return [d for d in predictions if isinstance(d, Detection)]


def iou(a: dict[str, float], b: dict[str, float]) -> float:
    w = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
    h = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
    shared = max(w, 0) * max(h, 0)
    return shared / (a["width"] * a["height"] + b["width"] * b["height"] - shared)


def test_boxes_land_where_python_puts_them(
    detector: Path, detector_site: Path, spots: Path, profile: Path, tmp_path: Path
) -> None:
    pictures = sorted((spots / "val").glob("*.png"))[:6]
    frames = [cv2.resize(cv2.imread(str(p)), (640, 480), interpolation=cv2.INTER_NEAREST) for p in pictures]
    still = write_y4m(tmp_path / "still.y4m", frames[:1])
    compared = 0
    with served(detector_site, "--http") as url, chromium(profile, camera(still)) as driver:
        driver.get(url)
        live = results(driver, 5)[-1]
        everything = [(live, frames[0], 0.05)]  # what the camera gives went through YUV
        for i, frame in enumerate(frames):
            path = tmp_path / f"{i}.png"
            cv2.imwrite(str(path), frame)
            before = driver.execute_script("return seen.filter(r => r.still).length")
            driver.find_element("id", "file").send_keys(str(path))
            wait_until(lambda n=before: driver.execute_script("return seen.filter(r => r.still).length") > n, 30)  # type: ignore[misc]
            everything.append((results(driver)[-1], frame, 0.002))
        for result, frame, tolerance in everything:
            expected = by_python(detector, frame, 0.5)
            assert [p["label"] for p in result["predictions"]] == [d.label for d in expected]
            for p, d in zip(result["predictions"], expected, strict=True):
                assert iou(p["box"], d.to_json()["box"]) >= 0.95 and p["score"] == pytest.approx(d.score, abs=tolerance)
                compared += 1
        assert {p.get("track") for p in live["predictions"]} != {None}
    assert compared >= 8


def test_the_float_model_proves_itself_too(colours: Path, clip: Path, profile: Path, tmp_path: Path) -> None:
    site = exported(colours, tmp_path / "float", scheme="float32")
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        wait_until(lambda: shown(driver, "proof") == "passed: 4 of 4 golden samples match", 40)
        assert "float32" in shown(driver, "model")


def change_a_weight(site: Path, *, and_its_hash: bool) -> None:
    (about,) = site.glob("*/bundle.json")
    model = about.parent / "model.tflite"
    content, known = bytearray(model.read_bytes()), json.loads(about.read_text())
    read = Interpreter(bytes(content), None, threads=1, name="x")._lite
    weights = next(
        t for t in read.get_tensor_details() if list(t["shape"])[1:] == [3, 3, 3] or list(t["shape"]) == [3, 8]
    )
    at = bytes(content).index(read.get_tensor(weights["index"]).tobytes())
    content[at + 4] ^= 0x40
    model.write_bytes(content)
    if and_its_hash:
        known["files"]["model.tflite"] = hashlib.sha256(content).hexdigest()
        about.write_text(json.dumps(known))


def test_one_changed_byte_of_a_weight_is_not_run(site: Path, clip: Path, tmp_path: Path) -> None:
    """Its hash says so; and if the hash is changed as well, the golden samples."""
    for and_its_hash, code in ((False, "damaged"), (True, "golden")):
        copy = tmp_path / code
        shutil.copytree(site, copy)
        change_a_weight(copy, and_its_hash=and_its_hash)
        with served(copy, "--http") as url, chromium(tmp_path / f"profile-{code}", camera(clip)) as driver:
            driver.get(url)
            assert refused(driver) == code
            assert driver.execute_script("return seen.length") == 0, "no result of a model that differs"


def test_it_goes_on_when_its_server_is_gone(site: Path, clip: Path, profile: Path) -> None:
    with chromium(profile, camera(clip)) as driver:
        with served(site, "--http") as url:
            driver.get(url)
            results(driver, 3)
            wait_until(lambda: shown(driver, "offline").startswith("works"), 20)
        driver.get("about:blank")
        driver.get(url)
        wait_until(lambda: shown(driver, "state") == "live", 40)
        assert results(driver, 3)[0]["predictions"]


def test_an_update_comes_as_a_whole(colours: Path, site: Path, clip: Path, profile: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    with served(copy, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        results(driver, 2)
        assert "static_int8_float_io" in shown(driver, "model")
        exported(colours, copy, scheme="float32")
        assert len(list(copy.glob("*/bundle.json"))) == 2, "the previous version stays for open pages"
        driver.get(url)
        results(driver, 2)
        assert "float32" in shown(driver, "model"), "its page, its model, its labels: all of one folder"


class Taker(BaseHTTPRequestHandler):
    """Takes what a page posts, as a program of the user's would."""

    bodies: list[bytes] = []  # noqa: RUF012

    def do_OPTIONS(self) -> None:
        self.send_response(204)
        for name, value in (("Origin", "*"), ("Headers", "content-type"), ("Methods", "POST")):
            self.send_header(f"Access-Control-Allow-{name}", value)
        self.end_headers()

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def taker() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Taker.bodies.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}/seen"
    server.shutdown()
    server.server_close()


def test_it_sends_what_it_sees_once_that_is_allowed(
    colours: Path, clip: Path, profile: Path, tmp_path: Path, taker: str
) -> None:
    site = exported(colours, tmp_path / "site", post=taker)
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        results(driver, 10)
        assert Taker.bodies == [], "off until the user turns it on"
        driver.execute_script("document.getElementById('more').click(); document.getElementById('post').click()")
        wait_until(lambda: len(Taker.bodies) >= 5, 30)
    for body in Taker.bodies:
        jsonschema.validate(json.loads(body), SCHEMA, format_checker=jsonschema.FormatChecker())


def test_without_permission(site: Path, clip: Path, profile: Path) -> None:
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FAIL % "NotAllowedError"})
        driver.get(url)
        assert refused(driver) == "NotAllowedError"


FAIL = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('as the test wants it', '%s'));"


def test_without_a_camera_an_image_is_enough(site: Path, pictures: Path, profile: Path, tmp_path: Path) -> None:
    with (
        served(site, "--http") as url,
        chromium(profile, "--use-fake-device-for-media-stream=device-count=0") as driver,
    ):
        driver.get(url)
        assert refused(driver) == "NotFoundError"
        driver.find_element("id", "file").send_keys(str(next((pictures / "red").glob("*.png"))))
        wait_until(lambda: shown(driver, "best").startswith("red"), 40)
        assert driver.execute_script("return document.getElementById('banner').hidden")
        driver.find_element("id", "file").send_keys(str(next((pictures / "blue").glob("*.png"))))
        wait_until(lambda: shown(driver, "best").startswith("blue"), 40)
        (tmp_path / "none.png").write_text("no image")
        driver.find_element("id", "file").send_keys(str(tmp_path / "none.png"))
        assert refused(driver) == "fault" and "none.png is not an image" in shown(driver, "details")
        driver.find_element("id", "file").send_keys(str(next((pictures / "blue").glob("*.png"))))
        wait_until(lambda: driver.execute_script("return document.getElementById('banner').hidden"), 30)
        assert shown(driver, "state") == "image"
        assert shown(driver, "heard") == "blue", "the one result of an image is read aloud, however soon it comes"


def test_without_https_an_image_is_enough(site: Path, clip: Path, pictures: Path, profile: Path) -> None:
    rule = "--host-resolver-rules=MAP pi.example 127.0.0.1"
    with served(site, "--http") as url, chromium(profile, camera(clip), rule) as driver:
        driver.get(url.replace("localhost", "pi.example"))
        wait_until(lambda: shown(driver, "proof").startswith("passed"), 40)
        assert refused(driver) == "insecure" and "https://" in shown(driver, "words")
        driver.find_element("id", "file").send_keys(str(next((pictures / "red").glob("*.png"))))
        wait_until(lambda: shown(driver, "best").startswith("red"), 40)


def test_a_browser_that_is_too_old(site: Path, clip: Path, profile: Path) -> None:
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": "WebAssembly.validate = () => false;"}
        )
        driver.get(url)
        assert refused(driver) == "simd" and "Safari 16.4" in shown(driver, "words")
        driver.execute_script("window.before = true; document.getElementById('again').click()")
        wait_until(lambda: not driver.execute_script("return window.before"), 30)
        assert refused(driver) == "simd", "it shows the fault again, and does not load for ever"


def test_a_full_storage_costs_the_offline_use_alone(site: Path, clip: Path, profile: Path) -> None:
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Storage.overrideQuotaForOrigin", {"origin": url.rstrip("/"), "quotaSize": 300_000})
        driver.get(url)
        results(driver, 3)
        wait_until(lambda: "storage is full" in shown(driver, "offline"), 20)


WORKERS = """
window.workers = [];
window.Worker = class extends Worker { constructor(...a) { super(...a); workers.push(this); } };
"""


def test_a_browser_that_stops_the_model(site: Path, clip: Path, profile: Path) -> None:
    """It is restarted a few times, then the page shows a fault."""
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WORKERS})
        driver.get(url)
        results(driver, 2)
        stop = "workers.at(%d).dispatchEvent(new ErrorEvent('error', {message: 'out of memory', cancelable: true}))"
        for started, which in enumerate((-1, -2), 2):  # the one that prepares, the one with the model
            driver.execute_script(stop % which)
            before = driver.execute_script("return seen.length")
            results(driver, before + 3)
            assert driver.execute_script("return workers.length") == 2 * started
        for _ in range(2):
            driver.execute_script(stop % -1)
        assert refused(driver) == "stopped" and "out of memory" in shown(driver, "details")
        driver.execute_script("document.getElementById('again').click()")
        before = driver.execute_script("return seen.length")
        results(driver, before + 2)


def test_a_browser_that_copies_frames_in_its_own_order(site: Path, clip: Path, profile: Path, tmp_path: Path) -> None:
    """Safari's engine copies a frame's bytes as they lie, whatever is asked for: they are read by way of a canvas."""
    swaps = """const copyTo = VideoFrame.prototype.copyTo;
    VideoFrame.prototype.copyTo = async function (out, options) {
      const layout = await copyTo.call(this, out, options);
      for (let i = 0; i < out.length; i += 4) [out[i], out[i + 2]] = [out[i + 2], out[i]];
      return layout;
    };"""
    with served(preparing(site, tmp_path, swaps), "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        in_their_order(results(driver, 65))


def test_a_browser_that_changes_what_a_page_reads(site: Path, clip: Path, profile: Path, tmp_path: Path) -> None:
    """Some do, against fingerprinting: no result is better than a wrong one."""
    white = """OffscreenCanvasRenderingContext2D.prototype.getImageData = function (x, y, w, h) {
      return new ImageData(new Uint8ClampedArray(4 * w * h).fill(255), w, h);
    };"""
    with served(preparing(site, tmp_path, white), "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        assert refused(driver) == "pixels"
        assert driver.execute_script("return seen.length") == 0


def preparing(site: Path, tmp_path: Path, script: str) -> Path:
    """A copy of the site whose preprocessing thread runs the script first."""
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    (program,) = copy.glob("*/preprocess-worker.js")
    program.write_text(script + program.read_text())
    return copy


def test_a_camera_that_comes_later(site: Path, clip: Path, profile: Path) -> None:
    """The page tries again by itself."""
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LATER})
        driver.get(url)
        assert refused(driver) == "NotReadableError"
        driver.execute_script("window.free = true")
        results(driver, 2)
        assert driver.execute_script("return document.getElementById('banner').hidden")


LATER = """const media = navigator.mediaDevices, get = media.getUserMedia.bind(media);
const busy = () => Promise.reject(new DOMException('as the test wants it', 'NotReadableError'));
media.getUserMedia = wants => window.free ? get(wants) : busy();"""


def test_a_camera_that_stands_still(site: Path, clip: Path, profile: Path) -> None:
    """The page shows it, and reopens the camera."""
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        results(driver, 5)
        assert shown(driver, "state") == "live"
        driver.execute_script("window.before = video.srcObject; video.pause()")
        wait_until(lambda: shown(driver, "state") == "no image", 8)
        count = driver.execute_script("return seen.length")
        results(driver, count + 3)
        wait_until(lambda: shown(driver, "state") == "live", 5)
        assert driver.execute_script("return video.srcObject !== before && !before.active")


def test_a_camera_that_is_taken_away(site: Path, clip: Path, profile: Path) -> None:
    """The last result does not stay beside a lost image, and the page searches again by itself."""
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.get(url)
        results(driver, 5)
        take = "const [track] = video.srcObject.getTracks(); track.stop(); track.dispatchEvent(new Event('ended'));"
        driver.execute_script(f"window.next = navigator.mediaDevices.getUserMedia; {FAIL % 'NotFoundError'} {take}")
        assert refused(driver) == "ended" and shown(driver, "state") == "no camera"
        assert shown(driver, "best") == "…"
        wait_until(lambda: refused(driver) == "NotFoundError", 10)
        assert shown(driver, "best") == "…"
        driver.execute_script("navigator.mediaDevices.getUserMedia = window.next")
        count = driver.execute_script("return seen.length")
        results(driver, count + 3)
        assert driver.execute_script("return document.getElementById('banner').hidden")


def test_a_model_that_does_not_answer(site: Path, clip: Path, profile: Path) -> None:
    """It is started again after 15 s; those that the page was put away do not count."""
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WORKERS + CLOCK})
        driver.get(url)
        results(driver, 2)
        driver.execute_script("workers.at(-1).postMessage = () => {}")
        time.sleep(1)
        put_away = f"{HIDDEN} ahead += 20000; document.dispatchEvent(new Event('visibilitychange'));"
        for hidden in ("true", "false"):
            driver.execute_script(put_away % hidden)
            time.sleep(1.5)
            assert driver.execute_script("return workers.length") == 2
        before = driver.execute_script("ahead += 20000; return seen.length")
        wait_until(lambda: driver.execute_script("return workers.length") == 4, 5)
        results(driver, before + 2)


CLOCK = "window.ahead = 0; const now = performance.now.bind(performance); performance.now = () => now() + ahead;"
HIDDEN = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
LOCKS = """window.locks = [];
const request = navigator.wakeLock.request.bind(navigator.wakeLock);
navigator.wakeLock.request = async kind => { locks.push(await request(kind)); return locks.at(-1); };"""
AWAKE = "return locks.map(lock => !lock.released)"
ENDED = "return document.getElementById('video').srcObject.getTracks().every(t => t.readyState === 'ended')"


def test_a_second_camera_and_a_snapshot(site: Path, profile: Path, tmp_path: Path) -> None:
    with (
        served(site, "--http") as url,
        chromium(profile, "--use-fake-device-for-media-stream=device-count=2") as driver,
    ):
        driver.get(url)
        results(driver, 2)
        label = "return document.getElementById('video').srcObject.getVideoTracks()[0].label"
        first = driver.execute_script(label)
        driver.find_element("id", "turn").click()
        wait_until(
            lambda: (
                driver.execute_script(f"return (() => {{ try {{ {label} }} catch {{ return '' }} }})()")
                not in ("", first)
            )
        )
        results(driver, driver.execute_script("return seen.length") + 2)
        where = {"behavior": "allow", "downloadPath": str(tmp_path / "down")}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
        driver.execute_script("navigator.canShare = undefined; document.getElementById('shoot').click()")
        (path,) = wait_until(lambda: list((tmp_path / "down").glob("colours-*.jpg")), 30)
        newest = results(driver)[-1]
        assert cv2.imread(str(path)).shape[:2] == (newest["height"], newest["width"])


def test_it_rests_while_nobody_looks(site: Path, clip: Path, profile: Path) -> None:
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LOCKS})
        driver.get(url)
        results(driver, 2)
        wait_until(lambda: driver.execute_script(AWAKE) == [True], 10, "the lock that keeps the screen on")
        hide = f"{HIDDEN} document.dispatchEvent(new Event('visibilitychange'));"
        driver.execute_script(hide % "true")
        assert shown(driver, "state") == "paused"
        assert driver.execute_script(ENDED)
        wait_until(lambda: driver.execute_script(AWAKE) == [False], 30)
        driver.execute_script(hide % "false")
        before = driver.execute_script("return seen.length")
        results(driver, before + 2)
        wait_until(lambda: driver.execute_script(AWAKE) == [False, True], 10, "the lock again")


def test_a_camera_that_is_given_too_late(site: Path, clip: Path, profile: Path) -> None:
    """While the browser asked its user, the page was put away: the camera is not left on."""
    with served(site, "--http") as url, chromium(profile, camera(clip)) as driver:
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SLOW})
        driver.get(url)
        wait_until(lambda: driver.execute_script("return Boolean(window.give)"), 30)
        driver.execute_script(f"{HIDDEN % 'true'} give();")
        wait_until(lambda: driver.execute_script("return window.given?.active === false"), 10, "the camera's end")


SLOW = """const media = navigator.mediaDevices, get = media.getUserMedia.bind(media);
media.getUserMedia = async wants => {
  await new Promise(done => window.give = done);
  return window.given = await get(wants);
};"""
