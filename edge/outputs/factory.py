"""The outputs of a run, made from its options, and the events that go to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.addresses import expand, expand_text
from edge.options import BrokerOptions, FileOptions, OutputOptions, SendMode, WebhookOptions
from edge.outputs.event_dispatcher import EventDispatcher
from edge.outputs.event_log import Log
from edge.outputs.file_sinks import JsonLines, Rotation
from edge.outputs.snapshots import Snapshots
from edge.results.event_rules import parse_rule
from edge.results.open_events import OpenEvents
from edge.results.publisher import Observer
from edge.results.sink import Sink
from edge.results.zones import Zone, parse_zone
from sightline.directories import program_folder
from sightline.errors import ConfigError
from sightline.predictions import ModelId
from sightline.text import slug
from sightline.timestamps import utc_now

if TYPE_CHECKING:
    from edge.outputs.outbox import Outbox

FILE_MB = 100  # of a camera's file, which nobody ends, before it is rotated


@dataclass(frozen=True)
class Agent:
    """What outputs need of the agent.

    name: in topics and messages.
    cameras: their names.
    labels: of the model at the start.
    model: gives the model that runs now.
    facts: gives the agent's state, see `edge.app.state.AgentFacts`.
    set_threshold: changes the lowest score of results.
    """

    name: str
    cameras: Sequence[str]
    labels: Sequence[str]
    model: Callable[[], ModelId]
    facts: Callable[[], Mapping[str, Any]]
    set_threshold: Callable[[float], None]


class Outputs:
    """The outputs of a run.

    sinks: to be started, fed and closed.
    observers: of results.
    zones: zones and lines.
    outbox: of the messages that wait; None where no output promises delivery.
    """

    def __init__(
        self,
        options: OutputOptions,
        agent: Agent,
        log: Log,
        environment: Mapping[str, str],
        *,
        track: bool,
        lossless: bool,
        stopping: threading.Event,
    ) -> None:
        """environment: values of `${NAME}`. track: whether boxes keep a number. Raises ConfigError."""
        self.sinks: list[Sink] = []
        self.observers: list[Observer] = []
        self.outbox: Outbox | None = None
        self._events: EventDispatcher | None = None
        self._snapshots: Snapshots | None = None
        self._agent, self._environment = agent, environment
        self._lossless, self._stopping = lossless, stopping
        rules = [parse_rule(text, agent.labels, agent.cameras) for text in options.events.rules]
        self.zones = [parse_zone("zone", text, agent.cameras) for text in options.events.zones]
        self.zones += [parse_zone("line", text, agent.cameras) for text in options.events.lines]
        _check_events(options, self.zones, track)
        send: SendMode = options.send or ("events" if options.has_events else "changes")
        if options.file.output:
            self.sinks.append(self._file(options.file, "results" if send == "changes" and not options.send else send))
        if options.mqtt.mqtt or options.webhook.webhook:
            from edge.outputs.outbox import Outbox

            # a user without a home folder names the file, and needs no folder
            path = options.outbox or program_folder("state", "--outbox", subfolder=slug(agent.name)) / "outbox.sqlite"
            self.outbox = Outbox(path, options.outbox_mb * 1_000_000)
            if options.mqtt.mqtt:
                self._add_mqtt(options.mqtt, options.mqtt.mqtt, self.outbox, send)
            if options.webhook.webhook:
                self._add_webhook(options.webhook, options.webhook.webhook, self.outbox, send)
            if send == "events" and not lossless:
                self._add_open_events(self.outbox)
        if options.has_events:
            folder = options.events.snapshots
            self._snapshots = Snapshots(folder, options.events.snapshots_mb * 1_000_000) if folder else None
            self._events = EventDispatcher(rules, self.zones, agent.cameras, self.sinks, self._snapshots, log)
            self.observers.append(self._events.observe)

    def stop(self, at: str) -> None:
        """End the open events; called before the sinks close. at: UTC, ISO 8601."""
        if self._events:
            self._events.stop(at)

    def close(self) -> None:
        """Called after the sinks are closed."""
        if self._snapshots:
            self._snapshots.close()
        if self.outbox:
            self.outbox.close()

    def _file(self, options: FileOptions, send: SendMode) -> Sink:
        default_mb = 0 if self._lossless else FILE_MB
        mb = default_mb if options.rotate_mb is None else options.rotate_mb
        rotation = Rotation(mb * 1_000_000, options.rotate_days, options.rotate_keep)
        return JsonLines(options.output, mode=send, rotation=rotation, lossless=self._lossless, stopping=self._stopping)

    def _add_mqtt(self, options: BrokerOptions, address: str, outbox: Outbox, send: SendMode) -> None:
        from edge.outputs.mqtt import Mqtt  # 60 ms, which others need not pay
        from edge.outputs.mqtt_broker import parse_broker
        from edge.outputs.mqtt_options import MqttOptions

        agent = self._agent
        files = {"ca": options.mqtt_ca, "certificate": options.mqtt_cert, "key": options.mqtt_key}
        mqtt = Mqtt(
            parse_broker(expand(address, self._environment, "--mqtt"), **files),
            outbox,
            send,
            MqttOptions(
                name=agent.name,
                prefix=_prefix(options.mqtt_prefix),
                cameras=agent.cameras,
                model=agent.model,
                facts=agent.facts,
                set_threshold=agent.set_threshold,
                image_s=options.mqtt_images,
                zones=self.zones,
            ),
            lossless=self._lossless,
            stopping=self._stopping,
        )
        self.sinks.append(mqtt)
        self.observers.append(mqtt.observe)

    def _add_webhook(self, options: WebhookOptions, address: str, outbox: Outbox, send: SendMode) -> None:
        from edge.outputs.webhook import Webhook
        from edge.outputs.webhook_client import parse_headers, parse_receiver

        lines = (expand_text(line, self._environment, "--webhook-header") for line in options.webhook_header)
        headers = parse_headers(tuple(lines))
        receiver = parse_receiver(expand(address, self._environment, "--webhook"), headers)
        self.sinks.append(Webhook(receiver, outbox, send, lossless=self._lossless, stopping=self._stopping))

    def _add_open_events(self, outbox: Outbox) -> None:
        """Ends the events that an earlier agent left open, and remembers those of this one."""
        path = outbox.path.with_name(f"{outbox.path.name}.events")
        open_events = OpenEvents(path, lossless=self._lossless, stopping=self._stopping)
        for event in open_events.unfinished(utc_now()):
            for sink in self.sinks:
                sink.put(event)
        self.sinks.append(open_events)


def _check_events(options: OutputOptions, zones: Sequence[Zone], track: bool) -> None:
    """Raises ConfigError for options of events that contradict each other."""
    if zones and not track:
        raise ConfigError("--zone, --line: need --track. They count objects that keep a number from frame to frame.")
    if options.send == "events" and not options.has_events:
        raise ConfigError("--send events: needs an event. Add --on, --zone or --line.")
    if len({zone.name for zone in zones}) < len(zones):
        raise ConfigError("--zone, --line: two of them have the same name. Give each its own.")
    if options.has_events and not options.has_outputs:
        raise ConfigError("--on, --zone, --line: need an output. Add --output, --mqtt or --webhook.")


def default_name() -> str:
    return slug(socket.gethostname().partition(".")[0])


def _prefix(text: str) -> str:
    if not text.strip("/") or any(c in text for c in "+#\0$") or not text.isprintable():
        raise ConfigError(f"--mqtt-prefix {text!r}: must be a topic without '+', '#' and '$'.")
    return text.strip("/")
