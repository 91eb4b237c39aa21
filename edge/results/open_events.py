"""Which events have begun and have not ended, in a small file: an agent that was killed ends them at its next start."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.results.event_rules import Event
from edge.results.sink import Sink
from sightline.documents import parse_json, read_bytes, utf8
from sightline.errors import InputError, SightlineError
from sightline.files import LARGEST_DOCUMENT, write_file
from sightline.predictions import ModelId

if TYPE_CHECKING:
    from edge.results.sink import Item

NUMBERS = ("score", "best", "seconds")  # of an event; all else of it is text


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
            documents = parse_json(read_bytes(self._path, InputError, LARGEST_DOCUMENT))
            events = [_event(document) for document in documents]
        except (SightlineError, ValueError, TypeError, KeyError, OverflowError):
            return []  # there is no file, or it is damaged, or another version wrote it
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
            with contextlib.suppress(OSError):  # left there, it tells ends again, with the same keys
                self._path.unlink()


def _event(document: dict[str, Any]) -> Event:
    """Raises ValueError, TypeError, KeyError or OverflowError for what `write` has not written: the outputs would pass
    it on."""
    event = Event(**{**document, "model": ModelId(**document["model"])})
    values = {**vars(event), **vars(event.model)}
    del values["model"]
    for name, value in values.items():
        if name in NUMBERS:
            right = (value is None and name == "score") or math.isfinite(value)
        else:
            right = isinstance(value, str) and utf8(value)
        if not right:
            raise ValueError(f"{name} is none of an event")
    return event
