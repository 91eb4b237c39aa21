"""The settings that docs/phone.md gives for other people's servers, run by those servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.broker import free_port, listens
from tests.conftest import need
from tests.debian import unpacked
from tests.phone.browser import chromium, shown, until

DOCS = (Path(__file__).parents[2] / "docs/phone.md").read_text()

NGINX = """daemon off; pid {folder}/pid; error_log stderr; {user}
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{ listen 127.0.0.1:{port};
{settings}
  }}
}}
"""
CADDY = """{{
  admin off
  auto_https off
}}
http://localhost:{port} {{
  bind 127.0.0.1
{settings}
}}
"""
COMMANDS = {
    "nginx": ("usr/sbin/nginx", "-e", "stderr", "-p", "{folder}", "-c"),
    "caddy": ("usr/bin/caddy", "run", "--adapter", "caddyfile", "--config"),
}


@pytest.fixture(params=["nginx", "caddy"])
def hosted(request: pytest.FixtureRequest, site: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the site on such a server."""
    (settings,) = re.findall(rf"```{request.param}\n(.*?)```", DOCS, re.DOTALL)
    assert "/srv/caps" in settings
    need(shutil.which("apt-get") is not None, f"{request.param} comes from Debian's packages")
    programs, folder = unpacked(request.param, "bookworm", request.config.cache.mkdir("debian")), tmp_path / "host"
    folder.mkdir()
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    form = {"nginx": NGINX, "caddy": CADDY}[request.param]
    config = folder / "config"
    config.write_text(
        form.format(folder=folder, user=user, port=port, settings=settings.replace("/srv/caps", str(site)))
    )
    program, *options = (part.format(folder=folder) for part in COMMANDS[request.param])
    line = [programs / program, *options, config]
    log = folder / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(line, env={**os.environ, "HOME": str(folder)}, stderr=errors) as server,
    ):
        try:
            until(lambda: server.poll() is not None or listens(port), 20, "the server")
            assert server.poll() is None, log.read_text()
            yield f"http://localhost:{port}/caps/"
        finally:
            server.terminate()


def test_another_server(hosted: str, site: Path, tmp_path: Path) -> None:
    (version,) = (p.name for p in site.iterdir() if p.is_dir())
    for name, kind, kept in (
        ("", "text/html", False),
        ("sw.js", "text/javascript", False),
        ("app.webmanifest", "application/manifest+json", False),
        (f"{version}/page.js", "text/javascript", True),
        (f"{version}/icon.png", "image/png", True),
        (f"{version}/litert_wasm_internal.wasm", "application/wasm", True),
    ):
        with urlopen(Request(hosted + name, headers={"Accept-Encoding": "gzip"}), timeout=10) as answer:
            found = answer.headers
        assert found["Content-Type"].split(";")[0] == kind, name
        assert found["Cache-Control"] == ("public, max-age=31536000, immutable" if kept else "no-cache"), name
        assert found["X-Content-Type-Options"] == "nosniff", name
        assert (found["Content-Encoding"] == "gzip") == (kind.startswith("text/") or kind.endswith("wasm")), name
    with chromium(tmp_path / "profile") as driver:
        driver.get(hosted)
        until(lambda: driver.execute_script("return seen.length") >= 2, 40, "results")
        assert shown(driver, "proof").startswith("passed") and shown(driver, "offline").startswith("works")
