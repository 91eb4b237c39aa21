"""What MQTT publishes of each camera beside its messages: its current state, its zone counts and a small image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2

from edge.results.jpeg import encode_jpeg
from edge.results.zones import COUNTS, Zone, ZoneEvent
from sightline.errors import DeviceError
from sightline.predictions import Detection, Pose, Result
from sightline.preprocess import Frame

if TYPE_CHECKING:
    from edge.results.sink import Item

IMAGE_WIDTH = 640  # pixels
JPEG_QUALITY = 80


class CameraStates:
    """The current state of each camera.

    Threads: the sink's thread calls `update`, which replaces a camera's state as a whole; the sender reads `states`.
    """

    def __init__(self, cameras: Sequence[str], zones: Sequence[Zone]) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        self._counts = {
            camera: {z.name: dict.fromkeys(COUNTS[z.kind], 0) for z in zones if z.camera in ("", camera)}
            for camera in cameras
        }

    def update(self, item: Item) -> None:
        # a still scene keeps the state that it had when it last moved
        if isinstance(item, Result) and not (item.cause and item.cause.code == "no_motion"):
            counts = {name: dict(numbers) for name, numbers in self._counts[item.source].items()}
            self.states[item.source] = state_of(item) | ({"zones": counts} if counts else {})
        if isinstance(item, ZoneEvent):
            self._counts[item.source][item.zone][item.count_name] = item.count


def state_of(result: Result) -> dict[str, Any]:
    """The state of a camera.

    inferred: whether the newest frame got inference.
    cause: why it did not; None if it did.
    label, score: of the best prediction; the score in percent.
    count, counts: number of objects, in all and by label.
    """
    best = result.predictions[0] if result.predictions else None
    counts: dict[str, int] = {}
    # a classification counts its best class as one object; a detection counts each box
    for prediction in result.predictions if isinstance(best, Detection | Pose) else result.predictions[:1]:
        counts[prediction.label] = counts.get(prediction.label, 0) + 1
    return {
        "inferred": result.cause is None,
        "cause": result.cause.text if result.cause else None,
        "label": best.label if best else None,
        "score": round(100 * best.score, 1) if best else None,
        "count": sum(counts.values()),
        "counts": counts,
    }


def small_jpeg(frame: Frame) -> bytes:
    """A JPEG at most IMAGE_WIDTH wide and four times as tall. Empty for a frame that cannot be encoded."""
    height, width = frame.shape[:2]
    scale = min(1.0, IMAGE_WIDTH / width, 4 * IMAGE_WIDTH / height)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    try:
        if scale < 1:
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return encode_jpeg(frame, JPEG_QUALITY)
    except (cv2.error, DeviceError):
        return b""
