"""The agent as an iterator, for people who write their own program around a camera.

    from edge import predictions

    with predictions("caps.bundle", "0") as seen:
        for result in seen:
            print(result.predictions[0].label)

Capture and inference go on in threads while the program does its work, as with `sightline run`.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import cv2

from edge import agent
from edge.addresses import expand
from edge.capture.capture import Capture
from edge.capture.mailbox import Inbox, Slot
from edge.capture.sources.factory import make_source
from edge.inference.model import open_model
from edge.results.counters import Counters
from edge.results.publisher import Results
from sightline.bare_model import read_for
from sightline.predictions import Result
from sightline.preprocess import Frame

ROOM = 4  # results that wait for the program


class Predictions:
    """Results of one camera, clip or folder, in order. A camera's oldest are dropped when the program does not take
    them in time, and `missed` counts them; a clip waits.

    frame: uint8 [height, width, 3] in BGR of the result that came last, the program's own copy; None where nobody
    looked. labels: of the model. threshold: lowest score; may be changed at any time.
    """

    def __init__(
        self,
        bundle: str | Path,
        source: str | int,
        *,
        device: str | None = None,
        scheme: str | None = None,
        top: int = 0,
        threshold: float | None = None,
        track: bool = False,
        realtime: bool = False,
        loop: bool = False,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """source: as `sightline run --source` takes it. track: follow a detector's boxes. realtime, loop: of a clip.
        environment: for `${NAME}` in an address. Raises InputError for a bundle or a source that is none,
        InterpreterError where this machine computes other numbers than were measured."""
        read, name, config = read_for(Path(bundle), device)
        cv2.setNumThreads(1)  # the cores are the interpreter's
        found = make_source(expand(str(source), environment), config, realtime=realtime, loop=loop)
        model = open_model(read, config, scheme)
        self.labels = model.manifest.output.labels
        self.frame: Frame | None = None
        self.missed = 0
        self._lossless = not found.live
        self._waiting: deque[tuple[Result, Frame | None]] = deque()
        self._changed = threading.Condition()
        self._stopping, self._over = threading.Event(), False
        self._error: BaseException | None = None
        inbox = Inbox([self._lossless])
        self._camera = Capture(found, inbox.mailboxes[0])
        self._results = Results(
            model, [self._camera], [], Counters(), device=name, latency_budget_ms=config.latency_budget_ms, top=top,
            threshold=threshold, observers=[self._observe], track=track,
        )  # fmt: skip

        def run() -> None:
            try:
                agent.run(model, [self._camera], inbox, self._results, self._stopping, max_age_ms=1000.0)
            except BaseException as e:
                self._error = e
            with self._changed:
                self._over = True
                self._changed.notify_all()

        self._camera.start()
        self._thread = threading.Thread(target=run, name="predictions", daemon=True)
        self._thread.start()

    @property
    def threshold(self) -> float:
        return self._results.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._results.threshold = value

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """Raises what ended the source before its end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            if self._waiting:
                result, self.frame = self._waiting.popleft()
                self._changed.notify_all()
                return result
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """The camera is free afterwards."""
        self._stopping.set()
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()
        self._camera.stop()
        self._thread.join(5)

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _observe(self, result: Result, slot: Slot | None) -> None:
        frame = slot.frame.copy() if slot is not None and slot.frame is not None else None
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: len(self._waiting) < ROOM or self._stopping.is_set())
            elif len(self._waiting) >= ROOM:
                self._waiting.popleft()
                self.missed += 1
            if not self._stopping.is_set():
                self._waiting.append((result, frame))
                self._changed.notify_all()
