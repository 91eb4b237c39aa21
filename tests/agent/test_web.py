"""The page's server and those who should not be there: without a token, under other names, from other sites, with
endless heads, slowly, and many at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError

from edge import server, web
from edge.access import Access, access_for, host_of
from edge.page import BACKLOG
from sightline.errors import ConfigError
from tests.agent.test_page import Shown, camera, get, result, slot, wait_until

SECRETS = ("/api/info", "/api/predictions", "/snapshot.jpg", "/stream.mjpg", "/events", "/ws", "/metrics", "/healthz")


@pytest.fixture
def page() -> Iterator[Shown]:
    page = Shown()
    yield page
    page.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Shown, str]]:
    """A page that others may reach, and its token."""
    access, token = access_for("127.0.0.2", (), tls=False, token_file=tmp_path / "token", new=False)
    assert token == "", "127.0.0.2 is this machine as well"
    access, token = access_for("0.0.0.0", ("farm.example",), tls=False, token_file=tmp_path / "token", new=False)
    page = Shown(access=access, address="0.0.0.0")
    yield page, token
    page.close()


def port_of(page: Shown) -> int:
    return page.web.port


def ask(
    page: Shown, method: str, path: str, body: bytes | None = None, *, at: str = "127.0.0.1", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection(at, port_of(page), timeout=8)) as connection:
        given = {"Host": f"{at}:{port_of(page)}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, path, body, given)
        with connection.getresponse() as answer:
            return answer.status, dict(answer.headers), answer.read() if "stream" not in path else b""


def post(page: Shown, path: str, value: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return ask(page, "POST", path, json.dumps(value).encode(), **{"Content_Type": "application/json", **headers})


def test_the_threshold_is_the_one_thing_that_can_be_set(page: Shown) -> None:
    assert post(page, "/api/threshold", {"threshold": 0.25})[0] == 200
    assert page.thresholds == [0.25]
    for wrong in (1.5, -1, "0.5", None, True, [0.5], float("nan"), float("inf"), 10**400):
        assert post(page, "/api/threshold", {"threshold": wrong})[0] == 400, wrong
    for value in ({}, [], 5, {"threshold": 0.5, "more": 1}):
        assert post(page, "/api/threshold", value)[0] == 400, value
    for body, headers, code in (
        (b"{", {}, 400),
        (b"[" * 1000, {}, 400),
        (b'{"threshold": 0.5}', {"Content_Type": "text/plain"}, 415),
        (b'{"threshold": 0.5}', {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        (b'{"threshold": 0.5' + b" " * 2000 + b"}", {}, 413),
        (b"", {"Content_Length": "-5"}, 411),
        (b"", {"Content_Length": "1e3"}, 411),
    ):
        given = {"Content_Type": "application/json", **headers}
        assert ask(page, "POST", "/api/threshold", body, **given)[0] == code, body[:40]
    assert page.thresholds == [0.25]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:PORT", "http://127.0.0.1:1"])
def test_another_site_sets_nothing_and_listens_to_nothing(page: Shown, origin: str) -> None:
    origin = origin.replace("PORT", str(port_of(page)))
    assert post(page, "/api/threshold", {"threshold": 0.9}, Origin=origin)[0] == 403
    assert page.thresholds == []
    with websocket(page, Origin=origin) as (_, events):
        assert isinstance(events[0], RejectConnection) and events[0].status_code == 403
    own = f"http://127.0.0.1:{port_of(page)}"
    assert post(page, "/api/threshold", {"threshold": 0.9}, Origin=own)[0] == 200


@pytest.mark.parametrize("path", SECRETS)
def test_without_the_token_nothing_is_told(guarded: tuple[Shown, str], path: str) -> None:
    page, token = guarded
    with camera(page):
        wait_until(lambda: page.channel.result is not None)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {token}"},
            {"Cookie": "sightline=wrong"},
            {"Cookie": "sightline="},
        ):
            status, answer, body = ask(page, "GET", path, at="127.0.0.2", **headers)
            assert (status, answer["WWW-Authenticate"]) == (401, "Bearer"), headers
            assert b"colours" not in body and token.encode() not in body
        assert ask(page, "GET", "/", at="127.0.0.2")[0] == 200, "the page itself, which asks for the token"
        assert post(page, "/api/threshold", {"threshold": 0.5})[0] == 401


def test_with_the_token_all_is(guarded: tuple[Shown, str], tmp_path: Path) -> None:
    page, token = guarded
    assert ask(page, "GET", "/api/info", Authorization=f"Bearer {token}")[0] == 200
    began = time.monotonic()
    assert post(page, "/api/login", {"token": "wrong"})[0] == 401
    assert time.monotonic() - began > 0.4, "guessing is slow"
    status, headers, _ = post(page, "/api/login", {"token": token})
    cookie = headers["Set-Cookie"]
    assert status == 200 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert ask(page, "GET", "/api/info", Cookie=cookie.split(";")[0])[0] == 200
    kept = (tmp_path / "token").read_text()
    assert token not in kept
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_the_token_stays_until_another_is_wanted(tmp_path: Path) -> None:
    def make(new: bool = False) -> tuple[Access, str]:
        return access_for("192.0.2.1", (), tls=True, token_file=tmp_path / "t", new=new)

    first, token = make()
    again, silent = make()
    assert silent == "" and again.allows(token) and not again.allows(None) and not again.allows("")
    other, fresh = make(new=True)
    assert fresh and fresh != token and other.allows(fresh) and not other.allows(token)
    assert first.allows(token) and len(token) >= 43
    (tmp_path / "t").write_text("{}")
    with pytest.raises(ConfigError, match="holds no token"):
        make()
    with pytest.raises(ConfigError, match="--page-address"):
        access_for("farm.example", (), tls=False, token_file=None, new=False)


@pytest.mark.parametrize(
    ("header", "host"),
    [("a:1", "a"), ("A.b", "a.b"), ("[::1]:80", "::1"), ("::1", "::1"), ("1.2.3.4:5", "1.2.3.4"), ("", "")],
)
def test_a_host_header_is_read(header: str, host: str) -> None:
    assert host_of(header) == host


def test_names_of_others_are_none_of_ours(guarded: tuple[Shown, str], page: Shown) -> None:
    ours, token = guarded
    header = {"Authorization": f"Bearer {token}"}
    for host, code in (("farm.example", 200), ("192.0.2.7", 200), ("evil.example", 403), ("localhost", 200), ("", 403)):
        assert ask(ours, "GET", "/api/info", Host=f"{host}:80" if host else "", **header)[0] == code, host
    for host in ("192.0.2.7", "farm.example"):
        assert ask(page, "GET", "/api/info", Host=host)[0] == 403, "a page of this machine alone has its names alone"


def send_raw(page: Shown, data: bytes, wait_s: float = 8.0) -> bytes:
    """What is answered until the server hangs up; b'' where it never read to the end."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)), timeout=wait_s)) as connection:
        got = b""
        with contextlib.suppress(OSError):
            connection.sendall(data)
        with contextlib.suppress(OSError):
            while more := connection.recv(65536):
                got += more
        return got


