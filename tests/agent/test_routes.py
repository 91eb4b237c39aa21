"""The page's server and those who should not be there: without a token, under other names, from other sites, with
endless heads, slowly, and many at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
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

from benchmarks.support.waiting import wait_until
from edge.web import http_server as server
from edge.web.auth import Access, access_for, host_of
from edge.web.handler import Limits
from edge.web.live_page import BACKLOG
from edge.web.routes import GET_ROUTES, LIMITS, POST_ROUTES
from sightline.errors import ConfigError
from tests.agent.test_live_page import (
    ServedPage,
    camera,
    get,
    is_coloured,
    read_part,
    result,
    slot,
)
from tests.conftest import Sightline

SECRETS = ("/api/info", "/api/predictions", "/snapshot.jpg", "/stream.mjpg", "/events", "/ws", "/metrics", "/healthz")


@pytest.fixture
def page() -> Iterator[ServedPage]:
    page = ServedPage()
    yield page
    page.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[ServedPage, str]]:
    """A page that others may reach, and its token."""
    access, token = access_for("127.0.0.2", (), tls=False, token_file=tmp_path / "token", new=False)
    assert token == "", "127.0.0.2 is this machine as well"
    access, token = access_for("0.0.0.0", ("farm.example",), tls=False, token_file=tmp_path / "token", new=False)
    page = ServedPage(access=access, address="0.0.0.0")
    yield page, token
    page.close()


def port_of(page: ServedPage) -> int:
    return page.web.port


def ask(
    page: ServedPage, method: str, path: str, body: bytes | None = None, *, at: str = "127.0.0.1", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection(at, port_of(page), timeout=8)) as connection:
        given = {"Host": f"{at}:{port_of(page)}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        connection.request(method, path, body, given)
        with connection.getresponse() as answer:
            return answer.status, dict(answer.headers), answer.read() if "stream" not in path else b""


def post(page: ServedPage, path: str, value: object, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return ask(page, "POST", path, json.dumps(value).encode(), **{"Content_Type": "application/json", **headers})


def test_the_threshold_is_the_one_thing_that_can_be_set(page: ServedPage) -> None:
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
def test_another_site_sets_nothing_and_listens_to_nothing(page: ServedPage, origin: str) -> None:
    origin = origin.replace("PORT", str(port_of(page)))
    assert post(page, "/api/threshold", {"threshold": 0.9}, Origin=origin)[0] == 403
    assert page.thresholds == []
    with websocket(page, Origin=origin) as (_, events):
        assert isinstance(events[0], RejectConnection) and events[0].status_code == 403
    own = f"http://127.0.0.1:{port_of(page)}"
    assert post(page, "/api/threshold", {"threshold": 0.9}, Origin=own)[0] == 200


@pytest.mark.parametrize("path", SECRETS)
def test_without_the_token_nothing_is_told(guarded: tuple[ServedPage, str], path: str) -> None:
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


def test_with_the_token_all_is(guarded: tuple[ServedPage, str], tmp_path: Path) -> None:
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


def test_names_of_others_are_none_of_ours(guarded: tuple[ServedPage, str], page: ServedPage) -> None:
    ours, token = guarded
    header = {"Authorization": f"Bearer {token}"}
    for host, code in (("farm.example", 200), ("192.0.2.7", 200), ("evil.example", 403), ("localhost", 200), ("", 403)):
        assert ask(ours, "GET", "/api/info", Host=f"{host}:80" if host else "", **header)[0] == code, host
    for host in ("192.0.2.7", "farm.example"):
        assert ask(page, "GET", "/api/info", Host=host)[0] == 403, "a page of this machine alone has its names alone"


OUTSIDE = "https://cam.example.org"


@pytest.fixture
def behind_proxy(tmp_path: Path) -> Iterator[tuple[ServedPage, str]]:
    """A page on this machine alone whose users come through a proxy, and its token."""
    access, token = access_for("127.0.0.1", (OUTSIDE,), tls=False, token_file=tmp_path / "token", new=False)
    page = ServedPage(access=access)
    yield page, token
    page.close()


def test_behind_a_proxy_the_origin_is_the_outside_one(behind_proxy: tuple[ServedPage, str]) -> None:
    page, token = behind_proxy
    own = f"127.0.0.1:{port_of(page)}"
    for host, origin, status in (
        ("cam.example.org", OUTSIDE, 200),
        (own, OUTSIDE, 200),  # a proxy that passes on its own Host
        (own, f"http://{own}", 200),  # somebody on this machine
        ("cam.example.org", "http://cam.example.org", 403),
        ("cam.example.org", OUTSIDE + ":8443", 403),
        ("cam.example.org", "https://evil.example", 403),
        (own, "https://evil.example", 403),
        ("evil.example", OUTSIDE, 403),
    ):
        headers = {"Host": host, "Origin": origin}
        login = post(page, "/api/login", {"token": token}, **headers)
        assert login[0] == status, (host, origin)
        if status == 200:
            assert ("; Secure" in login[1]["Set-Cookie"]) == origin.startswith("https:")
        headers["Authorization"] = f"Bearer {token}"
        assert post(page, "/api/threshold", {"threshold": 0.5}, **headers)[0] == status, (host, origin)
    with websocket(page, Origin=OUTSIDE, Authorization=f"Bearer {token}") as (_, events):
        assert isinstance(events[0], AcceptConnection)


@pytest.mark.parametrize("path", SECRETS)
def test_behind_a_proxy_this_machine_needs_the_token_too(behind_proxy: tuple[ServedPage, str], path: str) -> None:
    assert ask(behind_proxy[0], "GET", path)[0] == 401


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
def test_a_page_without_a_token_answers_no_proxy(
    page: ServedPage, behind_proxy: tuple[ServedPage, str], header: str
) -> None:
    status, _, body = ask(page, "GET", "/api/info", **{header: "192.0.2.9"})
    assert status == 403 and b"--page-host" in body
    ours, token = behind_proxy
    assert ask(ours, "GET", "/api/info", **{header: "127.0.0.1"})[0] == 401, "nothing that it says is believed"
    assert ask(ours, "GET", "/api/info", **{header: "x", "Authorization": f"Bearer {token}"})[0] == 200


def test_an_outside_address_is_read_as_browsers_write_it(tmp_path: Path) -> None:
    def make(*hosts: str) -> Access:
        return access_for("127.0.0.1", hosts, tls=False, token_file=tmp_path / "t", new=False)[0]

    access = make("HTTPS://Cam.Example.org:443/", "http://a.b:80", "https://[::1]:8443", "Farm.Example:99")
    assert access.origins == {OUTSIDE, "http://a.b", "https://[::1]:8443"}
    assert access.names == {"cam.example.org", "a.b", "::1", "farm.example", "localhost"}
    unreadable = "https:// ftp://a https://a/cam https://a?b https://u@a https://a:x https://[x a/b https://*.a"
    for wrong in (*unreadable.split(), "a b", ""):
        with pytest.raises(ConfigError, match="--page-host"):
            make(wrong)
    with pytest.raises(ConfigError, match="--page-host"):
        access_for("0.0.0.0", ("https://a/b",), tls=True, token_file=tmp_path / "t", new=False)


@pytest.mark.parametrize(
    ("address", "hosts", "tls", "encrypted"),
    [
        ("127.0.0.1", (), False, True),
        ("127.0.0.1", (OUTSIDE,), False, True),
        ("127.0.0.1", (OUTSIDE, "farm.example"), False, False),
        ("127.0.0.1", ("http://cam.example.org",), False, False),
        ("127.0.0.1", ("farm.example",), True, True),
        ("0.0.0.0", (OUTSIDE,), False, False),
        ("0.0.0.0", (), True, True),
    ],
)
def test_it_is_known_where_others_can_read_along(
    address: str, hosts: tuple[str, ...], tls: bool, encrypted: bool, tmp_path: Path
) -> None:
    access, _ = access_for(address, hosts, tls=tls, token_file=tmp_path / "t", new=False)
    assert access.encrypted == encrypted


def test_two_agents_of_one_host_do_not_log_each_other_out(tmp_path: Path) -> None:
    """Cookies know no ports: a browser sends both pages the cookies of both."""
    jar = {}
    with contextlib.ExitStack() as stack:
        pages = []
        for name in ("one", "other"):
            access, token = access_for("0.0.0.0", (), tls=False, token_file=tmp_path / name, new=False)
            pages.append(stack.enter_context(contextlib.closing(ServedPage(access=access))))
            cookie = post(pages[-1], "/api/login", {"token": token})[1]["Set-Cookie"].split(";")[0]
            jar[cookie.partition("=")[0]] = cookie
        for page in pages:
            assert ask(page, "GET", "/api/info", Cookie="; ".join(jar.values()))[0] == 200


def test_cookies_of_other_services_lock_nobody_out(guarded: tuple[ServedPage, str]) -> None:
    page, token = guarded
    ours = post(page, "/api/login", {"token": token})[1]["Set-Cookie"].split(";")[0]
    name = ours.partition("=")[0]
    for others in (
        'prefs={"a": 1}; ',
        "x=a b; ",
        "=; ;;",
        'q="un;',
        "a;",
        f"{name}=stale; ",
        "\xe9=1; ",
        "$Version=1; ",
    ):
        assert ask(page, "GET", "/api/info", Cookie=others + ours)[0] == 200, others
        assert ask(page, "GET", "/api/info", Cookie=f"{ours};{others}")[0] == 200, others
        assert ask(page, "GET", "/api/info", Cookie=others)[0] == 401, others


def test_a_body_is_never_taken_for_the_next_request(page: ServedPage) -> None:
    host = f"Host: 127.0.0.1:{port_of(page)}\r\n"
    body = '{"threshold": 0.9}'
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    inner = f"POST /api/threshold HTTP/1.1\r\n{host}{kind}\r\n{body}"
    chunked = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
    for method in ("GET", "HEAD", "POST", "PUT"):
        for length, content in ((f"Content-Length: {len(inner)}", inner), ("Transfer-Encoding: chunked", chunked)):
            head = f"{method} /page.css HTTP/1.1\r\n{host}{length}\r\n\r\n"
            answer = send_raw(page, (head + content).encode())
            assert answer.count(b"HTTP/1.1 ") <= 1, (method, length, answer[-300:])
    assert page.thresholds == []
    one = f"GET /api/info HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"
    other = f"GET /page.css HTTP/1.1\r\n{host}Connection: close\r\n\r\n"
    assert send_raw(page, (one + other).encode()).count(b"HTTP/1.1 200") == 2, (
        "a request without a body keeps the connection"
    )


@pytest.mark.parametrize("path", ["/", "/api/info", "/snapshot.jpg", "/stream.mjpg", "/events", "/ws", "/metrics"])
def test_a_head_is_answered_as_a_get_is_but_without_content(page: ServedPage, path: str) -> None:
    with camera(page):
        with get(page, path) as response:
            status, kind = response.status, response.headers["Content-Type"]
        answer = send_raw(page, f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()) and f"Content-Type: {kind}".encode() in head
    assert content == b""
    wait_until(lambda: page.viewers == 0)


def send_raw(page: ServedPage, data: bytes, wait_s: float = 8.0) -> bytes:
    """What is answered until the server hangs up; b'' where it never read to the end."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)), timeout=wait_s)) as connection:
        got = b""
        with contextlib.suppress(OSError):
            connection.sendall(data)
        with contextlib.suppress(OSError):
            while more := connection.recv(65536):
                got += more
        return got


