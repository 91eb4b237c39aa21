"""Webhooks against a receiver that refuses, breaks, hangs up, says nothing, and comes back."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.broker import free_port
from benchmarks.support.waiting import wait_until
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.webhook import Webhook, WebhookTiming
from edge.outputs.webhook_client import Client, Reply, parse_headers, parse_receiver
from sightline.errors import ConfigError
from sightline.predictions import Classification, ModelId, Result
from tests.conftest import Sightline
from tests.support.disk import Disk

MODEL = ModelId("m", "1", "ab" * 32)
SECRET = "hunter2-hook"
Answer = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in (("Content-Length", "2"), *headers):
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(b"ok")

    return answer


@contextmanager
def receiver(answers: Callable[[int], Answer], port: int = 0) -> Iterator[tuple[str, list[tuple[dict[str, str], Any]]]]:
    """Its address, and (headers, body) of each request. answers: by the request's number."""
    requests: list[tuple[dict[str, str], Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((dict(self.headers), body))
            answers(len(requests) - 1)(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Server(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook?token={SECRET}", requests
        finally:
            server.shutdown()


IMPATIENT = WebhookTiming(timeout_s=0.5, backoff_s=0.05, fault_s=0.2)


@contextmanager
def sending(
    address: str,
    folder: Path,
    *,
    box: Callable[[Path, int], Outbox] = Outbox,
    timing: WebhookTiming = IMPATIENT,
    client: Client | None = None,
) -> Iterator[Webhook]:
    """box: makes the outbox. client: None = one for this address."""
    outbox = box(folder / "outbox.sqlite", 10_000_000)
    hook = Webhook(parse_receiver(address, {}), outbox, "results", lossless=False, timing=timing, client=client)
    hook.start()
    try:
        yield hook
    finally:
        hook.close()
        outbox.close()


def result(i: int) -> Result:
    return Result("d", "door", i, "2026-01-01T00:00:00.000Z", i + 1, MODEL, 8, 6, {}, (Classification("fox", 0, 0.9),))


def frames(requests: list[tuple[dict[str, str], Any]]) -> list[int]:
    return [body["result"]["frame_id"] for _, body in requests]


def test_each_message_is_posted_in_order_with_its_key(tmp_path: Path) -> None:
    with receiver(lambda _: status(200)) as (address, requests), sending(address, tmp_path) as hook:
        for i in range(20):
            hook.put(result(i))
        wait_until(lambda: hook.sent == 20, 5)
    assert frames(requests) == list(range(20))
    for headers, body in requests:
        assert headers["Idempotency-Key"] == body["key"]
        assert headers["Content-Type"] == "application/json"
    assert len({body["key"] for _, body in requests}) == 20
    assert hook.failed is None


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def say_nothing(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1)
    handler.close_connection = True


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n")
    handler.close_connection = True


def interim(code: int, repeat: int = 1) -> Answer:
    """103 Early Hints, once or more often, before the answer that counts."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        for _ in range(repeat):
            handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n")
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        status(code)(handler)

    return answer


def test_an_interim_answer_is_no_acknowledgement(tmp_path: Path) -> None:
    with (
        receiver(lambda i: interim(503 if i < 2 else 200)) as (address, requests),
        sending(address, tmp_path) as hook,
    ):
        for i in range(3):
            hook.put(result(i))
        wait_until(lambda: hook.sent == 3, 10)
    assert frames(requests) == [0, 0, 0, 1, 2], "the same connection goes on"


def test_a_receiver_that_never_gets_to_the_point_acknowledges_nothing(tmp_path: Path) -> None:
    with (
        receiver(lambda i: interim(200, 50 if not i else 1)) as (address, requests),
        sending(address, tmp_path) as hook,
    ):
        hook.put(result(0))
        wait_until(lambda: hook.sent == 1, 10)
    assert frames(requests) == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (status(500), "answers 500"),
        (status(503, (("Retry-After", "1"),)), "answers 503"),
        (status(429), "answers 429"),
        (status(301, (("Location", "/new"),)), "answers 301 Moved Permanently; give --webhook the new address"),
        (status(401), "answers 401 Unauthorized; check the token"),
        (status(404), "answers 404 Not Found; check the address"),
        (status(410), "answers 410"),
        (status(101), "answers 101"),
        (interim(503), "answers 503 Service"),
        (hang_up, "closes the connection without an answer"),
        (say_nothing, "no answer within"),
        (no_http, "does not answer as a web server"),
    ],
)
def test_what_it_cannot_take_now_comes_again_and_nothing_overtakes(trouble: Answer, words: str, tmp_path: Path) -> None:
    said = []
    with (
        receiver(lambda i: trouble if i in (2, 3) else status(200)) as (address, requests),
        sending(address, tmp_path) as hook,
    ):
        for i in range(5):
            hook.put(result(i))
        began = time.monotonic()
        while hook.sent < 5:
            assert time.monotonic() - began < 10
            said.append(hook.failed or "")
            time.sleep(0.005)
    assert any(words in text for text in said), set(said)
    assert not any(SECRET in text for text in said)
    assert frames(requests) == [0, 1, 2, 2, 2, 3, 4]
    keys = [body["key"] for _, body in requests]
    assert keys[2] == keys[3] == keys[4], "a receiver can tell that it has this one"
    if words == "answers 503":
        assert time.monotonic() - began > 2, "it is left alone for as long as it asks"


@pytest.mark.parametrize("code", [400, 409, 413, 422])
def test_what_it_will_never_take_does_not_keep_the_others(code: int, tmp_path: Path) -> None:
    with (
        receiver(lambda i: status(code if i == 1 else 200)) as (address, requests),
        sending(address, tmp_path) as hook,
    ):
        for i in range(4):
            hook.put(result(i))
        wait_until(lambda: hook.sent == 3, 5)
    assert frames(requests) == [0, 1, 2, 3] and hook.refused == 1


def test_a_receiver_that_is_away_gets_everything_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}/hook?token={SECRET}"
    with sending(address, tmp_path) as hook:
        for i in range(10):
            hook.put(result(i))
        wait_until(lambda: hook.failed, 5)
        assert hook.failed == f"http://127.0.0.1:{port}/...: Connection refused"
    with receiver(lambda _: status(200), port) as (_, requests), sending(address, tmp_path) as again:
        again.put(result(10))
        wait_until(lambda: again.sent == 11, 10)
    assert frames(requests) == list(range(11)), "those of the process before come first"


def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            handler.close_connection = True

    with receiver(lambda _: endless) as (address, requests), sending(address, tmp_path) as hook:
        hook.put(result(0))
        hook.put(result(1))
        wait_until(lambda: hook.sent == 2, 10)
    assert frames(requests) == [0, 1]


@pytest.mark.parametrize(
    "address", ["ftp://x/", "https://", "http://x:port/", "http://x/a b", "http://x/\r\nHost: y", "http://x/ü", "x"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--webhook"):
        parse_receiver(address, {})


def test_headers_are_read_and_nothing_can_be_smuggled_into_them() -> None:
    assert parse_headers(("Authorization: Bearer x:y", "X-A:1")) == {"Authorization": "Bearer x:y", "X-A": "1"}
    for wrong in ("no colon", ": x", "a b: c", f"X: {SECRET}\r\nY: z"):
        with pytest.raises(ConfigError) as error:
            parse_headers((wrong,))
        assert SECRET not in str(error.value)


@pytest.mark.slow
def test_events_go_out_with_their_snapshots_and_no_password_is_shown(bundle: Path, clip: Path, tmp_path: Path) -> None:
    """The agent as a user runs it: a clip of 20 frames each of blue, green and red, again and again."""
    env_file, shots = tmp_path / "env", tmp_path / "shots"
    env_file.write_text(f"TOKEN={SECRET}\n")
    env_file.chmod(0o600)
    with receiver(lambda _: status(200)) as (address, requests):
        address = address.replace(SECRET, "${TOKEN}")
        command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", f"door={clip}", "--realtime",
                   "--loop", "--no-page", "--on", "red>=0.5 for 300ms", "--on", "blue>=50% on door", "--webhook",
                   address, "--webhook-header", "Authorization: Bearer ${TOKEN}", "--env-file", str(env_file),
                   "--outbox", str(tmp_path / "o.sqlite"), "--snapshots", str(shots),
                   "--output", str(tmp_path / "events.jsonl")]  # fmt: skip
        with subprocess.Popen(command, stdout=-3, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_until(lambda: len(requests) >= 6, 30, "six messages")
                shown = Path(f"/proc/{process.pid}/cmdline").read_text()
                process.terminate()
                assert process.wait(10) == 0
            finally:
                process.kill()
            assert process.stderr is not None
            stderr = process.stderr.read()
    assert SECRET not in shown + stderr
    assert all(h["Authorization"] == f"Bearer {SECRET}" for h, _ in requests)
    events = [body["event"] for _, body in requests]
    assert {e["label"] for e in events} == {"red", "blue"}
    by_id: dict[str, list[str]] = {}
    for e in events:
        by_id.setdefault(e["id"], []).append(e["state"])
    assert all(states in (["new"], ["new", "end"]) for states in by_id.values()), by_id
    for e in events:
        if e["state"] == "new":
            assert (shots / e["snapshot"]).read_bytes()[:3] == b"\xff\xd8\xff"
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert lines[: len(events)] == events, "the file has the same events"
    assert [e["ended_by"] for e in lines if e["state"] == "end"][-1] in ("stopped", "score")
    log = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    assert any(entry["event"] == "event_new" for entry in log)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on", "red>=0.5"], "need an output"),
        (["--send", "events", "--output", "x"], "needs an event"),
        (["--on", "purple>=0.5", "--output", "x"], "no label 'purple'"),
        (["--webhook", "nowhere"], "--webhook"),
        (["--webhook", "http://127.0.0.1/${UNSET_NAME}"], "UNSET_NAME"),
        (["--webhook", "http://127.0.0.1/", "--webhook-header", "A: ${UNSET_NAME}"], "UNSET_NAME"),
        (["--mqtt", "127.0.0.1", "--mqtt-prefix", "a/#"], "--mqtt-prefix"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], words: str, bundle: Path, tmp_path: Path,
                                             sightline: Sightline) -> None:  # fmt: skip
    options = [str(tmp_path / "x") if o == "x" else o for o in options]
    done = sightline("run", bundle, "--source", "test:", "--no-page", "--outbox", tmp_path / "o.sqlite", *options)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr


def test_what_cannot_be_deleted_is_sent_once_and_nothing_spins(tmp_path: Path) -> None:
    """The disk is full: what has arrived stays in the outbox, and comes again only after the next start."""
    taken = []

    class Undeletable(Outbox):
        def delete(self, *_: object) -> None:
            pass

        def take(self, *arguments: Any) -> list[Message]:
            taken.append(1)
            return super().take(*arguments)

    with receiver(lambda _: status(200)) as (address, requests), sending(address, tmp_path, box=Undeletable) as hook:
        for i in range(3):
            hook.put(result(i))
        wait_until(lambda: hook.sent == 3, 5)
        before = len(taken)
        time.sleep(1.5)
        assert len(taken) - before < 10
        hook.put(result(3))
        wait_until(lambda: hook.sent == 4, 5)
    assert frames(requests) == [0, 1, 2, 3]


def test_a_fault_of_our_own_in_a_sender_is_told_and_it_goes_on(tmp_path: Path) -> None:
    class Broken(Client):
        calls = 0

        def post(self, message: Message) -> Reply:
            self.calls += 1
            if self.calls == 1:
                raise KeyError("a bug")
            return super().post(message)

    with receiver(lambda _: status(200)) as (address, requests), ExitStack() as stack:
        client = Broken(parse_receiver(address, {}), IMPATIENT.timeout_s)
        hook = stack.enter_context(sending(address, tmp_path, client=client))
        hook.put(result(0))
        wait_until(lambda: hook.problem is not None and "a bug" in hook.problem, 3)
        wait_until(lambda: hook.sent == 1 and hook.problem is None, 3)
    assert frames(requests) == [0]


def test_a_full_outbox_is_a_problem_that_is_seen(tmp_path: Path) -> None:
    disk = Disk()
    disk.full = True
    box = partial(Outbox, free_bytes=disk.free_bytes)
    with receiver(lambda _: status(200)) as (address, _), sending(address, tmp_path, box=box) as hook:
        hook.put(result(0))
        wait_until(lambda: hook.outbox.dropped["webhook"] == 1, 3)
        assert hook.problem == "outbox: [Errno 28] No space left on device" or "no room" in str(hook.problem)


def test_no_log_has_the_address_and_no_proxy_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where all that libraries log is shown, and a reply's head is malformed."""
    caplog.set_level(logging.DEBUG)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def malformed(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 2\r\n\r\nok")
        handler.close_connection = True

    with receiver(lambda _: malformed) as (address, requests), sending(address, tmp_path) as hook:
        hook.put(result(0))
        wait_until(lambda: hook.sent == 1, 5)
    assert len(requests) == 1 and SECRET not in caplog.text


ANSWERS = st.lists(
    st.sampled_from(
        (100, 103, 200, 202, 204, 301, 308, 400, 401, 404, 408, 413, 422, 429, 500, 503, "hang up", "no http")
    ),
    max_size=30,
)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(ANSWERS)
def test_every_message_is_taken_or_refused_by_an_answer_of_its_own(answers: list[int | str]) -> None:
    def answer(i: int) -> Answer:
        what = answers[i] if i < len(answers) else 200
        if isinstance(what, str):
            return hang_up if what == "hang up" else no_http
        return interim(503) if what < 200 else empty if what == 204 else status(what)

    with (
        tempfile.TemporaryDirectory() as folder,
        receiver(answer) as (address, requests),
        sending(address, Path(folder), timing=WebhookTiming(0.5, backoff_s=0.001, backoff_max_s=0.01)) as hook,
    ):
        for i in range(10):
            hook.put(result(i))
        wait_until(lambda: hook.sent + hook.refused == 10, 20)
        assert hook.refused == sum(a in (400, 413, 422) for a in answers[: len(requests)])
    assert frames(requests) == sorted(frames(requests)) and set(frames(requests)) == set(range(10))


def empty(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(204)
    handler.end_headers()
