"""What changed, as it happens, on stderr: a line a person can read on a terminal, one JSON object a line elsewhere."""

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

AGAIN_S = 30.0  # the same event of the same camera, at most so often
GOOD = ("ok", "no_motion")  # a camera of which nothing moves is a camera that is seen


class Log:
    """Any thread may tell an event. on_terminal: None = find out."""

    def __init__(self, write: Callable[[str], Any] | None = None, *, on_terminal: bool | None = None) -> None:
        self._write = write or (lambda line: print(line, file=sys.stderr, flush=True))
        self._terminal = sys.stderr.isatty() if on_terminal is None else on_terminal
        self._said: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def tell(self, event: str, text: str, *, level: str = "info", camera: str = "", **more: Any) -> None:
        """event: one of a few words, for programs. text: for people. The same event of one camera comes at most every
        30 s, with the number of those that were left out."""
        with self._lock:
            now = time.monotonic()
            before, left_out = self._said.get((event, camera), (-AGAIN_S, 0))
            if now - before < AGAIN_S:
                self._said[event, camera] = before, left_out + 1
                return
            self._said[event, camera] = now, 0
            if self._terminal:
                times = f" ({left_out} more like it before)" if left_out else ""
                line = one_line(f"{time.strftime('%H:%M:%S')} {camera + ': ' if camera else ''}{text}{times}")
            else:
                document = {"time": utc_now(), "level": level, "event": event, "camera": camera or None, "text": text}
                line = json.dumps({**document, **more, **({"left_out": left_out} if left_out else {})})
            self._write(line)


class Events:
    """An observer of results: tells when a live camera is seen, and when it is not any more."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._state: dict[str, tuple[str, float]] = {}  # of each camera: the code, and since when

    def __call__(self, result: Result, slot: Slot | None) -> None:
        code = result.cause.code if result.cause else "ok"
        before, since = self._state.get(result.source, ("opening", time.monotonic()))
        if code == before or code == "unreadable" or (code in GOOD and before in GOOD):
            return
        now = time.monotonic()
        self._state[result.source] = code, now
        if code in GOOD:
            size = f", {result.width}x{result.height}" if result.width else ""
            seen = "seen" if before == "opening" else f"seen again after {now - since:.1f} s"
            self._log.tell("camera_up", seen + size, camera=result.source)
        elif result.cause is not None and code != "opening":
            self._log.tell(
                f"camera_{code}" if code != "camera" else "camera_lost",
                result.cause.text, level="warning", camera=result.source, cause_code=code,
            )  # fmt: skip
