"""MQTT: durable messages through the outbox, current states, and Home Assistant. Only the mqtt modules know paho-mqtt.

Topics, below PREFIX/NAME:
  available         online or offline; the broker publishes offline when the agent dies
  state             of the agent
  CAMERA/state      of a camera
  CAMERA/image      a small JPEG
  CAMERA/result, CAMERA/event, gap    durable messages, QoS 1
  threshold/set     the one command: a number from 0 to 1
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.capture.mailbox import Slot
from edge.options import SendMode
from edge.outputs.durable_sink import DurableSink, payload
from edge.outputs.homeassistant import STATUS, discovery, discovery_topic
from edge.outputs.mqtt_broker import Broker, failure_text
from edge.outputs.mqtt_options import TIMING, MqttOptions, MqttTiming
from edge.outputs.mqtt_state import CameraStates, small_jpeg
from edge.outputs.mqtt_window import HALF, WINDOW, Window
from edge.outputs.outbox import Outbox
from edge.outputs.outbox_file import Message
from sightline.backoff import Backoff
from sightline.predictions import Result
from sightline.preprocess import Frame
from sightline.text import slug, slugs

if TYPE_CHECKING:
    from edge.results.sink import Item

KEEPALIVE_S = 15
AGENT_S = 10.0  # between two states of the agent, and longest time between two states of a camera
POLL_S = 0.2
FLAPS = 5  # short connections in a row that suggest a second agent of the same name


class Mqtt(DurableSink):
    """An output, and an observer of results for the images.

    Threads: the sink's thread writes camera states and the outbox. The publisher's thread copies frames into `_images`,
    one per camera; the sender pops them. The sender alone publishes, and alone changes the window in flight. paho's
    network thread runs the callbacks. The connection's flags (`_connected`, `_broken`, `_announce_due`, `_state_due`,
    `_reason`) are set with the outbox's lock held, which the sender waits for; single bools may be read without it.
    """

    def __init__(
        self,
        broker: Broker,
        outbox: Outbox,
        mode: SendMode,
        options: MqttOptions,
        *,
        lossless: bool,
        stopping: threading.Event | None = None,
        timing: MqttTiming = TIMING,
    ) -> None:
        super().__init__("mqtt", outbox, mode, lossless=lossless, stopping=stopping, flush_s=timing.flush_s)
        self.where = broker.where
        self._broker, self._options, self._timing = broker, options, timing
        self._device = slug(options.name)
        self._base = f"{options.prefix}/{self._device}"
        self._parts = slugs(options.cameras)  # by camera: its part of a topic
        self._connected = self._broken = False
        self._announce_due = self._state_due = False
        self._reason = ""  # why the connection ended
        self._window = Window()
        self._progress_s = self._deleted_s = 0.0  # monotonic: of the last acknowledgement, and the last deletion
        self._cameras = CameraStates(options.cameras, options.zones)
        self._published: dict[str, tuple[dict[str, Any], float]] = {}  # by camera: its last state, and when
        self._agent_due = 0.0
        self._images: dict[str, Frame] = {}
        self._image_due: dict[str, int] = {}
        self._last = 0  # id of the newest message in flight
        self._outbox_unreadable = False  # messages wait, and none could be taken: the disk fails or is gone
        self._changed = outbox.changed  # one condition for all that the sender waits for

    def write(self, item: Item) -> bool:
        self._cameras.update(item)
        return super().write(item)

    def observe(self, result: Result, slot: Slot | None) -> None:
        """Called with each result while its frame is valid. Copies a frame when an image is due."""
        if not self._options.image_s or slot is None or slot.frame is None or not self._connected:
            return
        if result.captured_ns >= self._image_due.get(result.source, 0):
            self._image_due[result.source] = result.captured_ns + int(self._options.image_s * 1e9)
            self._images[result.source] = slot.frame.copy()

    def _send_all(self) -> None:
        flaps, backoff = 0, Backoff(self._timing.backoff_s, self._timing.backoff_max_s)
        while not self._closing.is_set():
            client = self._client()
            try:
                client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
            except (OSError, ValueError) as e:
                self.failed = f"{self.where}: {failure_text(e, self._timing.connect_s)}"
            else:
                began = time.monotonic()
                client.loop_start()
                self._talk(client)
                client.loop_stop()
                self.outbox.release(self.name)
                flaps = flaps + 1 if time.monotonic() - began < 2 * self._timing.state_s else 0
                if not self._closing.is_set():
                    hint = f"; does another agent use --name {self._device}?" if flaps >= FLAPS else ""
                    self.failed = f"{self.where}: {self._reason or 'the connection broke'}{hint}"
                    if not flaps:
                        backoff.reset()
            self._closing.wait(backoff.next_s())

    def _talk(self, client: paho.Client) -> None:
        """One connection, from its opening to its end."""
        self._last, self._outbox_unreadable = 0, False
        self._published, self._agent_due = {}, 0.0
        until: float | None = None
        opened = time.monotonic()
        while not self._broken:
            now = time.monotonic()
            if self._closing.is_set():
                until = until or now + self._timing.flush_s
                if now >= until or not self._connected or not (self._window or self.outbox.waiting(self.name)):
                    break
            if self._connected:
                self._turn(client, now)
            elif now - opened > self._timing.connect_s:
                self._reason = "it accepts the connection and does not answer"
                break
            if not self._broken:
                self._wait(POLL_S)
        self._delete_acknowledged(time.monotonic(), at_once=True)
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it may break at this very moment
            if self._connected:
                client.publish(f"{self._base}/available", "offline", qos=1, retain=True).wait_for_publish(1.0)
            client.disconnect()

    def _turn(self, client: paho.Client, now: float) -> None:
        """Do what is due on an open connection."""
        if self._announce_due:
            self._announce_due, self._state_due = False, True
            self._published.clear()
            self._announce(client)
        self._delete_acknowledged(now, at_once=self._closing.is_set())
        if self._window and now - self._progress_s > self._timing.acknowledge_s:
            self._end(f"it has acknowledged nothing for {self._timing.acknowledge_s:g} s")
            return
        if now >= self._agent_due or self._state_due:
            self._agent_due, self._state_due = now + AGENT_S, False
            self._publish(client, "state", {**self._options.facts(), "waiting": self.outbox.waiting(self.name)})
        if not client.want_write():  # a slow link gets the newest state and image, not all of them
            self._publish_states(client, now)
        self._publish_waiting(client, now)

    def _publish_states(self, client: paho.Client, now: float) -> None:
        for camera, state in list(self._cameras.states.items()):
            before, at = self._published.get(camera, ({}, 0.0))
            if (state != before and now - at >= self._timing.state_s) or now - at >= AGENT_S:
                self._published[camera] = state, now
                self._publish(client, f"{self._parts[camera]}/state", state)
        for camera in list(self._images):
            if jpeg := small_jpeg(self._images.pop(camera)):
                client.publish(f"{self._base}/{self._parts[camera]}/image", jpeg, retain=True)

    def _delete_acknowledged(self, now: float, at_once: bool = False) -> None:
        """Delete what the broker has acknowledged: half a window, or what there is after each `delete_s`."""
        ids = self._window.acknowledged
        if not ids or (len(ids) < HALF and now - self._deleted_s < self._timing.delete_s and not at_once):
            return
        self._deleted_s = self._progress_s = now
        self.outbox.delete(self.name, sorted(ids))
        with self._changed:
            self._window.remove(ids)
        self.sent += len(ids)

    def _publish_waiting(self, client: paho.Client, now: float) -> None:
        """Publish as many messages as the window has room for."""
        if not self._can_publish:
            return
        messages = self.outbox.take(self.name, self._last, self._window.room, self._window.room_bytes)
        self._outbox_unreadable = not messages
        for message in messages:
            info = client.publish(self._topic(message), payload(message), qos=1)
            if info.rc != paho.MQTT_ERR_SUCCESS:  # disconnected, or the number of 65,535 messages ago is still in use
                self._end(f"a message cannot be sent: {paho.error_string(info.rc).rstrip('.').lower()}")
                return
            if not self._window:
                self._progress_s = now
            with self._changed:
                self._window.add(message, info)
            self._last = message.id

    @property
    def _can_publish(self) -> bool:
        """Whether a message waits, and the window has room for it."""
        waiting = self.outbox.newest(self.name) > self._last and self.outbox.waiting(self.name) > 0
        return waiting and self._window.room > 0 and self._window.room_bytes > 0

    def _wait(self, seconds: float) -> None:
        """Wait until the connection changes, half a window is acknowledged, or a message can be published."""
        with self._changed:
            can_publish = self._connected and self._can_publish and not self._outbox_unreadable
            due = self._connected and (self._announce_due or self._state_due)
            if not (self._broken or due or can_publish or self._window.half_acknowledged):
                self._changed.wait(seconds)

    def _client(self) -> paho.Client:
        """A new client for each connection: an old one would resend what it believes lost, out of order."""
        self._connected = self._broken = False
        self._reason = ""
        self._window = Window()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"sightline-{self._device}", reconnect_on_failure=False
        )
        client.connect_timeout = self._timing.connect_s
        client.max_inflight_messages_set(WINDOW)
        client.will_set(f"{self._base}/available", "offline", qos=1, retain=True)
        if self._broker.user:
            client.username_pw_set(self._broker.user, self._broker.password)
        if self._broker.tls:
            client.tls_set_context(self._broker.context)
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        client.on_disconnect = lambda _, __, ___, code, ____: self._end("" if code.value < 128 else str(code).lower())
        client.on_message = lambda _, __, message: self._command(message.topic, bytes(message.payload), message.retain)
        return client

    def _on_connect(self, client: paho.Client, _: object, __: object, code: Any, ___: object) -> None:
        if code.is_failure:
            self._end(f"refused: {str(code).lower()}")
            return
        client.subscribe([(f"{self._base}/threshold/set", 1), (STATUS, 1)])
        self.failed = None
        with self._changed:
            self._connected = self._announce_due = True
            self._changed.notify_all()

    def _on_publish(self, *_: object) -> None:
        with self._changed:
            if self._window.half_acknowledged:
                self._changed.notify_all()

    def _end(self, reason: str) -> None:
        with self._changed:
            self._reason = self._reason or reason
            self._connected, self._broken = False, True
            self._changed.notify_all()

    def _command(self, topic: str, data: bytes, retained: bool) -> None:
        """One of two known commands. A retained one is ignored: it may be from long ago."""
        if topic == STATUS and data == b"online" and not retained:
            with self._changed:
                self._announce_due = True
                self._changed.notify_all()
        if topic == f"{self._base}/threshold/set" and not retained:
            with contextlib.suppress(ValueError):
                value = float(data[:20])
                if 0 <= value <= 1:
                    self._options.set_threshold(value)
            with self._changed:  # publish the threshold in use, also after a wrong command
                self._state_due = True
                self._changed.notify_all()

    def _announce(self, client: paho.Client) -> None:
        document = discovery(self._device, self._base, self._parts, self._options.model(), self._options.zones)
        client.publish(discovery_topic(self._device), json.dumps(document), qos=1, retain=True)
        client.publish(f"{self._base}/available", "online", qos=1, retain=True)

    def _publish(self, client: paho.Client, topic: str, value: Mapping[str, Any]) -> None:
        client.publish(f"{self._base}/{topic}", json.dumps(value), retain=True)

    def _topic(self, message: Message) -> str:
        if message.gap:
            return f"{self._base}/gap"
        kind, _, camera = message.topic.partition("/")
        return f"{self._base}/{self._parts.get(camera) or slug(camera)}/{kind}"
