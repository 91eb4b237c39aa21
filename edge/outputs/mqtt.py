"""MQTT: promised messages through the outbox, the state of now, and Home Assistant. paho-mqtt is known here only.

Topics, below PREFIX/NAME: `available` (online or offline, the broker's last will), `state` (of the agent),
`CAMERA/state`, `CAMERA/picture` (JPEG), `CAMERA/result`, `CAMERA/event` and `gap` (promised, QoS 1), and
`threshold/set` (a number from 0 to 1).
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.addresses import AddressError, parse_address
from edge.capture.mailbox import Slot
from edge.credentials import load_key_pair
from edge.outputs.durable_sink import FLUSH_S, DurableSink, payload
from edge.outputs.homeassistant import STATUS, discovery, discovery_topic
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from edge.outputs.send_filter import SendMode
from edge.results.zones import COUNTS, Zone, ZoneEvent
from sightline.backoff import Backoff
from sightline.errors import ConfigError
from sightline.predictions import Detection, ModelId, Pose, Result
from sightline.preprocess import Frame
from sightline.text import slug, slugs

if TYPE_CHECKING:
    from edge.results.sink import Item

KEEPALIVE_S = 15
CONNECT_S = 5.0
BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
WINDOW, WINDOW_BYTES = 64, 4 << 20  # of the messages on their way
HALF = WINDOW // 2  # so many that have arrived are worth waking up for
ACKNOWLEDGED_S = 30.0  # without any acknowledgement, the connection is given up
DELETE_S = 0.5  # what has arrived is deleted together: each commit is a write to the disk
STATE_S = 1.0  # between two states of one camera, at least
AGENT_S = 10.0  # between two states of the agent
PICTURE_WIDTH = 640
FLAPS = 5  # connections in a row that did not last


@dataclass(frozen=True)
class _Sent:
    """A message on its way. info: paho's own record of this publication. paho's numbers are no names for messages:
    they are those of states and pictures as well, and come round again after 65,535."""

    message: Message
    info: paho.MQTTMessageInfo


@dataclass(frozen=True)
class Broker:
    """host, port: where. user: '' = none. ca, certificate, key: files of TLS. tls: whether it is spoken."""

    host: str
    port: int
    tls: bool = False
    user: str = ""
    password: str = ""
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def where(self) -> str:
        """For people, without the password."""
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"

    @property
    def context(self) -> ssl.SSLContext:
        """Raises ConfigError for files that are none."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(f"--mqtt-ca: {e.strerror or e}") from None
        if self.certificate:
            load_key_pair(context, self.certificate, self.key, "--mqtt-cert, --mqtt-key")
        return context


def parse_broker(address: str, **files: Path | None) -> Broker:
    """`mqtt://user:password@host:1883`, `mqtts://host`. Raises ConfigError, without the password."""
    hint = "Write mqtt://host, mqtts://host:8883 or mqtt://${USER}:${PASSWORD}@host."
    text = address if "://" in address else f"mqtt://{address}"
    try:
        parsed = parse_address(text, {"mqtt": 1883, "mqtts": 8883})
    except AddressError as e:
        raise ConfigError(f"--mqtt: not a broker's address: {e}. {hint}") from None
    if parsed.path.strip("/") or parsed.query:
        raise ConfigError(f"--mqtt: not a broker's address: text follows the host. {hint}")
    if any(files.values()) and not parsed.tls:
        raise ConfigError("--mqtt-ca, --mqtt-cert and --mqtt-key need TLS. Use mqtts://.")
    broker = Broker(parsed.host, parsed.port, parsed.tls, parsed.user, parsed.password, **files)
    if parsed.tls:
        _ = broker.context
    return broker


