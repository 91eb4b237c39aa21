"""Which events have begun and have not ended, in a small file: an agent that was killed ends them at its next start."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.rules import Event
from edge.sinks import Sink
from sightline.files import write_file
from sightline.predictions import ModelId

if TYPE_CHECKING:
    from edge.wanted import Item


class OpenEvents(Sink):
    """A sink of events, which writes only when one begins or ends."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__("open events", **options)
        self._path = path
        self._open: dict[str, Event] = {}

    def left(self, at: str) -> list[Event]:
        """The ends of the events that an earlier agent left open. at: UTC, ISO 8601, of now.

        They stay in the file until an event of this agent begins or ends, or it stops: who is killed before its outputs
        have them tells them again, with the same keys.
        """
        try:
            documents = json.loads(self._path.read_bytes())
            events = [Event(**{**document, "model": ModelId(**document["model"])}) for document in documents]
        except (OSError, ValueError, TypeError, KeyError):  # none, or of another version
            return []
        return [replace(event, state="end", score=None, at=at, ended_by="stopped") for event in events]

    def put(self, item: Item) -> None:
        if isinstance(item, Event) and item.state != "update":
            super().put(item)

    def write(self, item: Item) -> bool:
        assert isinstance(item, Event)
        if item.state == "new":
            self._open[item.id] = item
        else:
            self._open.pop(item.id, None)
        write_file(self._path, json.dumps([asdict(event) for event in self._open.values()]).encode())
        return True

    def finish(self) -> None:
        if not self._open:
            self._path.unlink(missing_ok=True)
