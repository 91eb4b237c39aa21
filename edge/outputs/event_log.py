"""Events on stderr, as they happen: a line of text on a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from edge.capture.mailbox import Slot
from sightline.predictions import Result
from sightline.text import one_line
from sightline.timestamps import utc_now

REPEAT_S = 30.0  # minimum time between two lines of the same event and camera
WORKING = ("ok", "no_motion")  # codes of a camera that works: a still scene is a working camera's


class Log:
    """Writes events to stderr. Any thread may call `event`: a lock guards the table of repeats and the write."""

    def __init__(
        self,
        write: Callable[[str], Any] | None = None,
        *,
        on_terminal: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        write: called with each line; None = print to stderr.
        on_terminal: text instead of JSON; None = ask stderr.
        clock: monotonic seconds.
        """
        self._write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self._terminal = sys.stderr.isatty() if on_terminal is None else on_terminal
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[float, int]] = {}  # by event and camera: when, and repeats since
        self._lock = threading.Lock()

    def event(self, event: str, text: str, *, level: str = "info", camera: str = "", **more: Any) -> None:
        """Write a line. The same event of one camera is written at most every REPEAT_S, with the number of repeats.

        event: one of a few words, for programs.
        text: for people.
        more: other keys of the JSON object.
        """
        with self._lock:
            now = self._clock()
            before, repeats = self._last.get((event, camera), (-REPEAT_S, 0))
            if now - before < REPEAT_S:
                self._last[event, camera] = before, repeats + 1
                return
            self._last[event, camera] = now, 0
            if self._terminal:
                times = f" ({repeats} repeats before this)" if repeats else ""
                line = one_line(f"{time.strftime('%H:%M:%S')} {camera + ': ' if camera else ''}{text}{times}")
            else:
                document = {"time": utc_now(), "level": level, "event": event, "camera": camera or None, "text": text}
                line = json.dumps({**document, **more, **({"repeats": repeats} if repeats else {})})
            self._write(line)


class Events:
    """An observer of results: logs when a camera starts to work, and when it stops. For the publisher's thread."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._state: dict[str, tuple[str, float]] = {}  # by camera: its code, and since when

    def __call__(self, result: Result, slot: Slot | None) -> None:
        code = result.cause.code if result.cause else "ok"
        before, since = self._state.get(result.source, ("opening", self._clock()))
        if code == before or code == "unreadable" or (code in WORKING and before in WORKING):
            return
        now = self._clock()
        self._state[result.source] = code, now
        if code in WORKING:
            size = f", {result.width}x{result.height}" if result.width else ""
            text = "camera is up" if before == "opening" else f"camera is up again after {now - since:.1f} s"
            self._log.event("camera_up", text + size, camera=result.source)
        elif result.cause is not None and code != "opening":
            self._log.event(
                f"camera_{code}" if code != "camera" else "camera_lost",
                result.cause.text, level="warning", camera=result.source, cause_code=code,
            )  # fmt: skip
