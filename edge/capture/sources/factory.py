"""Makes a source from the text of `--source`: clips, images, cameras, streams and a test pattern.

A live source does not wait: frames not taken in time are lost, and it may come back after a fault. Any other source is
a replay: it delivers every frame, the same ones each time, and then ends.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edge.capture.sources.base import Source
from edge.capture.sources.files import Clip, ImageFolder
from edge.capture.sources.picamera import PiCamera
from edge.capture.sources.recording import DOCUMENT, Recording
from edge.capture.sources.stream import Stream
from edge.capture.sources.test_pattern import TestPattern
from edge.capture.sources.v4l2 import Camera
from sightline.device_config import DeviceConfig
from sightline.errors import InputError
from sightline.images import SUFFIXES


def make_source(text: str, config: DeviceConfig, *, realtime: bool = False, loop: bool = False) -> Source:
    """The source that `--source` names, not yet open. Raises InputError if the text names none.

    realtime, loop: for a clip, see `Clip`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # OpenCV crashes on it
        raise InputError(f"{os.fsencode(text)!r}: this name is not UTF-8. Rename the file.") from None
    if text.startswith("test:"):
        return TestPattern(text.removeprefix("test:"))
    if text == "picamera" or text.startswith("picamera:"):
        return PiCamera(text, config)
    if (text.isascii() and text.isdecimal()) or text.startswith("/dev/"):
        return Camera(text, config)
    if "://" in text:
        return Stream(text)
    path = Path(text)
    if (path / DOCUMENT).is_file():
        return Recording(path)
    if (text and path.is_dir()) or (path.is_file() and path.suffix.lower() in SUFFIXES):
        return ImageFolder(path)
    if path.is_file():
        return Clip(path, realtime=realtime, loop=loop)
    raise InputError(
        f"{text or 'an empty text'}: no such source. Use a video file, an image or a folder of images, "
        "a camera (0, /dev/video0 or picamera), an address (rtsp://...) or test:"
    )


def moment_ns(source: Source, frame_id: int) -> int:
    """Time of a replay's frame on the replay's own clock, in nanoseconds. 0 for a camera, which has this machine's."""
    if isinstance(source, Clip) and not source.live:
        return source.moment_ns(frame_id)
    return source.moment_ns(frame_id) if isinstance(source, Recording) else 0


def make_names_unique(sources: Sequence[Source]) -> None:
    """Number the sources that share a name: a result identifies its source by the name alone."""
    totals = Counter(source.name for source in sources)
    numbers: Counter[str] = Counter()
    for source in sources:
        name = source.name
        numbers[name] += 1
        if totals[name] > 1:
            source.name = f"{name} #{numbers[name]}"