def test_an_endless_head_is_refused_before_it_is_read(page: ServedPage) -> None:
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
def test_what_is_no_request_is_answered_or_dropped(data: bytes) -> None:
    page = ServedPage(limits=Limits(head_s=0.5))
    with contextlib.closing(page):
        answer = send_raw(page, data)
        assert not answer.startswith(b"HTTP/1.1 5") or b" 505 " in answer[:20]
        assert ask(page, "GET", "/api/info")[0] == 200


def test_who_sends_slowly_is_hung_up_on() -> None:
    """One byte now and then: a time-out for each read would never come."""
    with (
        contextlib.closing(ServedPage(limits=Limits(head_s=1.0))) as page,
        contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)), timeout=5)) as slow,
    ):
        began = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                slow.sendall(bytes([byte]))
                time.sleep(0.1)
                assert time.monotonic() - began < 4
            raise AssertionError("it listened to the end")


@pytest.mark.slow
def test_many_at_once_are_bounded_and_the_loop_does_not_notice(page: ServedPage) -> None:
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


def test_a_connection_for_which_there_is_no_thread_takes_no_place(
    page: ServedPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        for _ in range(server.CONNECTIONS + 1):
            assert ask_quietly(page) == 0
    assert ask(page, "GET", "/api/info")[0] == 200


def ask_quietly(page: ServedPage) -> int:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(page, "GET", "/api/info")[0]
    return 0


@contextlib.contextmanager
def websocket(page: ServedPage, path: str = "/ws", **headers: str) -> Iterator[tuple[Any, list[Any]]]:
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


def test_a_websocket_gets_every_result(page: ServedPage) -> None:
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


def test_who_does_not_take_results_in_time_is_told_how_many_are_missing(page: ServedPage) -> None:
    with websocket(page) as (receive, events):
        for i in range(BACKLOG + 5000):
            page.observe(result(i), None)
        while not any(isinstance(e, TextMessage) and '"missed"' in e.data for e in events):
            receive()


def test_a_websocket_of_one_camera_hears_no_other() -> None:
    page = ServedPage(cameras=("a.mp4", "other"))
    with contextlib.closing(page), websocket(page, "/ws?camera=other") as (_, events):
        page.observe(result(1), None)
        time.sleep(0.7)
        assert len(events) == 1
        assert ask(page, "GET", "/ws?camera=absent")[0] == 404
        assert ask(page, "GET", "/snapshot.jpg?camera=a.mp4&camera=other")[0] == 404


def test_no_websocket_where_no_handshake_is(page: ServedPage) -> None:
    assert ask(page, "GET", "/ws")[0] == 400
    wait_until(lambda: page.viewers == 0 and not page.page.listeners)


def test_each_camera_has_its_own_image_and_predictions() -> None:
    page = ServedPage(cameras=("a.mp4", "b c&d=<x>"))
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
    page = ServedPage(tls=context, access=Access(tls=True))
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with contextlib.closing(page), contextlib.closing(socket.create_connection(("127.0.0.1", port_of(page)))):
        assert page.url.startswith("https://")
        for _ in range(2):  # while somebody says nothing
            connection = http.client.HTTPSConnection("127.0.0.1", port_of(page), timeout=5, context=trusting)
            with contextlib.closing(connection):
                connection.request("GET", "/api/info")
                with connection.getresponse() as answer:
                    assert answer.status == 200


@pytest.mark.parametrize("path", ["/events", "/stream.mjpg"])
def test_over_tls_too_viewers_that_left_make_room(certificate: Path, path: str) -> None:
    """No frame comes, so nothing is written to them."""
    page = ServedPage(tls=server.server_tls(certificate / "cert.pem", certificate / "key.pem", "test"))
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    with contextlib.closing(page):
        with contextlib.ExitStack() as stack:
            for _ in range(LIMITS.viewers):
                connection = http.client.HTTPSConnection("127.0.0.1", port_of(page), timeout=8, context=trusting)
                stack.enter_context(contextlib.closing(connection))
                connection.request("GET", path)
                stack.enter_context(connection.getresponse())
            assert page.viewers == LIMITS.viewers
        wait_until(lambda: page.viewers == 0, timeout_s=8)


def test_a_viewer_whose_network_was_cut_is_asked_after_by_the_system() -> None:
    """Nobody says that it is gone: only TCP can find out, while nothing is sent."""
    connections: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    class Handler(server.Handler):
        def setup(self) -> None:
            super().setup()
            connections.put(self.connection)

    with server.Server("127.0.0.1", 0, Handler, None) as one:
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True).start()
        with contextlib.closing(socket.create_connection(one.server_address[:2], timeout=5)):
            connection = connections.get(timeout=5)
            check_keepalive(connection)
        one.shutdown()


