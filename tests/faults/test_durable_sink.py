"""Delivery is proven: whatever a broker or a receiver does, every accepted message arrives, or a gap says that it does
not; and nothing is deleted that was not acknowledged."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import paho.mqtt.client as paho
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from benchmarks.support.waiting import wait_until
from edge.capture.mailbox import Slot
from edge.outputs.mqtt import Mqtt
from edge.outputs.mqtt_broker import parse_broker
from edge.outputs.mqtt_options import MqttOptions, MqttTiming
from edge.outputs.mqtt_state import small_jpeg
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.webhook import Webhook
from edge.outputs.webhook_client import parse_receiver
from sightline.errors import ConfigError
from sightline.predictions import Classification, ModelId, Result
from tests.support.disk import Disk
from tests.support.fake_broker import FakeBroker, Manner, fake_broker

MODEL = ModelId("m", "1", "ab" * 32)


def result(i: int, label: str = "fox") -> Result:
    seen = (Classification(label, 0, 0.9),)
    return Result("d", "door", i, "2026-01-01T00:00:00.000Z", i + 1, MODEL, 8, 6, {}, seen)


IMPATIENT = MqttTiming(backoff_s=0.02, delete_s=0.02, state_s=0.0, acknowledge_s=0.4, flush_s=0.2)
RUSHED = MqttTiming(
    connect_s=0.5, backoff_s=0.02, backoff_max_s=0.1, delete_s=0.02, state_s=0.0, acknowledge_s=0.3, flush_s=0.1
)


@contextmanager
def sending(
    port: int,
    folder: Path,
    *,
    image_s: float = 0,
    timing: MqttTiming = IMPATIENT,
    box: Callable[[Path, int], Outbox] = Outbox,
) -> Iterator[Mqtt]:
    outbox = box(folder / "outbox.sqlite", 10_000_000)
    options = MqttOptions(
        "pi", "sightline", ["door"], lambda: MODEL, lambda: {"threshold": 0.5}, lambda _: None, image_s
    )
    mqtt = Mqtt(parse_broker(f"127.0.0.1:{port}"), outbox, "results", options, lossless=True, timing=timing)
    mqtt.start()
    try:
        yield mqtt
    finally:
        mqtt.close()
        outbox.close()


def acknowledged(broker: FakeBroker) -> tuple[set[int], int]:
    """Of what the broker acknowledged: the frames, and how many messages the gaps stand for."""
    frames: set[int] = set()
    gaps: dict[str, int] = {}
    for topic, payload, done in list(broker.received):
        if not done or not str(topic).startswith("sightline/") or str(topic).endswith("available"):
            continue
        message: dict[str, Any] = json.loads(bytes(payload))  # type: ignore[call-overload]
        if "gap" in message:
            gaps[message["key"]] = message["gap"]
        else:
            frames.add(message["result"]["frame_id"])
    return frames, sum(gaps.values())


def cpu_s(name: str) -> float:
    """What a thread of this process has used so far."""
    (thread,) = (t for t in threading.enumerate() if t.name == name)
    fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.slow
def test_a_sender_with_nothing_to_send_waits(tmp_path: Path) -> None:
    with fake_broker() as broker, sending(broker.port, tmp_path) as mqtt:
        number = 0
        until = time.monotonic() + 20
        while broker.unpromised < 80:  # states, which are not promised, are acknowledged by paho itself
            mqtt.put(result(number, f"label {number}"))
            number += 1
            assert time.monotonic() < until
            time.sleep(0.01)
        wait_until(lambda: not mqtt.outbox.waiting("mqtt"), 10)
        before = cpu_s("mqtt sender")
        time.sleep(1)
        assert cpu_s("mqtt sender") - before < 0.2


def test_a_sender_whose_broker_comes_back_to_an_empty_outbox_waits(tmp_path: Path) -> None:
    with fake_broker() as broker, sending(broker.port, tmp_path) as mqtt:
        for i in range(10):
            mqtt.put(result(i))
        wait_until(lambda: mqtt.sent == 10, 10)
        broker.manner = "hangs up"
        wait_until(lambda: broker.connections == 2 and mqtt.problem is None, 10)
        before = cpu_s("mqtt sender")
        time.sleep(1)
        assert cpu_s("mqtt sender") - before < 0.2
        mqtt.put(result(10))
        wait_until(lambda: mqtt.sent == 11, 10)


class Unreadable(Outbox):
    """Its disk is gone: the messages are counted, and none can be read."""

    def take(self, *_: Any, **__: Any) -> list[Message]:
        return []


@pytest.mark.parametrize("output", ["mqtt", "webhook"])
def test_a_sender_whose_outbox_is_gone_with_its_disk_waits(output: str, tmp_path: Path) -> None:
    """As when a stick is pulled out, while ten messages wait for a receiver that says nothing."""

    def box(path: Path, limit: int) -> Outbox:
        outbox = Unreadable(path, limit)
        outbox.put(output, [(f"k{i}", "result/door", b"{}") for i in range(10)])
        return outbox

    with ExitStack() as stack:
        if output == "mqtt":
            broker = stack.enter_context(fake_broker())
            sender: Any = stack.enter_context(sending(broker.port, tmp_path, box=box))
            wait_until(lambda: sender.problem is None and broker.connections, 10)
        else:
            outbox = box(tmp_path / "outbox.sqlite", 10_000_000)
            sender = Webhook(parse_receiver("http://127.0.0.1:9/", {}), outbox, "results", lossless=True)
            sender.start()
            stack.callback(outbox.close)
            stack.callback(sender.close)
        assert sender.outbox.waiting(output) == sender.outbox.newest(output) == 10
        time.sleep(0.5)
        before = cpu_s(f"{output} sender")
        time.sleep(1)
        assert cpu_s(f"{output} sender") - before < 0.2


def test_a_number_that_comes_round_again_acknowledges_nothing(tmp_path: Path) -> None:
    """paho's 65,535 numbers, which promised messages share with states, shortened to 150."""

    numbers = itertools.count(1)
    with (
        mock.patch.object(paho.Client, "_mid_generate", lambda _: next(numbers) % 150 + 1),  # of paho, not ours
        fake_broker() as broker,
        sending(broker.port, tmp_path, timing=replace(IMPATIENT, acknowledge_s=60)) as mqtt,
    ):
        for i in range(200):
            mqtt.put(result(i, f"label {i}"))
            time.sleep(0.002)
        wait_until(lambda: not mqtt.outbox.waiting("mqtt"), 10)
        broker.manner = "silent"
        for i in range(200, 300):
            mqtt.put(result(i))
        wait_until(lambda: sum(not done for *_, done in broker.received) >= 60, 10)
        time.sleep(0.3)
        assert mqtt.sent == 200 and mqtt.outbox.waiting("mqtt") == 100
        broker.manner = "prompt"
        wait_until(lambda: mqtt.sent == 300, 10)
    assert acknowledged(broker) == (set(range(300)), 0)


