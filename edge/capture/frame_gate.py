"""Decides which frames of a live camera get an inference: not too many, not of a frozen camera, not without motion."""

from __future__ import annotations

from edge.capture.motion import FreezeDetector, MotionDetector
from edge.capture.options import CaptureOptions
from edge.capture.sources.base import Source
from sightline.errors import SourceError
from sightline.predictions import Cause
from sightline.preprocess import Frame

NO_MOTION = Cause("no_motion", "nothing moves")
# a stream's image may stand still for this many times `frozen_s`: an H.264 encoder sends no noise below its steps until
# its next key frame, and cameras that save bits send one a minute
KEY_FRAME_FACTOR = 12
MAX_PERIOD_S = 86_400  # of max_fps: one frame a day


class FrozenError(SourceError):
    """The camera repeats one image."""


class FrameGate:
    """The gate of one source. A replay passes whole.

    Only the capture thread of the moment uses it.
    """

    def __init__(self, options: CaptureOptions, source: Source) -> None:
        limited = options.max_fps and source.live
        self._period_ns = int(min(1e9 / options.max_fps, MAX_PERIOD_S * 1e9)) if limited else 0
        self._options = options
        self._due_ns = 0
        self._freeze = FreezeDetector()
        self._motion = MotionDetector(options.motion)

    def reopened(self) -> None:
        """The source was opened again: its next frame is due at once."""
        self._due_ns = 0

    def is_due(self, captured_ns: int) -> bool:
        """Whether `max_fps` allows an inference on a frame captured at this monotonic time."""
        if not self._period_ns:
            return True
        if captured_ns < self._due_ns:
            return False
        # a schedule, not a minimum distance: at 10 of 30 frames a second every third is taken, not every fourth
        self._due_ns = max(self._due_ns or captured_ns, captured_ns - self._period_ns) + self._period_ns
        return True

    def rejection(self, image: Frame, captured_ns: int, source: Source, opened_ns: int) -> Cause | None:
        """Why this image of a live source gets no inference: `frozen` or `no_motion`. None if it gets one.

        image: uint8 [height, width, 3] in the model's size.
        opened_ns: monotonic time when the source was opened.
        Raises FrozenError if the image has not changed for too long since then.
        """
        if not source.live:
            return None
        limit_s = self._options.frozen_s
        if source.kind == "stream" and not source.format.startswith("MJPG"):
            limit_s *= KEY_FRAME_FACTOR
        if limit_s and source.kind in ("camera", "stream"):
            seconds = self._freeze.seconds(image, captured_ns)
            if seconds >= limit_s:
                text = f"{source.name}: frozen, the same image for {seconds:.0f} s"
                if captured_ns - opened_ns >= limit_s * 1e9:
                    raise FrozenError(text)
                # just reopened: the first image may be the last one from before, and the next one a new one
                return Cause("frozen", text)
        if self._options.motion and not self._motion.moved(image, captured_ns):
            return NO_MOTION
        return None
