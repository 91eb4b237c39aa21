"""Events of rules, zones and lines, sent to the sinks."""

from __future__ import annotations

from collections.abc import Sequence

from edge.capture.mailbox import Slot
from edge.outputs.event_log import Log
from edge.outputs.snapshots import Snapshots
from edge.results.event_rules import Event, EventTracker, Rule
from edge.results.sink import Sink
from edge.results.zones import Zone, ZoneCounter
from sightline.predictions import Result


class EventDispatcher:
    """An observer of results that sends the events of rules, zones and lines to the sinks.

    The results' thread calls `observe`. The run's thread calls `stop`, after the results' thread has ended.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        zones: Sequence[Zone],
        cameras: Sequence[str],
        sinks: Sequence[Sink],
        snapshots: Snapshots | None,
        log: Log,
    ) -> None:
        self._trackers = {
            camera: [EventTracker(rule) for rule in rules if rule.camera in ("", camera)] for camera in cameras
        }
        self._counters = {
            camera: [ZoneCounter(zone) for zone in zones if zone.camera in ("", camera)] for camera in cameras
        }
        self._sinks, self._snapshots, self._log = sinks, snapshots, log

    def observe(self, result: Result, slot: Slot | None) -> None:
        for tracker in self._trackers[result.source]:
            event = tracker.update(result)
            if event is None:
                continue
            if event.state == "new" and self._snapshots and slot is not None and slot.frame is not None:
                name = self._snapshots.put(slot.frame, result.captured_at, result.source, event.id)
                event = tracker.set_snapshot(name)
            self._send(event)
        for counter in self._counters[result.source]:
            for zone_event in counter.update(result):
                for sink in self._sinks:
                    sink.put(zone_event)

    def stop(self, at: str) -> None:
        """End the open events. at: UTC, ISO 8601."""
        for trackers in self._trackers.values():
            for tracker in trackers:
                if event := tracker.stop(at):
                    self._send(event)

    def _send(self, event: Event) -> None:
        for sink in self._sinks:
            sink.put(event)
        if event.state != "update":
            duration = f" after {event.seconds:.1f} s" if event.state == "end" else ""
            self._log.event(f"event_{event.state}", f"{event.rule}{duration}", camera=event.source, id=event.id)