def test_a_broker_that_acknowledges_nothing_is_given_up_and_tried_again(tmp_path: Path) -> None:
    with fake_broker() as broker, sending(broker.port, tmp_path) as mqtt:
        broker.manner = "silent"
        mqtt.put(result(0))
        wait_until(lambda: "acknowledged nothing" in (mqtt.problem or ""), 10)
        wait_until(lambda: broker.connections >= 2, 10)
        broker.manner = "prompt"
        wait_until(lambda: mqtt.sent == 1 and mqtt.problem is None, 10)


def test_images_wait_for_a_slow_link_and_only_the_newest_is_kept(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    with fake_broker() as broker, sending(broker.port, tmp_path, image_s=0.001) as mqtt:
        wait_until(lambda: broker.unpromised, 10)
        broker.manner = "reads nothing"
        published = 0
        publish = paho.Client.publish

        def count(client: paho.Client, topic: str, *rest: Any, **more: Any) -> paho.MQTTMessageInfo:
            nonlocal published
            published += topic.endswith("/image")
            return publish(client, topic, *rest, **more)

        with mock.patch.object(paho.Client, "publish", count):
            for i in range(60):
                mqtt.observe(result(i * 2_000_000), Slot(frame=frame))
                with mqtt.outbox.changed:
                    mqtt.outbox.changed.notify_all()
                time.sleep(0.02)
        # the socket takes some; 60 would be 12 MB that wait
        assert published < 40
        broker.manner = "prompt"


@pytest.mark.parametrize("shape", [(20000, 3), (3, 20000), (1, 1), (70000, 1400)])
def test_an_image_of_any_shape_becomes_a_small_one_or_none(shape: tuple[int, int]) -> None:
    assert len(small_jpeg(np.zeros((*shape, 3), np.uint8))) < 100_000


@pytest.mark.parametrize("address", ["mqtt://[::1", "mqtt://user:hunter2\u2100x@host", "[", "mqtt://u:hunter2@[::1"])
def test_an_address_that_cannot_be_read_is_refused_without_its_password(address: str) -> None:
    with pytest.raises(ConfigError, match="--mqtt: not a broker's address") as error:
        parse_broker(address)
    assert "hunter2" not in str(error.value)


MANNERS: tuple[Manner, ...] = ("prompt", "silent", "backwards", "twice", "strange", "hangs up", "reads nothing")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 90)),
        st.tuples(st.just("manner"), st.sampled_from(MANNERS)),
        st.tuples(st.sampled_from(("remove", "full", "restart")), st.just(0)),
    ),
    min_size=3,
    max_size=10,
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(STEPS)
def test_every_accepted_message_is_acknowledged_or_in_a_gap(steps: list[tuple[str, Any]]) -> None:
    note(str(steps))
    number = unaccepted = 0
    with tempfile.TemporaryDirectory() as folder, fake_broker() as broker:
        disk = Disk()
        start = partial(
            sending, broker.port, Path(folder), timing=RUSHED, box=partial(Outbox, free_bytes=disk.free_bytes)
        )
        running = ExitStack()
        mqtt = running.enter_context(start())
        for kind, value in steps:
            if kind == "put":
                for _ in range(value):
                    mqtt.put(result(number, f"label {number % 3}"))
                    number += 1
            if kind == "manner":
                broker.manner = value
            if kind == "remove":
                (Path(folder) / "outbox.sqlite").unlink(missing_ok=True)
            if kind == "full":
                disk.full = True
                mqtt.put(result(number))
                number += 1
                time.sleep(0.05)
                disk.full = False
            if kind == "restart":
                running.close()
                unaccepted += mqtt.dropped  # a disk that took longer than a sink's patience at its end
                running = ExitStack()
                mqtt = running.enter_context(start())
            time.sleep(0.02)
            frames, gaps = acknowledged(broker)
            assert mqtt.sent <= len(broker.received)
        broker.manner = "prompt"
        mqtt.put(result(number))
        number += 1
        wait_until(lambda: number - 1 in acknowledged(broker)[0] and not mqtt.outbox.waiting("mqtt"), 20)
        running.close()
        frames, gaps = acknowledged(broker)
        note(f"gaps {gaps}, not accepted {unaccepted}, dropped {mqtt.outbox.dropped}, frames {sorted(frames)}")
    assert len(frames) + gaps + unaccepted >= number
    assert gaps <= sum(kind == "full" for kind, _ in steps) * 100
    if not unaccepted and not any(kind == "full" for kind, _ in steps):
        assert frames == set(range(number))
