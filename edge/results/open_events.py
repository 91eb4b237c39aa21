"""The events that have begun and not ended, in a small file: an agent that was killed ends them at its next start."""

from __future__ import annotations

import contextlib
import json
import math
import threading
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

NUMBERS = ("score", "best", "seconds")  # of an event; its other fields are text


class OpenEvents(Sink):
    """A sink of events, which writes its file only when one begins or ends.

    Threads: the sink's thread alone has the open events and writes the file. `unfinished` reads it before the start.
    """

    def __init__(self, path: Path, *, lossless: bool, stopping: threading.Event | None = None) -> None:
        super().__init__("open events", lossless=lossless, stopping=stopping)
        self._path = path
        self._open: dict[str, Event] = {}

    def unfinished(self, at: str) -> list[Event]:
        """The ends of the events that an earlier agent left open. at: the time now, UTC, ISO 8601.

        They stay in the file until an event of this agent begins or ends, or until it stops. An agent that is killed
        before its outputs have these ends reports them again, with the same keys.
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
            with contextlib.suppress(OSError):  # if it stays, the ends are reported again, with the same keys
                self._path.unlink()


def _event(document: dict[str, Any]) -> Event:
    """Raises ValueError, TypeError, KeyError or OverflowError for what `write` has not written. The outputs would
    pass it on."""
    event = Event(**{**document, "model": ModelId(**document["model"])})
    values = {**vars(event), **vars(event.model)}
    del values["model"]
    for name, value in values.items():
        if name in NUMBERS:
            valid = (value is None and name == "score") or math.isfinite(value)
        else:
            valid = isinstance(value, str) and utf8(value)
        if not valid:
            raise ValueError(f"{name} is not a valid value")
    return event
