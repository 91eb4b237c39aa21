"""The page behind nginx and Caddy, with the settings of docs/page.md: HTTPS outside, http inside."""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.broker import free_port
from benchmarks.support.browser import start_chromium
from benchmarks.support.waiting import wait_until
from edge.web.auth import Access, access_for
from tests.agent.test_browser import text
from tests.agent.test_live_page import ServedPage, camera
from tests.support.webservers import NAMES, documented, web_server


@dataclass(frozen=True)
class Proxied:
    """port: of the proxy. inner: of the page."""

    port: int
    inner: int
    access: Access
    token: str

    def status(self, path: str, **headers: str) -> int:
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        with closing(http.client.HTTPSConnection("localhost", self.port, timeout=8, context=unchecked)) as connection:
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as answer:
                return answer.status


@pytest.fixture(params=NAMES)
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    """The proxy runs, the page behind it does not yet."""
    settings = documented("page.md", request.param)
    port, inner = free_port(), free_port()
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    for there, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/cam.pem", f"{tmp_path}/cert.pem"),
        ("/etc/ssl/cam.key", f"{tmp_path}/key.pem"),
        ("127.0.0.1:8480", f"127.0.0.1:{inner}"),
        ("cam.example.org {", f"https://localhost:{port} {{\nbind 127.0.0.1"),
        ("cam.example.org", "localhost"),
    ):
        settings = settings.replace(there, here)
    assert not re.search("example|8480|/etc", settings)
    host = f"https://localhost:{port}"
    access, token = access_for("127.0.0.1", (host,), tls=False, token_file=tmp_path / "token", new=False)
    with web_server(request.param, settings, port, tmp_path / "server", request):
        yield Proxied(port, inner, access, token)


def listen(browser: Any) -> Any:
    return browser.execute_async_script(
        "const done = arguments[0], ws = new WebSocket(`wss://${location.host}/ws`);"
        "ws.onmessage = e => { ws.close(); done(JSON.parse(e.data)); }; ws.onerror = () => done('refused');"
    )


@pytest.mark.slow
def test_behind_a_proxy_all_works_with_the_token_and_nothing_without(proxied: Proxied, tmp_path: Path) -> None:
    driver = start_chromium(tmp_path / "profile", "--ignore-certificate-errors", load="eager")
    try:
        driver.set_script_timeout(10)
        page = ServedPage(proxied.inner, access=proxied.access)
        with closing(page), camera(page):
            assert proxied.status("/snapshot.jpg") == 401, "the proxy comes from this machine, but not its users"
            assert proxied.status("/snapshot.jpg", Authorization=f"Bearer {proxied.token}") == 200
            driver.get(f"https://localhost:{proxied.port}/")
            wait_until(lambda: text(driver, "state") == "signed out", timeout_s=10)
            assert listen(driver) == "refused"
            driver.execute_script(
                "document.getElementById('token').value = arguments[0];"
                "document.getElementById('login').requestSubmit()",
                proxied.token,
            )
            wait_until(lambda: text(driver, "state") == "live", timeout_s=10)
            (cookie,) = driver.get_cookies()
            assert cookie["secure"] and cookie["httpOnly"]
            wait_until(lambda: driver.execute_script("return document.getElementById('image').naturalWidth") == 320)
            assert listen(driver)["source"] == "a.mp4"
            driver.execute_script(
                "const t = document.getElementById('threshold'); t.value = 0.7; t.dispatchEvent(new Event('change'));"
            )
            wait_until(lambda: page.thresholds == [0.7])
        wait_until(lambda: "502" in text(driver, "banner"), timeout_s=20)
        page = ServedPage(proxied.inner, access=proxied.access)
        with closing(page):
            with camera(page):
                wait_until(lambda: text(driver, "state") == "live", timeout_s=20)
                wait_until(lambda: page.viewers == 2)
            driver.get("about:blank")  # while no frame comes
            wait_until(lambda: page.viewers == 0, timeout_s=8)
    finally:
        driver.quit()
