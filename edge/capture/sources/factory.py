"""Where frames come from: clips, pictures, cameras, streams and a test pattern. OpenCV's video side is known here only.

A source that is `live` does not wait for anybody: frames that nobody took are lost, and it may come back after a fault.
Any other is a replay: it gives every frame, the same ones each time, and then ends.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge.capture.sources.base import Source
from edge.capture.sources.files import Clip, Pictures
from edge.capture.sources.picamera import PiCamera
from edge.capture.sources.recording import DOCUMENT, Recording
from edge.capture.sources.stream import Stream
from edge.capture.sources.test_pattern import TestPattern
from edge.capture.sources.v4l2 import Camera
from sightline.device import DeviceConfig
from sightline.errors import InputError
from sightline.images import SUFFIXES


def make_source(what: str, config: DeviceConfig, *, realtime: bool = False, loop: bool = False) -> Source:
    """The source that `--source` names; nothing is opened yet. Raises InputError for what is none."""
    try:
        what.encode()
    except UnicodeEncodeError:  # OpenCV crashes on it
        raise InputError(f"{os.fsencode(what)!r}: this name is not UTF-8; rename it") from None
    if what.startswith("test:"):
        return TestPattern(what.removeprefix("test:"))
    if what == "picamera" or what.startswith("picamera:"):
        return PiCamera(what, config)
    if (what.isascii() and what.isdecimal()) or what.startswith("/dev/"):
        return Camera(what, config)
    if "://" in what:
        return Stream(what)
    path = Path(what)
    if (path / DOCUMENT).is_file():
        return Recording(path)
    if (what and path.is_dir()) or (path.is_file() and path.suffix.lower() in SUFFIXES):
        return Pictures(path)
    if path.is_file():
        return Clip(path, realtime=realtime, loop=loop)
    raise InputError(
        f"{what or 'an empty text'}: no such source; it may be a video file, a picture or a folder of them, "
        "a camera (0, /dev/video0 or picamera), an address (rtsp://...) or test:"
    )


def moment_ns(source: Source, frame_id: int) -> int:
    """When a frame of a replay was, on a clock of its own; 0 for a camera, whose clock is this machine's."""
    if isinstance(source, Clip) and not source.live:
        return source.moment_ns(frame_id)
    return source.moment_ns(frame_id) if isinstance(source, Recording) else 0


def make_names_unique(sources: Sequence[Source]) -> None:
    """Gives sources of the same name a number each: a result says only by the name where it comes from."""
    count = Counter(source.name for source in sources)
    seen: Counter[str] = Counter()
    for source in sources:
        name = source.name
        seen[name] += 1
        if count[name] > 1:
            source.name = f"{name} #{seen[name]}"
