"""Selects what an output sends: every result, changed results, or events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.options import SendMode
from sightline.predictions import Detection, Pose, Result

if TYPE_CHECKING:
    from edge.results.sink import Item

CHANGES_S = 1.0  # minimum time between two changes of one camera


class SendFilter:
    """Called with each item; returns whether the output sends it. Only one thread may use an object.

    results: every result.
    changes: results whose cause or labels differ from those of the last one sent; at most one a second and camera.
    events: every event.
    """

    def __init__(self, mode: SendMode) -> None:
        self.mode = mode
        self._last: dict[str, tuple[object, int]] = {}  # by camera: content and moment of the last change

    def __call__(self, item: Item) -> bool:
        if not isinstance(item, Result):
            return self.mode == "events"
        if self.mode != "changes":
            return self.mode == "results"
        labels = tuple(sorted(p.label for p in item.predictions if isinstance(p, Detection | Pose)))
        best = item.predictions[0].label if item.predictions and not labels else ""
        content = (item.cause.code if item.cause else "", best, labels)
        before, at = self._last.get(item.source, (None, 0))
        if content == before or (before is not None and item.moment - at < CHANGES_S * 1e9):
            return False
        self._last[item.source] = content, item.moment
        return True