class Mqtt(DurableSink):
    """An output, and an observer of results for the pictures. Everything goes out in its sender's thread.

    facts: of the agent, for its state: asked every ten seconds, and must have `threshold`.
    """

    def __init__(
        self,
        broker: Broker,
        outbox: Outbox,
        what: SendMode,
        *,
        name: str,
        prefix: str,
        cameras: Sequence[str],
        model: Callable[[], ModelId],
        facts: Callable[[], Mapping[str, Any]],
        set_threshold: Callable[[float], None],
        picture_s: float,
        places: Sequence[Zone] = (),
        **options: Any,
    ) -> None:
        """name: of this agent, the same for ever. picture_s: seconds between two pictures of one camera; 0 = none."""
        super().__init__("mqtt", outbox, what, **options)
        self.where = broker.where
        self._broker, self._device, self._base = broker, slug(name), f"{prefix}/{slug(name)}"
        self._parts, self._model, self._facts = slugs(cameras), model, facts
        self._set_threshold = set_threshold
        self._connected = self._broke_off = False
        self._on_their_way: deque[_Sent] = deque()  # the sender's; paho's thread reads it
        self._progress_s = self._deleted_s = 0.0  # monotonic: of the last acknowledgement, and deletion
        self._states: dict[str, dict[str, Any]] = {}
        self._places = places
        self._counts = {
            camera: {p.name: dict.fromkeys(COUNTS[p.kind], 0) for p in places if p.camera in ("", camera)}
            for camera in cameras
        }
        self._pictures: dict[str, Frame] = {}
        self._picture_ns = int(picture_s * 1e9)
        self._picture_due: dict[str, int] = {}
        self._say_all = self._say_state = False
        self._last = 0  # id of the newest message that is on its way
        self._nothing_taken = False  # though the outbox has something: its disk fails, or it was lost
        self._changed = outbox.changed  # one condition for all that the sender waits for

    def write(self, item: Item) -> bool:
        # where nothing moves, what held when it last moved still holds
        if isinstance(item, Result) and not (item.cause and item.cause.code == "no_motion"):
            counts = {name: dict(numbers) for name, numbers in self._counts[item.source].items()}
            self._states[item.source] = state_of(item) | ({"places": counts} if counts else {})
        if isinstance(item, ZoneEvent):
            self._counts[item.source][item.place][item.counts] = item.count
        return super().write(item)

    def observe(self, result: Result, slot: Slot | None) -> None:
        """Called with each result while its frame is valid: now and then one is copied for a picture."""
        if not self._picture_ns or slot is None or slot.frame is None or not self._connected:
            return
        if result.captured_ns >= self._picture_due.get(result.source, 0):
            self._picture_due[result.source] = result.captured_ns + self._picture_ns
            self._pictures[result.source] = slot.frame.copy()

    def _send_all(self) -> None:
        flaps, backoff = 0, Backoff(BACKOFF_S, BACKOFF_MAX_S)
        while not self._closing.is_set():
            client = self._client()
            try:
                client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            except (OSError, ValueError) as e:
                self.failed = f"{self.where}: {_why(e)}"
            else:
                began = time.monotonic()
                client.loop_start()
                self._talk(client)
                client.loop_stop()
                self.outbox.release(self.name)
                flaps = flaps + 1 if time.monotonic() - began < 2 * STATE_S else 0
                if not self._closing.is_set():
                    hint = f"; is another agent called --name {self._device}?" if flaps >= FLAPS else ""
                    self.failed = f"{self.where}: {self._reason or 'the connection broke off'}{hint}"
                    if not flaps:
                        backoff.reset()
            self._closing.wait(backoff.next_s())

    def _talk(self, client: paho.Client) -> None:
        """One connection, from its opening to its end."""
        self._last, self._nothing_taken = 0, False
        states: dict[str, tuple[dict[str, Any], float]] = {}
        agent_due = 0.0
        until: float | None = None
        opened = time.monotonic()
        while not self._broke_off:
            now = time.monotonic()
            if self._closing.is_set():
                until = until or now + FLUSH_S
                if now >= until or not self._connected or not (self._on_their_way or self.outbox.waiting(self.name)):
                    break
            if not self._connected:
                if now - opened > CONNECT_S:
                    self._reason = "it takes the connection and says nothing"
                    break
                self._wait(0.2)
                continue
            if self._say_all:
                self._say_all, self._say_state = False, True
                states.clear()
                self._introduce(client)
            self._delete_arrived(now, at_once=self._closing.is_set())
            if self._on_their_way and now - self._progress_s > ACKNOWLEDGED_S:
                self._end(f"it has acknowledged nothing for {ACKNOWLEDGED_S:g} s")
                break
            if now >= agent_due or self._say_state:
                agent_due, self._say_state = now + AGENT_S, False
                self._publish(client, "state", {**self._facts(), "waiting": self.outbox.waiting(self.name)})
            if not client.want_write():  # a link that is slow gets the newest state and image, not all of them
                for camera, state in list(self._states.items()):
                    before, at = states.get(camera, ({}, 0.0))
                    if (state != before and now - at >= STATE_S) or now - at >= AGENT_S:
                        states[camera] = state, now
                        self._publish(client, f"{self._parts[camera]}/state", state)
                for camera in list(self._pictures):
                    if jpeg := _jpeg(self._pictures.pop(camera)):
                        client.publish(f"{self._base}/{self._parts[camera]}/picture", jpeg, retain=True)
            self._publish_waiting(client, now)
            self._wait(0.2)
        self._delete_arrived(time.monotonic(), at_once=True)
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it may break off at this very moment
            if self._connected:
                client.publish(f"{self._base}/available", "offline", qos=1, retain=True).wait_for_publish(1.0)
            client.disconnect()

    def _delete_arrived(self, now: float, at_once: bool = False) -> None:
        """Delete what the broker has acknowledged: half a window, or what there is each DELETE_S."""
        arrived = {sent.message.id for sent in self._on_their_way if sent.info.is_published()}
        if not arrived or (len(arrived) < HALF and now - self._deleted_s < DELETE_S and not at_once):
            return
        self._deleted_s = self._progress_s = now
        self.outbox.delete(self.name, sorted(arrived))
        with self._changed:
            self._on_their_way = deque(sent for sent in self._on_their_way if sent.message.id not in arrived)
        self.sent += len(arrived)

    def _publish_waiting(self, client: paho.Client, now: float) -> None:
        """As many messages as the window has room for."""
        if not self._more:
            return
        messages = self.outbox.take(self.name, self._last, WINDOW - len(self._on_their_way), self._room)
        self._nothing_taken = not messages
        for message in messages:
            info = client.publish(self._topic(message), payload(message), qos=1)
            if info.rc != paho.MQTT_ERR_SUCCESS:  # it is gone, or a number of 65,535 messages ago still waits
                self._end(f"a message cannot be sent: {paho.error_string(info.rc).rstrip('.').lower()}")
                return
            if not self._on_their_way:
                self._progress_s = now
            with self._changed:
                self._on_their_way.append(_Sent(message, info))
            self._last = message.id

    def _wait(self, seconds: float) -> None:
        """For something to do: the connection changes, much has arrived, or something is stored that could go."""
        with self._changed:
            more = self._connected and self._more and not self._nothing_taken
            if not (self._broke_off or self._say_all or self._say_state or more or self._much_arrived):
                self._changed.wait(seconds)

    @property
    def _more(self) -> bool:
        """Whether there is a message to be sent, and room for it on the way."""
        waiting = self.outbox.newest(self.name) > self._last and self.outbox.waiting(self.name) > 0
        return waiting and len(self._on_their_way) < WINDOW and self._room > 0

    @property
    def _room(self) -> int:
        return WINDOW_BYTES - sum(len(sent.message.body) for sent in self._on_their_way)

    @property
    def _much_arrived(self) -> bool:
        """With the lock held. The broker acknowledges in order: what it does otherwise is seen a little later."""
        return len(self._on_their_way) >= HALF and self._on_their_way[HALF - 1].info.is_published()

    def _client(self) -> paho.Client:
        """A new one for each connection: an old one would send again what it thinks was lost, out of order."""
        self._connected = self._broke_off = False
        self._reason = ""
        self._on_their_way = deque()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"sightline-{self._device}", reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(WINDOW)
        client.will_set(f"{self._base}/available", "offline", qos=1, retain=True)
        if self._broker.user:
            client.username_pw_set(self._broker.user, self._broker.password)
        if self._broker.tls:
            client.tls_set_context(self._broker.context)

        def on_connect(client: paho.Client, _: object, __: object, code: Any, ___: object) -> None:
            if code.is_failure:
                self._end(f"refused: {str(code).lower()}")
                return
            client.subscribe([(f"{self._base}/threshold/set", 1), (STATUS, 1)])
            self.failed = None
            with self._changed:
                self._connected = self._say_all = True
                self._changed.notify_all()

        def on_publish(*_: object) -> None:
            with self._changed:
                if self._much_arrived:
                    self._changed.notify_all()

        client.on_connect, client.on_publish = on_connect, on_publish
        client.on_disconnect = lambda _, __, ___, code, ____: self._end("" if code.value < 128 else str(code).lower())
        client.on_message = lambda _, __, message: self._command(message.topic, bytes(message.payload), message.retain)
        return client

    def _end(self, reason: str) -> None:
        with self._changed:
            self._reason = self._reason or reason
            self._connected, self._broke_off = False, True
            self._changed.notify_all()

    def _command(self, topic: str, data: bytes, retained: bool) -> None:
        """From the closed list, of somebody who is there now: a retained command is of a time long ago."""
        if topic == STATUS and data == b"online" and not retained:
            with self._changed:
                self._say_all = True
                self._changed.notify_all()
        if topic == f"{self._base}/threshold/set" and not retained:
            with contextlib.suppress(ValueError):
                value = float(data[:20])
                if 0 <= value <= 1:
                    self._set_threshold(value)
            with self._changed:  # the state says what holds now, also after a wrong one
                self._say_state = True
                self._changed.notify_all()

    def _introduce(self, client: paho.Client) -> None:
        document = discovery(self._device, self._base, self._parts, self._model(), self._places)
        client.publish(discovery_topic(self._device), json.dumps(document), qos=1, retain=True)
        client.publish(f"{self._base}/available", "online", qos=1, retain=True)

    def _publish(self, client: paho.Client, topic: str, value: Mapping[str, Any]) -> None:
        client.publish(f"{self._base}/{topic}", json.dumps(value), retain=True)

    def _topic(self, message: Message) -> str:
        if message.gap:
            return f"{self._base}/gap"
        kind, _, camera = message.topic.partition("/")
        return f"{self._base}/{self._parts.get(camera) or slug(camera)}/{kind}"