def test_an_endless_head_is_refused_before_it_is_read(page: Shown) -> None:
    host = f"Host: 127.0.0.1:{port_of(page)}\r\n".encode()
    for head in (
        b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 10_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + host + b"".join(b"X-%d: a\r\n" % i for i in range(100_000)) + b"\r\n",
        b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"a" * 10_000_000,
    ):
        began = time.monotonic()
        answer = send_raw(page, head)
        assert time.monotonic() - began < 3
        assert answer == b"" or b" 431 " in answer.split(b"\r\n")[0] or b" 414 " in answer.split(b"\r\n")[0], answer[
            :99
        ]
    assert ask(page, "GET", "/api/info")[0] == 200


@pytest.mark.parametrize(
    "data", [b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff" * 100 + b"\n"]
)
def test_what_is_no_request_is_answered_or_dropped(page: Shown, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.5)
    answer = send_raw(page, data)
    assert not answer.startswith(b"HTTP/1.1 5") or b" 505 " in answer[:20]
    assert ask(page, "GET", "/api/info")[0] == 200


def test_who_sends_slowly_is_hung_up_on(page: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte now and then: a time-out for each read would never come."""
    monkeypatch.setattr(server, "HEAD_S", 1.0)
    with contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)), timeout=5)) as slow:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                slow.sendall(bytes([byte]))
                time.sleep(0.1)
                assert time.monotonic() - began < 4
            raise AssertionError("it listened to the end")


def test_many_at_once_are_bounded_and_the_loop_does_not_notice(page: Shown) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(contextlib.closing(socket.socket()))
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                connection.connect(("127.0.0.1", port_of(page)))
        wait_until(lambda: sum("process_request" in t.name for t in threading.enumerate()) >= server.CONNECTIONS - 1)
        time.sleep(0.3)
        assert sum("process_request" in t.name for t in threading.enumerate()) <= server.CONNECTIONS
        one = slot()
        began = time.monotonic()
        for i in range(200):
            page.observe(result(i), one)
        assert time.monotonic() - began < 0.5
    wait_until(lambda: ask_quietly(page) == 200)


def ask_quietly(page: Shown) -> int:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(page, "GET", "/api/info")[0]
    return 0


@contextlib.contextmanager
def websocket(page: Shown, path: str = "/ws", **headers: str) -> Iterator[tuple[Any, list[Any]]]:
    """receive() waits for one more event; and those that came."""
    ws = WSConnection(ConnectionType.CLIENT)
    extra = [(k.encode(), v.encode()) for k, v in headers.items()]
    events: list[Any] = []
    with contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)), timeout=5)) as connection:
        request = Request(host=f"127.0.0.1:{port_of(page)}", target=path, extra_headers=extra)
        connection.sendall(ws.send(request))

        def receive() -> Any:
            seen = len(events)
            while len(events) == seen:
                data = connection.recv(65536)
                ws.receive_data(data or None)
                events.extend(ws.events())
            return events[seen]

        receive()
        yield receive, events
        with contextlib.suppress(OSError, LocalProtocolError):
            connection.sendall(ws.send(CloseConnection(code=1000)))


def test_a_websocket_gets_every_result(page: Shown) -> None:
    with websocket(page) as (receive, events):
        assert isinstance(events[0], AcceptConnection)
        for i in range(50):
            page.observe(result(i), None)
        while sum(isinstance(e, TextMessage) and e.message_finished for e in events) < 50:
            receive()
    texts = "".join(e.data for e in events if isinstance(e, TextMessage))
    got = [json.loads(part) for part in texts.replace("}{", "}\n{").splitlines()]
    assert [r["frame_id"] for r in got] == list(range(50))
    wait_until(lambda: not page.page.listeners)


def test_who_does_not_take_results_in_time_is_told_how_many_are_missing(page: Shown) -> None:
    with websocket(page) as (receive, events):
        for i in range(BACKLOG + 5000):
            page.observe(result(i), None)
        while not any(isinstance(e, TextMessage) and '"missed"' in e.data for e in events):
            receive()


def test_a_websocket_of_one_camera_hears_no_other() -> None:
    page = Shown(cameras=("a.mp4", "other"))
    with contextlib.closing(page), websocket(page, "/ws?camera=other") as (_, events):
        page.observe(result(1), None)
        time.sleep(0.7)
        assert len(events) == 1
        assert ask(page, "GET", "/ws?camera=absent")[0] == 404
        assert ask(page, "GET", "/snapshot.jpg?camera=a.mp4&camera=other")[0] == 404


def test_no_websocket_where_no_handshake_is(page: Shown) -> None:
    assert ask(page, "GET", "/ws")[0] == 400
    wait_until(lambda: page.viewers == 0 and not page.page.listeners)


def test_each_camera_has_its_own_picture_and_predictions() -> None:
    page = Shown(cameras=("a.mp4", "b c&d=<x>"))
    with contextlib.closing(page), camera(page):
        wait_until(lambda: page.channel.result is not None)
        both = json.loads(ask(page, "GET", "/api/predictions")[2])
        assert both["a.mp4"]["frame_id"] >= 0 and both["b c&d=<x>"] is None
        one = json.loads(ask(page, "GET", "/api/predictions?camera=b%20c%26d%3D%3Cx%3E")[2])
        assert one == {"b c&d=<x>": None}
        assert ask(page, "GET", "/snapshot.jpg?camera=a.mp4")[0] == 200
        assert ask(page, "GET", "/snapshot.jpg?camera=nobody")[0] == 404


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=pi",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_tls_and_who_does_not_finish_its_handshake(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    page = Shown(tls=context, access=Access(tls=True))
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with contextlib.closing(page), contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)))):
        assert page.url.startswith("https://")
        for _ in range(2):  # while somebody says nothing
            connection = http.client.HTTPSConnection("127.0.0.1", port_of(page), timeout=5, context=trusting)
            with contextlib.closing(connection):
                connection.request("GET", "/api/info")
                with connection.getresponse() as answer:
                    assert answer.status == 200


def test_the_agent_on_another_address_shows_its_token_once(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", "test:64x48@30", "--page-port=0",
               "--page-address=0.0.0.0", f"--page-token-file={tmp_path}/token"]  # fmt: skip
    seen = []
    for _ in range(2):
        with subprocess.Popen(command, stdout=-3, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                lines = []
                for line in process.stderr:
                    lines.append(line)
                    if "live page: " in line:
                        break
                shown = [line.split()[-1] for line in lines if "shown this once" in line]
                assert any("without --page-cert" in line for line in lines)
                seen.append(shown)
                port = int(lines[-1].strip().rstrip("/").rpartition(":")[2])
                request = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                with contextlib.closing(request):
                    request.request("GET", "/api/info", headers={"Authorization": f"Bearer {seen[0][0]}"})
                    with request.getresponse() as answer:
                        assert answer.status == 200
            finally:
                process.kill()
    assert len(seen[0]) == 1 and seen[1] == []


def test_every_answer_is_as_the_description_says(bundle: Path, tmp_path: Path) -> None:
    """schemathesis sends what it can think of to a real agent, and holds the answers against /openapi.json."""
    agent = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", "test:64x48@30", "--page-port=0"]
    with subprocess.Popen(agent, stdout=-3, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "live page: " in line)
            url = line.split()[-1].rstrip("/")
            command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url,
                       "--exclude-path", "/stream.mjpg", "--exclude-path", "/events", "--exclude-path", "/ws",
                       "--max-examples", "15", "--request-timeout", "5", "--generation-deterministic",
                       "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                       "response_schema_conformance"]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
            assert process.poll() is None, "the agent did not survive it"
        finally:
            process.kill()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "Tested: 8" in done.stdout, done.stdout[-1000:]


def test_the_description_names_every_route(page: Shown) -> None:
    with get(page, "/openapi.json") as response:
        document = json.loads(response.read())
    handler = web._Handler
    names = set(handler._routes(handler.__new__(handler))) | {"/api/threshold", "/api/login"}
    assert set(document["paths"]) == names