def check_keepalive(connection: socket.socket) -> None:
    """A dead connection is noticed within 30 s."""
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    idle, interval, count = (
        connection.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert idle + interval * count <= 30


@pytest.mark.slow
def test_a_stream_without_an_image_ends_and_one_with_says_it_again() -> None:
    """Proxies end what says nothing for a minute."""
    page = ServedPage(limits=Limits(heartbeat_s=0.1))
    with contextlib.closing(page):
        with get(page, "/stream.mjpg") as response:
            assert response.read() == b""
        with get(page, "/stream.mjpg") as response:
            page.observe(result(0), slot("blue"))
            assert [is_coloured(read_part(response), "blue") for _ in range(3)] == [True] * 3


def test_certificates_that_cannot_be_used_are_refused_without_asking_anybody(certificate: Path, tmp_path: Path) -> None:
    cert, key, locked, other = certificate / "cert.pem", certificate / "key.pem", tmp_path / "l.pem", tmp_path / "o.pem"
    for command in (
        ["pkey", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", str(locked)],
        ["genpkey", "-algorithm", "RSA", "-out", str(other)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    (tmp_path / "text").write_text("hello")
    for pair, message in (
        ((cert, locked), "the key is encrypted"),
        ((cert, other), "the key does not belong to the certificate"),
        ((tmp_path / "text", key), "not a certificate and a key in PEM"),
        ((cert, None), "not a certificate and a key in PEM"),
        ((tmp_path / "nothing", key), "cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError, match=f"^the options: {message}"):
            server.server_tls(*pair, "the options")


@pytest.mark.parametrize("port", [(), ("--page-port", "0")])
def test_a_certificate_that_cannot_be_used_is_an_error_on_any_port(
    sightline: Sightline, bundle: Path, tmp_path: Path, port: tuple[str, ...]
) -> None:
    (tmp_path / "cert.pem").write_text("hello")
    cert = ("--page-cert", tmp_path / "cert.pem")
    done = sightline("run", bundle, "--source", "test:64x48@30", "--frames", "30", *cert, *port)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "error: --page-cert, --page-key: not a certificate and a key in PEM" in done.stderr
    done = sightline("run", bundle, "--source", "test:64x48@30", "--frames", "30", "--page-key", *cert[1:], *port)
    assert done.returncode == 2 and "--page-key: needs --page-cert" in done.stderr


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
                shown = [line.split()[-1] for line in lines if "shown only once" in line]
                assert any("the page is not encrypted" in line for line in lines)
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


@pytest.mark.slow
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


def test_the_description_names_every_route(page: ServedPage) -> None:
    with get(page, "/openapi.json") as response:
        document = json.loads(response.read())
    operations = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert operations == {(path, "get") for path in GET_ROUTES} | {(path, "post") for path in POST_ROUTES}
