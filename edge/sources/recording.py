"""A recording that `edge.record` kept, replayed: do the same frames give the same answers?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edge.mailbox import Slot
from edge.sources.source import Kind
from sightline.files import checked_table, read_verified, unseal
from sightline.images import decode_image
from sightline.predictions import Result
from sightline.preprocess import Frame

SCHEMA = 1
DOCUMENT, RESULTS = "record.json", "results.jsonl"


class Recording:
    """A replay of what `Recorder` kept: a source, and an observer that compares."""

    live = False
    kind: Kind = "pictures"
    format = "PNG"

    def __init__(self, folder: Path) -> None:
        """Raises IntegrityError or ModelError for a recording that is not whole."""
        document = unseal(folder / DOCUMENT, "recording", SCHEMA)
        self._files = checked_table(document, str(folder / DOCUMENT))
        self.folder, self.name, self.where = folder, folder.name, str(folder)
        self.options: dict[str, Any] = document["options"]
        self._moments: list[int] = [int(m) for m in document["moments_ns"]]
        lines = read_verified(folder, self._files, RESULTS).splitlines()
        self.expected: list[dict[str, Any]] = [json.loads(line) for line in lines[: document["frames"]]]
        self.compared = self.different = 0
        self.first_difference = ""
        self._given = 0

    def open(self) -> None:
        self._given = 0

    def read(self, buffer: Frame | None) -> Frame | None:
        if self._given == len(self.expected):
            return None
        self._given += 1
        name = f"{self._given - 1:06}.png"
        return decode_image(read_verified(self.folder, self._files, name), name)

    def moment_ns(self, frame_id: int) -> int:
        """When it was captured, on the clock of what was recorded."""
        return self._moments[frame_id]

    def close(self) -> None:
        pass

    def compare(self, result: Result, slot: Slot | None) -> None:
        """Compare a result with the one that was recorded: the predictions' JSON, to the last digit."""
        was, now = self.expected[result.frame_id], result.to_json()
        self.compared += 1
        if was["predictions"] == now["predictions"]:
            return
        self.different += 1
        if not self.first_difference:
            then, today = (", ".join(f"{p['label']} {p['score']}" for p in r["predictions"]) for r in (was, now))
            other = was["model"]["sha256"] != now["model"]["sha256"]
            self.first_difference = (
                f"{result.frame_id:06}.png gives {today or 'nothing'} instead of {then or 'nothing'}"
            )
            self.first_difference += "; another model runs than was recorded" if other else ""

    @property
    def verdict(self) -> str:
        """One line for people."""
        text = f"replayed: {self.compared - self.different} of {self.compared} results are as recorded"
        left = len(self.expected) - self.compared
        text += f", {left} were not run" if left else ""
        return f"{text}; the first that is not: {self.first_difference}" if self.different else text
