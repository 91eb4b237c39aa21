"""The outputs that the command line names, and the events that go to them."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.capture.mailbox import Slot
from edge.credentials import expand
from edge.outputs.event_log import Log
from edge.outputs.file_sinks import JsonLines, Rotation
from edge.outputs.send_filter import SendMode
from edge.outputs.snapshots import Snapshots
from edge.results.event_rules import Event, EventTracker, Rule, parse_rule
from edge.results.open_events import OpenEvents
from edge.results.publisher import Observer
from edge.results.sink import Sink
from edge.results.zones import Zone, ZoneCounter, parse_zone
from sightline.documents import home
from sightline.errors import ConfigError
from sightline.predictions import ModelId, Result
from sightline.text import slug
from sightline.timestamps import utc_now

if TYPE_CHECKING:
    from edge.outputs.outbox import Outbox

FILE_MB = 100  # of a camera's file, which nobody ends, before it is rotated


@dataclass(frozen=True)
class Agent:
    """What outputs want to know of the agent. labels: of the model. facts: its state; must have `threshold`."""

    name: str
    cameras: Sequence[str]
    labels: Sequence[str]
    model: Callable[[], ModelId]
    facts: Callable[[], Mapping[str, Any]]
    set_threshold: Callable[[float], None]


class Outputs:
    """sinks: to be started, fed and closed. observers: of results. places: zones and lines. outbox: None where nothing
    is promised."""

    def __init__(
        self,
        o: Mapping[str, Any],
        agent: Agent,
        log: Log,
        environment: Mapping[str, str],
        *,
        lossless: bool,
        stopping: threading.Event,
    ) -> None:
        """Raises ConfigError."""
        self.sinks: list[Sink] = []
        self.observers: list[Observer] = []
        self.outbox: Outbox | None = None
        self._events: Events | None = None
        self._snapshots: Snapshots | None = None
        rules = [parse_rule(text, agent.labels, agent.cameras) for text in o["rules"]]
        places = self.places = [parse_zone("zone", text, agent.cameras) for text in o["zones"]]
        places += [parse_zone("line", text, agent.cameras) for text in o["lines"]]
        if places and not o["track"]:
            raise ConfigError("--zone and --line are of things that are followed: --track is needed")
        send: SendMode = o["send"] or ("events" if rules or places else "changes")
        if send == "events" and not (rules or places):
            raise ConfigError("--send events: an --on rule, a --zone or a --line says what an event is")
        if len({place.name for place in places}) < len(places):
            raise ConfigError("--zone, --line: two of them have the same name")
        if (rules or places) and not (o["output"] or o["mqtt"] or o["webhook"]):
            raise ConfigError("--on, --zone, --line: where do events go? --output, --mqtt or --webhook is needed")
        shared: dict[str, Any] = {"lossless": lossless, "stopping": stopping}
        if o["output"]:
            mb = (0 if lossless else FILE_MB) if o["rotate_mb"] is None else o["rotate_mb"]
            rotation = Rotation(mb * 1_000_000, o["rotate_days"], o["rotate_keep"])
            what: SendMode = "results" if send == "changes" and not o["send"] else send
            self.sinks.append(JsonLines(o["output"], what=what, rotation=rotation, **shared))
        if o["mqtt"] or o["webhook"]:
            from edge.outputs.outbox import Outbox

            self.outbox = Outbox(_outbox(o["outbox"], agent.name), o["outbox_mb"] * 1_000_000)
        if self.outbox and o["mqtt"]:
            from edge.outputs.mqtt import Mqtt, parse_broker  # 60 ms, which others need not pay

            files = {"ca": o["mqtt_ca"], "certificate": o["mqtt_cert"], "key": o["mqtt_key"]}
            mqtt = Mqtt(
                parse_broker(expand(o["mqtt"], environment, "--mqtt"), **files),
                self.outbox,
                send,
                name=agent.name,
                prefix=_prefix(o["mqtt_prefix"]),
                cameras=agent.cameras,
                model=agent.model,
                facts=agent.facts,
                set_threshold=agent.set_threshold,
                picture_s=o["mqtt_pictures"],
                places=places,
                **shared,
            )
            self.sinks.append(mqtt)
            self.observers.append(mqtt.observe)
        if self.outbox and o["webhook"]:
            from edge.outputs.webhook import Webhook, parse_headers, parse_receiver

            headers = parse_headers(tuple(_filled(line, environment) for line in o["webhook_header"]))
            receiver = parse_receiver(expand(o["webhook"], environment, "--webhook"), headers)
            self.sinks.append(Webhook(receiver, self.outbox, send, **shared))
        if self.outbox and send == "events" and not lossless:
            kept = OpenEvents(self.outbox.path.with_name(f"{self.outbox.path.name}.events"), **shared)
            for event in kept.left(utc_now()):
                for sink in self.sinks:
                    sink.put(event)
            self.sinks.append(kept)
        if rules or places:
            self._snapshots = Snapshots(o["snapshots"], o["snapshots_mb"] * 1_000_000) if o["snapshots"] else None
            self._events = Events(rules, places, agent.cameras, self.sinks, self._snapshots, log)
            self.observers.append(self._events.observe)

    def stop(self, at: str) -> None:
        """Before the sinks are closed: what lasts, ends."""
        if self._events:
            self._events.stop(at)

    def close(self) -> None:
        """After it."""
        if self._snapshots:
            self._snapshots.close()
        if self.outbox:
            self.outbox.close()


class Events:
    """An observer of results, which tells the sinks what rules, zones and lines find in them."""

    def __init__(
        self,
        rules: Sequence[Rule],
        places: Sequence[Zone],
        cameras: Sequence[str],
        sinks: Sequence[Sink],
        snapshots: Snapshots | None,
        log: Log,
    ) -> None:
        self._watchers = {
            camera: [EventTracker(rule) for rule in rules if rule.camera in ("", camera)] for camera in cameras
        }
        self._counters = {
            camera: [ZoneCounter(place) for place in places if place.camera in ("", camera)] for camera in cameras
        }
        self._sinks, self._snapshots, self._log = sinks, snapshots, log

    def observe(self, result: Result, slot: Slot | None) -> None:
        for watcher in self._watchers[result.source]:
            event = watcher.see(result)
            if event is None:
                continue
            if event.state == "new" and self._snapshots and slot is not None and slot.frame is not None:
                event = watcher.photographed(
                    self._snapshots.keep(slot.frame, result.captured_at, result.source, event.id)
                )
            self._tell(event)
        for counter in self._counters[result.source]:
            for passage in counter.see(result):
                for sink in self._sinks:
                    sink.put(passage)

    def stop(self, at: str) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                if event := watcher.stop(at):
                    self._tell(event)

    def _tell(self, event: Event) -> None:
        for sink in self._sinks:
            sink.put(event)
        if event.state != "update":
            lasted = f" after {event.seconds:.1f} s" if event.state == "end" else ""
            self._log.tell(f"event_{event.state}", f"{event.rule}{lasted}", camera=event.source, id=event.id)


def default_name() -> str:
    return slug(socket.gethostname().partition(".")[0])


def _outbox(path: Path | None, name: str) -> Path:
    if path:
        return path
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    folder = Path(state) if state else home("--outbox") / ".local" / "state" / "sightline" / slug(name)
    return folder / "outbox.sqlite"


def _prefix(text: str) -> str:
    if not text.strip("/") or any(c in text for c in "+#\0$") or not text.isprintable():
        raise ConfigError(f"--mqtt-prefix {text!r}: a topic without +, # and $ is needed")
    return text.strip("/")


def _filled(text: str, environment: Mapping[str, str]) -> str:
    """`${NAME}` replaced. Raises ConfigError, which names it."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise ConfigError(f"--webhook-header: ${{{match[1]}}} is not set; a line {match[1]}=... in --env-file")
        return environment[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
