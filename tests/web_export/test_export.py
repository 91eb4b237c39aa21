"""Making a site and showing it: what is in it, what replaces what, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509

from benchmarks.support.phone_browser import served
from edge.web.http_server import server_tls
from edge.web_export.litert_js import PACKAGES, runtime_files
from edge.web_export.serve import certificate, make_server
from sightline.errors import ConfigError, DeviceError, ModelError
from tests.conftest import Sightline
from tests.web_export.conftest import exported


@pytest.mark.slow
def test_it_says_what_it_made_and_how_large_that_is(colours: Path, tmp_path: Path, sightline: Sightline) -> None:
    done = sightline("export-web", colours, "--out", tmp_path / "site", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    files = [p for p in (tmp_path / "site").rglob("*") if p.is_file()]
    assert report["files"] == len(files) and report["total"] == sum(p.stat().st_size for p in files)
    largest = sorted(p.stat().st_size for p in files if p.suffix == ".wasm")
    assert report["first_load"] == report["total"] - largest[0] < 11e6
    again = sightline("export-web", colours, "--out", tmp_path / "site", "--json")
    assert json.loads(again.stdout) == report, "the same bundle is the same site"
    text = (tmp_path / "site" / report["version"] / "licences.txt").read_text()
    assert "LiteRT.js 2.5.3" in text and "Apache License" in text and "APPENDIX" in text


def test_nothing_in_it_points_elsewhere(site: Path) -> None:
    scripts = [p for p in site.glob("*/*.js") if not p.name.startswith("litert") and p.name != "wasm-utils.js"]
    assert len(scripts) >= 12
    for path in [*site.glob("*.*"), *site.glob("*/page.css"), *scripts]:
        origins = set(re.findall(r"https?://[\w.-]+", path.read_text()))
        assert origins <= {"https://"}, (path, origins)


@pytest.mark.slow
def test_what_cannot_be_exported(
    colours: Path, bundle: Path, tmp_path: Path, sightline: Sightline, pictures: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    for arguments, words in [
        ((bundle, "--scheme", "static_int8", "--out", tmp_path / "a"), "float input and output"),
        ((colours, "--scheme", "float16", "--out", tmp_path / "a"), "The bundle has: static_int8_float_io, float32"),
        ((tmp_path / "no.bundle", "--out", tmp_path / "a"), "no such bundle"),
        ((colours, "--out", tmp_path / "mine"), "is not an exported site. Pass another --out."),
        ((colours, "--post", "mqtt://x", "--out", tmp_path / "a"), "--post mqtt://x"),
        ((colours, "--runtime-dir", pictures, "--out", tmp_path / "a"), "npm pack @litertjs/core@2.5.3"),
    ]:
        done = sightline("export-web", *arguments)
        assert done.returncode == 2 and words in done.stderr, (arguments, done.stderr)
        assert not (tmp_path / "a").exists()
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    done = sightline("serve-web", tmp_path / "mine")
    assert done.returncode == 2 and "not an exported page" in done.stderr


def test_a_model_of_others_is_not_for_the_page(tmp_path: Path, colours: Path) -> None:
    from dataclasses import replace

    from edge.web_export.export import export
    from sightline.bundle import read_bundle

    read = read_bundle(colours)
    output = replace(read.manifest.output, task="segment", decoder="mask")
    other = replace(read, manifest=replace(read.manifest, output=output))
    with pytest.raises(ModelError, match="not mask models"):
        export(other, tmp_path / "site", scheme=None, post="", runtime=None)


@pytest.mark.slow
def test_the_runtime_is_the_one_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime_files(None)  # whatever the cache lacks is fetched
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sightline/litertjs"
    for name, _ in PACKAGES.values():
        shutil.copy(cache / name, tmp_path)
    assert runtime_files(tmp_path) == runtime_files(None)
    name = PACKAGES["@litertjs/core"][0]
    content = bytearray((tmp_path / name).read_bytes())
    content[1000] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeviceError, match="sha512 differs"):
        runtime_files(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="npm is not installed"):
        runtime_files(None)


def test_it_is_served_over_https_with_the_headers_that_it_needs(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (version,) = (p.parent.name for p in site.glob("*/bundle.json"))
    with served(site) as url:
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=str(tmp_path / "sightline/phone.pem"))

        def ask(path: str) -> tuple[int, dict[str, str]]:
            try:
                with urllib.request.urlopen(url + path, timeout=10, context=trust) as answer:
                    return answer.status, {k.lower(): v for k, v in answer.headers.items()}
            except urllib.error.HTTPError as e:
                return e.code, {}

        status, headers = ask("")
        assert status == 200 and headers["cache-control"] == "no-cache"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "connect-src 'self';" in headers["content-security-policy"]
        status, headers = ask(f"{version}/litert_wasm_internal.wasm")
        assert (
            status == 200 and headers["content-type"] == "application/wasm" and "immutable" in headers["cache-control"]
        )
        assert (
            headers["x-content-type-options"] == "nosniff" and "wasm-unsafe-eval" in headers["content-security-policy"]
        )
        assert ask(f"{version}/")[0] == 404 and ask("../../etc/passwd")[0] == 404
    assert (tmp_path / "sightline/phone.pem").stat().st_mode & 0o77 == 0


def test_a_certificate_is_made_once(tmp_path: Path) -> None:
    first = certificate(tmp_path, ["10.0.0.7", "pi.local"]).read_bytes()
    assert certificate(tmp_path, ["10.0.0.7"]).read_bytes() == first
    assert certificate(tmp_path, ["10.0.0.8"]).read_bytes() != first, "the machine has another address now"


def test_a_certificate_signs_nothing_but_itself(tmp_path: Path) -> None:
    """Who tells a phone to trust it must not trust its key for every other site."""
    content = certificate(tmp_path, ["10.0.0.7", "::1", "pi.local"]).read_bytes()
    made = x509.load_pem_x509_certificate(content)
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["10.0.0.7", "::1", "pi.local"]


@pytest.mark.parametrize("damage", ["authority", "cut", "key of another", "empty"])
def test_a_certificate_that_is_damaged_or_of_an_older_version_is_made_anew(tmp_path: Path, damage: str) -> None:
    file = certificate(tmp_path, ["pi.local"])
    content = file.read_bytes()
    if damage == "authority":
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "99", "-subj", "/CN=pi",
                   "-addext", "subjectAltName=DNS:pi.local", "-keyout", "-", "-out", "-"]  # fmt: skip
        file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "key of another":
        end = b"-----END PRIVATE KEY-----\n"
        other = certificate(tmp_path / "other", ["pi.local"]).read_bytes()
        file.write_bytes(other.partition(end)[0] + end + content.partition(end)[2])
    else:
        file.write_bytes(b"")
    before = file.read_bytes()
    assert certificate(tmp_path, ["pi.local"]).read_bytes() != before
    server_tls(file, None, "test")


@pytest.mark.parametrize(("address", "shown"), [("::", "[::1]"), ("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")])
def test_it_answers_over_ipv6_too(tmp_path: Path, address: str, shown: str) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>")
    server = make_server(tmp_path, address, 0, "", None)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with urllib.request.urlopen(f"http://{shown}:{server.server_address[1]}/", timeout=5) as answer:
            assert answer.read() == b"<p>here</p>"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_who_says_nothing_is_hung_up_on_and_takes_nobodys_place_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.web.http_server.HEAD_S", 0.5)
    monkeypatch.setattr("edge.web.http_server.CONNECTIONS", 4)
    (tmp_path / "index.html").write_text("<p>here</p>")
    file = certificate(tmp_path / "state", ["127.0.0.1"])
    server = make_server(tmp_path, "127.0.0.1", 0, "", (file, None))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with contextlib.ExitStack() as stack:
            place = ("127.0.0.1", server.server_address[1])
            silent = [stack.enter_context(socket.create_connection(place, timeout=5)) for _ in range(9)]
            assert [one.recv(1) for one in silent] == [b""] * 9  # the last ones at once, for there is no place
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    "post", ["https://", "https://h; script-src *", "https://h h/", "ftp://h", "h", "https://[::1", "https://h:x/",
             "https://user:word@h/", "https://'self'/", "https://*/"],
)  # fmt: skip
def test_an_address_that_would_change_the_pages_policy_is_refused(colours: Path, tmp_path: Path, post: str) -> None:
    with pytest.raises(ConfigError, match=r"--post .*https://host/path"):
        exported(colours, tmp_path / "site", post=post)
    assert not (tmp_path / "site").exists()


@pytest.mark.slow
def test_older_versions_go_but_for_the_one_before(colours: Path, tmp_path: Path) -> None:
    out = tmp_path / "site"
    for post in ("", "https://a.example/", "https://b.example/"):
        exported(colours, out, post=post)
    versions = list(out.glob("*/bundle.json"))
    assert {json.loads(p.read_text())["post"] for p in versions} == {"https://a.example/", "https://b.example/"}
    index = (out / "index.html").read_text()
    assert "https://b.example" in index and "https://a.example" not in index
