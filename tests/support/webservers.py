"""Other people's web servers, with the settings that a page of the documentation gives for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.support.broker import listens
from benchmarks.support.waiting import wait_until
from tests.conftest import need
from tests.support.debian import unpacked

NAMES = ("nginx", "caddy")
_NGINX = """daemon off; pid {folder}/pid; error_log stderr; {user}
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
{settings}
}}
"""
_CADDY = """{{
  admin off
  auto_https disable_redirects
  skip_install_trust
}}
{settings}
"""
_COMMANDS = {
    "nginx": ("usr/sbin/nginx", "-e", "stderr", "-p", "{folder}", "-c"),
    "caddy": ("usr/bin/caddy", "run", "--adapter", "caddyfile", "--config"),
}


def documented(page: str, name: str) -> str:
    """The settings for this server that stand in docs/`page`."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    (settings,) = re.findall(rf"```{name}\n(.*?)```", text, re.DOTALL)
    return str(settings)


@contextmanager
def web_server(name: str, settings: str, port: int, folder: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs it meanwhile. port: that the settings make it listen at. folder: for its files, made here."""
    need(shutil.which("apt-get") is not None, f"{name} comes from Debian's packages")
    programs = unpacked(name, "bookworm", request.config.cache.mkdir("debian"))
    folder.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    config, log = folder / "config", folder / "log"
    form = {"nginx": _NGINX, "caddy": _CADDY}[name]
    config.write_text(form.format(folder=folder, user=user, settings=settings))
    program, *options = (part.format(folder=folder) for part in _COMMANDS[name])
    line = [programs / program, *options, config]
    with (
        log.open("wb") as errors,
        subprocess.Popen(line, env={**os.environ, "HOME": str(folder)}, stderr=errors) as server,
    ):
        try:
            wait_until(lambda: listens(port), 20, log.read_text, process=server)
            yield
        finally:
            server.terminate()