def state_of(result: Result) -> dict[str, Any]:
    """What is true of a camera now. seen: whether the model looks. count, counts: of what it sees, in all and by label.
    score: of the best, in percent."""
    best = result.predictions[0] if result.predictions else None
    counts: dict[str, int] = {}
    # of a classification the best is what is there; of a detection each box is
    for prediction in result.predictions if isinstance(best, Detection | Pose) else result.predictions[:1]:
        counts[prediction.label] = counts.get(prediction.label, 0) + 1
    return {
        "seen": result.cause is None,
        "cause": result.cause.text if result.cause else None,
        "label": best.label if best else None,
        "score": round(100 * best.score, 1) if best else None,
        "count": sum(counts.values()),
        "counts": counts,
    }


def _jpeg(frame: Frame) -> bytes:
    """At most PICTURE_WIDTH wide and four times as tall. Empty for an image that cannot be one."""
    height, width = frame.shape[:2]
    scale = min(1.0, PICTURE_WIDTH / width, 4 * PICTURE_WIDTH / height)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    try:
        if scale < 1:
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
    except cv2.error:
        return b""


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not one that is trusted ({error.verify_message}); --mqtt-ca names the one that is"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason or error}); does this port speak it?"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:g} s"
    return getattr(error, "strerror", None) or str(error)
