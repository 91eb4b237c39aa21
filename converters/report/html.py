"""What the HTML reports share: templates, and images with boxes. The pages are self-contained and have no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from converters.evaluate.metrics import boxes_of
from sightline.images import read_image
from sightline.metrics import GroundTruth
from sightline.predictions import Detection
from sightline.preprocess import Frame

if TYPE_CHECKING:
    from jinja2 import Environment

WHITE, GREEN, RED = (255, 255, 255), (80, 200, 80), (60, 60, 235)  # BGR: ground truth, first model, second model
JPEG_QUALITY = 88
SIDE = 420  # pixels of an image with boxes, along its longer side


@dataclass(frozen=True)
class ImageCard:
    """An image of a page.

    src: its address, `data:`.
    truth: the ground truth in words.
    answers: a line for each model.
    file: name of its file.
    """

    src: str
    truth: str
    answers: list[str]
    file: str


def render_template(name: str, **context: Any) -> str:
    """A page from `templates`. All values are escaped, except where the template marks a chart as safe."""
    return _environment().get_template(name).render(**context)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).with_name("templates"))
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def frame_address(frame: Frame) -> str:
    """The address, `data:`, of a frame as the model takes it, RGB."""
    return _jpeg(np.ascontiguousarray(frame[:, :, ::-1]))


def boxes_address(path: Path, truth: GroundTruth, detections: Sequence[Sequence[Detection]]) -> str:
    """The address, `data:`, of an image with boxes: the ground truth, and the detections of one or two models."""
    frame = read_image(path)
    scale = SIDE / max(frame.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=interpolation).astype(np.uint8, copy=False)
    layers = [(truth.boxes, [""] * len(truth.boxes))]
    layers += [(boxes_of(model), [d.label for d in model]) for model in detections]
    for (boxes, texts), colour in zip(layers, (WHITE, GREEN, RED), strict=False):
        rows = (np.asarray(boxes, np.float64).reshape(-1, 4) * scale).round().astype(int).tolist()
        for (x, y, width, height), text in zip(rows, texts, strict=True):
            cv2.rectangle(frame, (x, y), (x + width, y + height), colour, 2)
            cv2.putText(frame, text, (x + 3, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return _jpeg(frame)


def label_names(truth: GroundTruth, labels: Sequence[str]) -> str:
    """The labels of the ground truth's boxes."""
    return ", ".join(labels[k] for k in truth.labels) or "nothing"


def _jpeg(frame: Frame) -> str:
    data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
