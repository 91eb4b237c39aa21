"""Home Assistant itself, in a folder: beside Debian 13's Python, which is new enough for it. Needs root."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from benchmarks.support.broker import listens
from benchmarks.support.waiting import wait_until
from tests.support.debian import call, extracted

PYTHON = "3.13.5"
PACKAGES = ("python3", "libpython3-stdlib", "libstdc++6", "libturbojpeg0", "tzdata")
# with what it would install itself when it starts for the first time
REQUIREMENTS = (
    "homeassistant==2025.11.3", "home-assistant-frontend==20251105.1", "paho-mqtt==2.1.0", "pyotp==2.9.0",
    "PyQRCode==1.2.1", "numpy==2.3.2", "av==13.1.0", "PyTurboJPEG==1.8.0",
    "pycares<5",  # or its aiodns does not start
)  # fmt: skip
OVERRIDE = "lru-dict>=1.4\n"  # that which it asks for has no wheel
USER = {"username": "admin", "password": "only for tests"}
START = (
    'mount --bind /proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --bind "$1" "$0/config" && shift && exec "$@"'
)


def build(work: Path) -> Path:
    """Its system, made once."""
    root = extracted(PACKAGES, "trixie", work)
    packages, fresh = root / "packages", root / "packages.partial"
    if packages.exists():
        return root
    for name in ("proc", "dev", "config"):
        (root / name).mkdir(exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)
    override = work / "override.txt"
    override.write_text(OVERRIDE)
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--override", override]
    aim = ["--python-version", PYTHON, "--python-platform", f"{platform.machine()}-manylinux_2_28"]
    call(*uv, *aim, "--target", fresh, *REQUIREMENTS)
    fresh.rename(packages)
    return root


@dataclass(frozen=True)
class HomeAssistant:
    url: str
    token: str
    log: Path

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Its answer, by its REST interface: JSON, or bytes."""
        return _ask(self.url + path, body if body is None else json.dumps(body), self.token)

    def states(self) -> dict[str, dict[str, Any]]:
        """{entity: its state}"""
        return {state["entity_id"]: state for state in self.ask("/api/states")}


@contextmanager
def started(root: Path, config: Path, port: int, broker: int) -> Iterator[HomeAssistant]:
    """config: its folder, empty or of an earlier start. broker: the port of its MQTT broker."""
    url, first, log = f"http://127.0.0.1:{port}", not config.exists(), config.with_suffix(".log")
    if first:
        config.mkdir()
        (config / "configuration.yaml").write_text(
            f"homeassistant:\n  name: test\nhttp:\n  server_host: 127.0.0.1\n  server_port: {port}\n"
            "api:\nauth:\nconfig:\nlogger:\n  default: warning\n"
        )
        call(*_command(root, config, "--script", "auth", "-c", "/config", "add", USER["username"], USER["password"]))
    with (
        log.open("ab") as out,
        subprocess.Popen(_command(root, config, "-c", "/config", "--skip-pip"), stdout=out, stderr=out) as process,
    ):
        try:
            wait_until(lambda: listens(port), 60, log.read_text, process=process)
            here = HomeAssistant(url, _login(url), log)
            wait_until(lambda: here.ask("/api/config")["state"] == "RUNNING", 60, log.read_text, process=process)
            if first:
                flow = here.ask("/api/config/config_entries/flow", {"handler": "mqtt"})["flow_id"]
                done = here.ask(f"/api/config/config_entries/flow/{flow}", {"broker": "127.0.0.1", "port": broker})
                assert done["type"] == "create_entry", done
            yield here
            process.terminate()
            process.wait(30)
        finally:
            process.kill()


def _command(root: Path, config: Path, *options: str) -> list[str]:
    python = ["/usr/bin/python3.13", "-m", "homeassistant", *options]
    enter = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/config", "PYTHONPATH=/packages"]
    return ["unshare", "--mount", "sh", "-c", START, str(root), str(config), *enter, "chroot", str(root), *python]


def _login(url: str) -> str:
    client = {"client_id": f"{url}/"}
    begin = {**client, "handler": ["homeassistant", None], "redirect_uri": f"{url}/"}
    flow = _ask(f"{url}/auth/login_flow", json.dumps(begin))["flow_id"]
    code = _ask(f"{url}/auth/login_flow/{flow}", json.dumps({**client, **USER}))["result"]
    access = _ask(f"{url}/auth/token", urlencode({**client, "grant_type": "authorization_code", "code": code}))
    return str(access["access_token"])


def _ask(url: str, body: str | None = None, token: str = "") -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json" if body.startswith("{") else "application/x-www-form-urlencoded"
    try:
        with urlopen(Request(url, body and body.encode(), headers), timeout=20) as answer:
            content = answer.read()
    except HTTPError as e:
        raise AssertionError(f"{url}: {e.code} {e.read()[:500]!r}") from None
    return json.loads(content) if answer.headers["Content-Type"].startswith("application/json") else content
