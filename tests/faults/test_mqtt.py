"""MQTT against a real broker, which comes, goes, refuses and says nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.broker import Received, broker, free_port, subscriber
from benchmarks.support.waiting import wait_until
from edge.outputs.mqtt_broker import parse_broker
from sightline.bundle import read_bundle, write_bundle
from sightline.errors import ConfigError
from tests.conftest import LABELS, Sightline

PASSWORD = "hunter2-mqtt"


@contextmanager
def agent(
    bundle: Path, port: int, folder: Path, *options: object, source: str = "test:64x48@30"
) -> Iterator[subprocess.Popen[str]]:
    """Its stderr goes to folder/stderr, its results to folder/out.jsonl."""
    command = [sys.executable, "-m", "sightline", "run", str(bundle), "--source", f"door={source}", "--json"]
    command += ["--no-page", "--name", "pi", "--outbox", str(folder / "outbox.sqlite")]
    if not any("--mqtt=" in str(o) for o in options):
        command.append(f"--mqtt=mqtt://127.0.0.1:{port}")
    with (
        (folder / "stderr").open("a") as err,
        (folder / "out.jsonl").open("a") as out,
        subprocess.Popen([*command, *map(str, options)], stdout=out, stderr=err, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def output_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines() if line.endswith("}")]


def of(received: list[Received], kind: str) -> list[Received]:
    return [r for r in received if r.topic.endswith(f"/{kind}")]


@pytest.mark.slow
def test_results_states_and_images_arrive(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, port), subscriber(port) as (_, received):
        with agent(bundle, port, tmp_path, "--send=results", "--mqtt-images=1") as process:
            wait_until(lambda: len(of(received, "result")) > 60, 15, "sixty results")
            process.terminate()
            assert process.wait(10) == 0
        wait_until(lambda: received[-1].topic == "sightline/pi/available", 5)
    assert [r.body for r in of(received, "available")] == [b"online", b"offline"]
    results = [r.json["result"] for r in of(received, "result")]
    assert results == output_lines(tmp_path)[: len(results)], "the same JSON as on stdout, in the same order"
    assert len(output_lines(tmp_path)) - len(results) <= 1
    keys = [r.json["key"] for r in of(received, "result")]
    assert len(set(keys)) == len(keys)
    state = of(received, "door/state")[-1].json
    assert state["inferred"] and state["label"] in LABELS and state["count"] == 1
    assert set(of(received, "pi/state")[0].json) >= {"fps", "temperature", "threshold", "model", "waiting"}
    image = of(received, "image")[0].body
    assert image[:3] == b"\xff\xd8\xff" and 1 <= len(of(received, "image")) <= 5
    assert "mqtt" not in (tmp_path / "stderr").read_text(), "nothing was lost"


def check_everything_accepted_arrived(received: list[Received], folder: Path, missing: int) -> None:
    """In order, each at least once; `missing`: that may not have been accepted when the agent was killed."""
    first: dict[str, dict[str, Any]] = {}
    for r in of(received, "result"):
        message = r.json
        assert first.setdefault(message["key"], message) == message, "the same key, another message"
    got = [(m["result"]["captured_monotonic_ns"], m["result"]["frame_id"]) for m in first.values()]
    assert got == sorted(got), "in order"
    wanted = [(r["captured_monotonic_ns"], r["frame_id"]) for r in output_lines(folder)]
    lost = sorted(set(wanted) - set(got))
    assert len(lost) <= missing, f"{len(lost)} of {len(wanted)}"
    assert not of(received, "gap")


@pytest.mark.slow
def test_broker_away_and_agent_killed_meanwhile_all_that_was_accepted_arrives(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, port) as first, subscriber(port) as (_, received):
        with agent(bundle, port, tmp_path, "--send=results") as process:
            wait_until(lambda: len(of(received, "result")) > 30, 15, "thirty results")
            first.kill()
            first.wait(5)
            before = len(output_lines(tmp_path))
            wait_until(lambda: len(output_lines(tmp_path)) > before + 90, 15, "inference goes on without a broker")
            process.send_signal(signal.SIGKILL)
            process.wait(5)
        at_kill = len(output_lines(tmp_path))
        with agent(bundle, port, tmp_path, "--send=results") as process:
            wait_until(lambda: len(output_lines(tmp_path)) > at_kill + 60, 15, "a new start")
            with broker(tmp_path, port), subscriber(port) as (_, later):
                wait_until(lambda: len(of(later, "result")) > 200, 40, "what waited")
                process.terminate()
                assert process.wait(10) == 0
                time.sleep(0.5)
    check_everything_accepted_arrived(received + later, tmp_path, missing=4)
    again = {r.json["key"] for r in of(received, "result")} & {r.json["key"] for r in of(later, "result")}
    assert len(again) <= 64, "no more than were on their way"


@pytest.mark.slow
def test_a_disk_of_one_megabyte_costs_messages_which_are_counted(bundle: Path, tmp_path: Path) -> None:
    disk, port = tmp_path / "disk", free_port()
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only who may mount has a disk of 1 MB")
    try:
        options = ("--send=results", "--source=two=test:64x48@200", f"--outbox={disk}/outbox.sqlite")
        with agent(bundle, port, tmp_path, *options) as process:
            wait_until(lambda: len(output_lines(tmp_path)) > 2000, 60, "inference goes on")
            with broker(tmp_path, port), subscriber(port) as (_, received):
                wait_until(lambda: of(received, "result"), 40)
                before = len(of(received, "result"))
                wait_until(lambda: len(of(received, "result")) > before + 300, 20)
                process.terminate()
                assert process.wait(10) == 0
                time.sleep(0.5)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    results = {r.json["key"]: r.json for r in of(received, "result")}
    gaps = {r.json["key"]: r.json["gap"] for r in of(received, "gap")}
    assert sum(gaps.values()) > 500
    assert len(results) + sum(gaps.values()) == pytest.approx(len(output_lines(tmp_path)), abs=2), "the exact number"


def test_the_threshold_is_set_and_nothing_else_is(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, port), subscriber(port) as (client, received):
        client.publish("sightline/pi/threshold/set", "0.9", retain=True)
        with agent(bundle, port, tmp_path) as process:

            def threshold() -> float:
                return float(of(received, "pi/state")[-1].json["threshold"])

            wait_until(lambda: len(of(received, "pi/state")) >= 1, 15)
            assert threshold() == 0.0, "a retained command is of a time long ago"
            client.publish("sightline/pi/threshold/set", "0.999")
            wait_until(lambda: threshold() == 0.999, 5)
            for wrong in (b"1.5", b"-1", b"nan", b"inf", b"", b"\xff\xfe", b"0.5; reboot", b"0" * 100_000):
                seen = len(of(received, "pi/state"))
                client.publish("sightline/pi/threshold/set", wrong)
                wait_until(lambda seen=seen: len(of(received, "pi/state")) > seen, 5)  # type: ignore[misc]
                assert threshold() in (0.999, 0.0) and (threshold() == 0.999 or wrong.startswith(b"00")), wrong
            process.terminate()
            assert process.wait(10) == 0


def test_an_agent_that_is_killed_is_offline(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    with broker(tmp_path, port), subscriber(port) as (_, received), agent(bundle, port, tmp_path) as process:
        wait_until(lambda: of(received, "available"), 15)
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: of(received, "available")[-1].body == b"offline", 5)


def test_a_camera_that_is_away_is_no_empty_scene(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    with (
        broker(tmp_path, port),
        subscriber(port) as (_, received),
        agent(bundle, port, tmp_path, source="/dev/video99"),
    ):
        wait_until(lambda: of(received, "door/state") and of(received, "door/state")[-1].json["cause"], 15)
        wait_until(lambda: "no such camera" in str(of(received, "door/state")[-1].json["cause"]), 10)
    state = of(received, "door/state")[-1].json
    assert state["inferred"] is False and state["count"] == 0 and state["label"] is None


@pytest.mark.slow
def test_user_and_password_are_sent_and_never_shown(bundle: Path, tmp_path: Path) -> None:
    port, passwords = free_port(), tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "me", PASSWORD], check=True, capture_output=True)
    env_file = tmp_path / "mqtt.env"
    with broker(tmp_path, port, "allow_anonymous false", f"password_file {passwords}"):
        for given, words in ((PASSWORD, None), ("wrong", "not authori")):
            env_file.write_text(f"WHO=me\nPASS={given}\n")
            env_file.chmod(0o600)
            options = (f"--mqtt=mqtt://${{WHO}}:${{PASS}}@127.0.0.1:{port}", f"--env-file={env_file}")
            with agent(bundle, port, tmp_path, *options) as process:
                if words is None:
                    log = tmp_path / "mosquitto.log"
                    wait_until(lambda: "as sightline-pi (" in log.read_text(), 15)  # noqa: B023
                else:
                    time.sleep(3)
                process.terminate()
                assert process.wait(10) == 0
            stderr = (tmp_path / "stderr").read_text()
            assert (words is None) == ("mqtt://127.0.0.1" not in stderr), stderr
            assert words is None or words in stderr
            assert PASSWORD not in stderr


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.pem and server.key for 127.0.0.1, and another authority, other.pem."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=broker", "-keyout", "server.key", "-out", "s.csr")
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "s.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "ext", "-out", "server.pem")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pi", "-keyout", "client.key", "-out", "c.csr")
    openssl("x509", "-req", "-in", "c.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", "client.pem")  # fmt: skip
    return folder


@pytest.mark.slow
def test_tls_with_its_own_authority(bundle: Path, tmp_path: Path, certificates: Path) -> None:
    port = free_port()
    tls = [f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem", f"keyfile {certificates}/server.key"]
    with broker(tmp_path, port, "allow_anonymous true", *tls):
        for ca, fine in (("ca", True), ("other", False)):
            options = (f"--mqtt=mqtts://127.0.0.1:{port}", f"--mqtt-ca={certificates}/{ca}.pem")
            with agent(bundle, port, tmp_path, *options) as process:
                time.sleep(3)
                process.terminate()
                assert process.wait(10) == 0
            assert ("certificate is not trusted" in (tmp_path / "stderr").read_text()) != fine
    assert "as sightline-pi (" in (tmp_path / "mosquitto.log").read_text()


@pytest.mark.slow
def test_a_client_certificate_opens_what_is_closed_without(bundle: Path, tmp_path: Path, certificates: Path) -> None:
    port = free_port()
    tls = [f"cafile {certificates}/ca.pem", f"certfile {certificates}/server.pem", f"keyfile {certificates}/server.key",
           "require_certificate true", "use_identity_as_username true"]  # fmt: skip
    with broker(tmp_path, port, *tls):
        options = [f"--mqtt=mqtts://127.0.0.1:{port}", f"--mqtt-ca={certificates}/ca.pem"]
        own = [f"--mqtt-cert={certificates}/client.pem", f"--mqtt-key={certificates}/client.key"]
        for given, fine in (([], False), (own, True)):
            with agent(bundle, port, tmp_path, *options, *given) as process:
                time.sleep(3)
                process.terminate()
                assert process.wait(10) == 0
            assert ("as sightline-pi (" in (tmp_path / "mosquitto.log").read_text()) == fine


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path, certificates: Path) -> None:
    key = tmp_path / "encrypted.key"
    subprocess.run(["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", certificates / "client.key", "-out", key],
                   check=True, capture_output=True)  # fmt: skip
    with pytest.raises(ConfigError, match="--mqtt-key: the key is encrypted"):
        parse_broker("mqtts://127.0.0.1", certificate=certificates / "client.pem", key=key)


def test_a_password_on_the_command_line_is_warned_of_and_logged_nowhere(bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    hook = f"--webhook=http://u:{PASSWORD}@127.0.0.1:{port}/x?token={PASSWORD}"
    with agent(bundle, port, tmp_path, f"--mqtt=mqtt://me:{PASSWORD}@127.0.0.1:{port}", hook) as process:
        wait_until(lambda: len(output_lines(tmp_path)) > 5, 15)
        time.sleep(1)
        process.terminate()
        assert process.wait(10) == 0
    stderr = (tmp_path / "stderr").read_text()
    for option in ("--mqtt", "--webhook"):
        assert f"warning: {option}: the password is visible to other users of this machine" in stderr
    assert PASSWORD not in stderr + (tmp_path / "out.jsonl").read_text()


def test_a_broker_that_says_nothing_costs_inference_nothing(bundle: Path, clip: Path, sightline: Sightline,
                                                            tmp_path: Path) -> None:  # fmt: skip
    with contextlib.closing(socket.socket()) as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        options = ["--json", "--no-page", "--mqtt", address, "--send", "results", "--outbox", tmp_path / "o.sqlite"]
        began = time.monotonic()
        done = sightline("run", bundle, "--source", clip, *options)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 12
    assert len(done.stdout.splitlines()) == 60
    assert "mqtt: 60 messages wait for the next start" in done.stderr


@pytest.mark.parametrize("address", ["http://x", "mqtt://", "mqtt://h:port", "mqtt://h/topic", "mqtt://u:hunter2@"])
def test_what_is_no_broker_is_refused_without_its_password(address: str, bundle: Path, tmp_path: Path,
                                                           sightline: Sightline) -> None:  # fmt: skip
    done = sightline("run", bundle, "--source", "test:", "--mqtt", address, "--outbox", tmp_path / "o")
    assert done.returncode == 2 and "--mqtt" in done.stderr and "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_names_of_any_kind_stay_within_their_topics(bundle: Path, tmp_path: Path) -> None:
    """A camera's name may come from a file's."""
    port = free_port()
    sources = ["--source=a+b#c.mp4", "--source=a b c.mp4", "--realtime", "--loop"]
    import shutil

    import cv2
    import numpy as np

    for name in ("a+b#c.mp4", "a b c.mp4"):
        writer = cv2.VideoWriter(str(tmp_path / "x.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
        for _ in range(20):
            writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
        shutil.move(tmp_path / "x.mp4", tmp_path / name)
    command = [sys.executable, "-m", "sightline", "run", str(bundle), *sources, "--no-page", "--name", "../#pi",
               f"--mqtt=127.0.0.1:{port}", "--outbox=o.sqlite", "--send=results"]  # fmt: skip
    root = str(Path(__file__).parents[2])
    with broker(tmp_path, port), subscriber(port) as (_, received):
        environment = {"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=-3, stderr=subprocess.PIPE, text=True, env=environment
        ) as p:
            try:
                wait_until(lambda: len(of(received, "result")) > 20, 15)
                p.terminate()
                assert p.wait(10) == 0
            finally:
                p.kill()
    topics = {r.topic for r in received if r.topic.startswith("sightline/")}
    assert {t.split("/")[1] for t in topics} == {"pi"}
    assert {t.split("/")[2] for t in topics if t.endswith("/result")} == {"a_b_c_mp4", "a_b_c_mp4_2"}


@pytest.mark.slow
def test_two_starts_tell_home_assistant_the_same(bundle: Path, tmp_path: Path) -> None:
    port, documents = free_port(), []
    with broker(tmp_path, port), subscriber(port) as (client, received):
        for number in range(2):
            with agent(bundle, port, tmp_path) as process:
                wait_until(lambda: len(of(received, "config")) > 2 * number, 15)  # noqa: B023
                seen = len(of(received, "config"))
                client.publish("homeassistant/status", "online")
                wait_until(lambda seen=seen: len(of(received, "config")) > seen, 5)  # type: ignore[misc]
                process.terminate()
                assert process.wait(10) == 0
            documents = of(received, "config")
    assert {d.topic for d in documents} == {"homeassistant/device/sightline_pi/config"}
    assert len({d.body for d in documents}) == 1 and len(documents) == 4
    model = read_bundle(bundle).manifest
    assert documents[0].json["dev"]["mdl"] == model.name
    assert all(a.at_ns < b.at_ns for a, b in itertools.pairwise(documents))


def test_labels_of_any_kind_stay_out_of_topics_and_files(bundle: Path, tmp_path: Path) -> None:
    read, port = read_bundle(bundle), free_port()
    labels = ("../../etc/x#+", "<img src=x onerror=alert(1)>", "\u202etxt.exe \U0001f98a")
    files = {name: data for name, data in read.contents.items() if name != "labels.txt"}
    manifest = dataclasses.replace(read.manifest, output=dataclasses.replace(read.manifest.output, labels=labels))
    strange = tmp_path / "strange.bundle"
    write_bundle(strange, manifest, files)
    rules = [f"--on='{label}'>=0.01" for label in labels]
    shots = tmp_path / "deep" / "shots"
    with (
        broker(tmp_path, port),
        subscriber(port) as (_, received),
        agent(strange, port, tmp_path, *rules, f"--snapshots={shots}", "--top=3") as process,
    ):
        wait_until(lambda: {r.json["event"]["label"] for r in of(received, "event")} == set(labels), 20)
        process.terminate()
        assert process.wait(10) == 0
    topics = {r.topic for r in received if r.topic.startswith("sightline/")}
    assert topics <= {f"sightline/pi/{t}" for t in ("available", "state", "door/state", "door/image", "door/event")}
    names = {r.json["event"]["snapshot"] for r in of(received, "event")}
    assert names == {p.name for p in shots.iterdir()} and len(names) >= 3
    outside = {p.name for p in tmp_path.rglob("*.jpg")} - names
    assert outside == set()
