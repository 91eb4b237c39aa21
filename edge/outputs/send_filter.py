"""Frames, changes or events: what goes out of an output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sightline.predictions import Detection, Pose, Result

if TYPE_CHECKING:
    from edge.results.sink import Item

SendMode = Literal["results", "changes", "events"]
CHANGES_S = 1.0  # between two changes of one camera, at least


class SendFilter:
    """Which items go out: every result, each event, or the results whose answer is another than before; of those one a
    second and camera, the newest."""

    def __init__(self, what: SendMode) -> None:
        self.what = what
        self._before: dict[str, tuple[object, int]] = {}

    def __call__(self, item: Item) -> bool:
        if not isinstance(item, Result):
            return self.what == "events"
        if self.what != "changes":
            return self.what == "results"
        seen = tuple(sorted(p.label for p in item.predictions if isinstance(p, Detection | Pose)))
        best = item.predictions[0].label if item.predictions and not seen else ""
        answer = (item.cause.code if item.cause else "", best, seen)
        before, at = self._before.get(item.source, (None, 0))
        if answer == before or (before is not None and item.moment - at < CHANGES_S * 1e9):
            return False
        self._before[item.source] = answer, item.moment
        return True
