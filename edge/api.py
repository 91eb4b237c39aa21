"""The agent as an iterator, for programs around a camera.

    from edge import predictions

    with predictions("caps.bundle", "0") as results:
        for result in results:
            print(result.predictions[0].label)

Capture and inference run in threads beside the program, as with `sightline run`.
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
from edge.results.publisher import ResultOptions, Results
from sightline.bare_model import read_for
from sightline.predictions import Result
from sightline.preprocess import Frame

MAX_WAITING = 4  # results that the program has not taken yet
MAX_AGE_MS = 1000.0  # as in agent.yaml
STOP_TIMEOUT_S = 5.0


class Predictions:
    """The results of one camera, clip or folder, in order.

    If the program is too slow for a camera, the oldest waiting results are dropped and counted. A clip waits.

    Threads: the program's thread calls everything public, and alone writes `frame`. The results thread calls
    `_observe`, and alone writes `missed`. `_changed` protects `_waiting` and `_has_ended`, which both use. The loop's
    thread sets `_error` before `_has_ended`, and the program reads it after.

    frame: the last result's frame, uint8 [height, width, 3] in BGR, the program's own copy; None without inference.
    labels: the model's labels.
    missed: number of results dropped because the program was too slow.
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
        """bundle: bundle folder or bare model.
        source: as for `sightline run --source`.
        device: device config; None = the bundle's.
        scheme: variant; None = the one that fits the device.
        top: maximum number of predictions of a result; 0 = the task's own maximum.
        threshold: minimum score; None = the model's own.
        track: give each object of a detector a number that stays the same.
        realtime: play a clip at its own speed, as a camera would.
        loop: start a clip again at its end.
        environment: values of `${NAME}` in an address.
        Raises InputError for an unusable bundle or source, and InterpreterError if this machine computes other outputs
        than the measured ones."""
        opened, name, config = read_for(Path(bundle), device)
        cv2.setNumThreads(1)  # the interpreter needs the cores
        camera_source = make_source(expand(str(source), environment), config, realtime=realtime, loop=loop)
        model = open_model(opened, config, scheme)
        self.labels = model.manifest.output.labels
        self.frame: Frame | None = None
        self.missed = 0
        self._lossless = not camera_source.live
        self._waiting: deque[tuple[Result, Frame | None]] = deque()
        self._changed = threading.Condition()
        self._stopping, self._has_ended = threading.Event(), False
        self._error: BaseException | None = None
        inbox = Inbox([self._lossless])
        self._camera = Capture(camera_source, inbox.mailboxes[0])
        self._results = Results(
            model, [self._camera], [], Counters(),
            ResultOptions(name, config.latency_budget_ms, top=top, threshold=threshold, track=track),
            observers=[self._observe],
        )  # fmt: skip

        def run() -> None:
            try:
                agent.run(model, [self._camera], inbox, self._results, self._stopping, agent.LoopOptions(MAX_AGE_MS))
            except BaseException as e:
                self._error = e
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

        self._camera.start()
        self._thread = threading.Thread(target=run, name="predictions", daemon=True)
        self._thread.start()

    @property
    def threshold(self) -> float:
        """Minimum score. It may be changed at any time."""
        return self._results.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._results.threshold = value

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        """Waits for the next result. Raises the error that ended the source early."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._has_ended)
            if self._waiting:
                result, self.frame = self._waiting.popleft()
                self._changed.notify_all()
                return result
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the threads and release the camera."""
        self._stopping.set()
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()
        self._camera.stop()
        self._thread.join(STOP_TIMEOUT_S)

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _observe(self, result: Result, slot: Slot | None) -> None:
        frame = slot.frame.copy() if slot is not None and slot.frame is not None else None
        with self._changed:
            if self._lossless:
                self._changed.wait_for(lambda: len(self._waiting) < MAX_WAITING or self._stopping.is_set())
            elif len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self.missed += 1
            if not self._stopping.is_set():
                self._waiting.append((result, frame))
                self._changed.notify_all()
