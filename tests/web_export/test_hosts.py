"""The settings that docs/phone.md gives for other people's servers, run by those servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from benchmarks.support.broker import free_port
from benchmarks.support.phone_browser import chromium, shown
from benchmarks.support.waiting import wait_until
from tests.support.webservers import NAMES, documented, web_server

SERVERS = {
    "nginx": "server {{ listen 127.0.0.1:{port};\n{settings}\n}}",
    "caddy": "http://localhost:{port} {{\nbind 127.0.0.1\n{settings}\n}}",
}


@pytest.fixture(params=NAMES)
def hosted(request: pytest.FixtureRequest, site: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the site on such a server."""
    settings = documented("phone.md", request.param)
    assert "/srv/caps" in settings
    port = free_port()
    settings = SERVERS[request.param].format(port=port, settings=settings.replace("/srv/caps", str(site)))
    with web_server(request.param, settings, port, tmp_path / "host", request):
        yield f"http://localhost:{port}/caps/"


@pytest.mark.slow
def test_another_server(hosted: str, site: Path, tmp_path: Path) -> None:
    (version,) = (p.name for p in site.iterdir() if p.is_dir())
    for name, kind, is_immutable in (
        ("", "text/html", False),
        ("service-worker.js", "text/javascript", False),
        ("app.webmanifest", "application/manifest+json", False),
        (f"{version}/app.js", "text/javascript", True),
        (f"{version}/icon.png", "image/png", True),
        (f"{version}/litert_wasm_internal.wasm", "application/wasm", True),
    ):
        with urlopen(Request(hosted + name, headers={"Accept-Encoding": "gzip"}), timeout=10) as answer:
            headers = answer.headers
        assert headers["Content-Type"].split(";")[0] == kind, name
        assert headers["Cache-Control"] == ("public, max-age=31536000, immutable" if is_immutable else "no-cache"), name
        assert headers["X-Content-Type-Options"] == "nosniff", name
        assert (headers["Content-Encoding"] == "gzip") == (kind.startswith("text/") or kind.endswith("wasm")), name
    with chromium(tmp_path / "profile") as driver:
        driver.get(hosted)
        wait_until(lambda: driver.execute_script("return seen.length") >= 2, 40, "results")
        assert shown(driver, "proof").startswith("passed") and shown(driver, "offline").startswith("works")
