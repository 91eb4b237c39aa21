"""Finds out which decoder a .tflite from somewhere else needs, from its metadata and the shapes of its outputs.

If several decoders are possible, it is an error that lists them: a wrong guess would give wrong results silently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sightline.decoders import BACKGROUND_LABELS, BODY_POINTS, upright
from sightline.errors import ModelError
from sightline.interpreter import Delegate, TensorInfo
from sightline.model_facts import POSTPROCESS_OP, ModelFacts, read_facts
from sightline.output_spec import TASKS, Decoder, OutputSpec
from sightline.preprocess import InputSpec, Resize

# default thresholds, as the models' makers use them
THRESHOLDS = {"ssd": 0.4, "yolo": 0.25, "yolo5": 0.25, "yolo_pose": 0.25, "boxes": 0.25, "movenet": 0.3,
              "movenet_multi": 0.3, "posenet": 0.3}  # fmt: skip
MAX_RELATIVE = 4  # a box centre beyond this is in pixels: relative ones are near 0..1
_DECODERS_OF_TASK: dict[str, tuple[Decoder, ...]] = {
    "detect": ("yolo", "yolo5", "boxes"), "pose": ("yolo_pose",), "classify": ("",),
}  # fmt: skip

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std)


@dataclass(frozen=True)
class Hints:
    """What the user states about a model. It outranks what the file states. None: not stated.

    labels: class names.
    decoder: a key of `sightline.output_spec.TASKS`; `classes` for class scores.
    normalization: (mean, std) of the input.
    resize: how frames are fitted into the input.
    """

    labels: tuple[str, ...] | None = None
    decoder: str | None = None
    normalization: Normalization | None = None
    resize: Resize | None = None


NO_HINTS = Hints()


@dataclass(frozen=True)
class IdentifiedModel:
    """What a model takes in and gives out.

    input: how frames become its input.
    output: what its outputs mean.
    notes: assumptions that were made, for people.
    """

    input: InputSpec
    output: OutputSpec
    notes: tuple[str, ...]


def identify(content: bytes, name: str, hints: Hints = NO_HINTS, delegate: Delegate = "xnnpack") -> IdentifiedModel:
    """Identify a .tflite. Raises ModelError that states what the model could be, or which hint is missing."""
    facts = read_facts(content, name, hints.labels, delegate)
    decoder = _choose_decoder(facts, hints.decoder)
    notes: list[str] = []
    output = _output_spec(facts, decoder, notes)
    return IdentifiedModel(_input_spec(facts, decoder, hints, notes), output, tuple(notes))


def _choose_decoder(facts: ModelFacts, choice: str | None) -> Decoder:
    """The only decoder that fits. choice: the user's."""
    name = facts.name
    possible = [decoder for decoder, fits in _FITS.items() if fits(facts)]
    if choice:
        decoder: Decoder = "" if choice == "classes" else choice  # type: ignore[assignment]
        if decoder not in possible:
            fitting = f". Possible decoders: {_listed(possible)}" if possible else ""
            raise ModelError(f"{name}: the decoder {choice!r} does not fit its outputs ({facts.outputs_text}){fitting}")
        return decoder
    of_task = _DECODERS_OF_TASK.get(facts.ultralytics.get("task", ""))
    if of_task:
        possible = [decoder for decoder in possible if decoder in of_task]
    elif facts.labels:  # prefer decoders with one score per label
        exact = [decoder for decoder in possible if _class_count(facts, decoder) == len(facts.labels)]
        possible = exact or possible
    if len(possible) == 1:
        return possible[0]
    if possible:
        raise ModelError(
            f"{name}: several decoders fit its outputs ({facts.outputs_text}). Choose one with --decoder: "
            f"{_listed(possible)}"
        )
    raise ModelError(
        f"{name}: no decoder fits its outputs ({facts.outputs_text}). Sightline runs class scores, boxes of "
        f"{POSTPROCESS_OP} or of Ultralytics' detectors, class masks, and the points of MoveNet and PoseNet."
    )


def _listed(decoders: list[Decoder]) -> str:
    return ", ".join(f"{decoder or 'classes'} (to {' or '.join(_tasks(decoder))})" for decoder in decoders)


def _tasks(decoder: Decoder) -> tuple[str, ...]:
    return TASKS[decoder] if decoder else ("classify",)


def _is_pose(facts: ModelFacts) -> bool:
    channels = facts.yolo_channels(facts.cells)
    has_body_points = channels == 5 + 3 * len(BODY_POINTS)
    return channels > 5 and (channels - 5) % 3 == 0 and (has_body_points or facts.ultralytics.get("task") == "pose")


def _is_mask(facts: ModelFacts) -> bool:
    shape, dtype = facts.single_shape, facts.interpreter.outputs[0].dtype
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) == 2:  # the class of each pixel
        return dtype in ("int64", "int32", "uint8") and min(shape) > 4
    return len(shape) == 3 and min(shape[:2]) > 4 and 2 <= shape[2] <= 1024


def _posenet_outputs(facts: ModelFacts) -> tuple[int, ...]:
    """Indices of heatmaps and offsets. PoseNet has displacements too, for more than one person."""
    maps = [(i, shape) for i, shape in enumerate(facts.shapes) if len(shape) == 4]
    for i, heat in maps:
        offsets = [k for k, shape in maps if shape[:3] == heat[:3] and shape[3] == 2 * heat[3]]
        if heat[3] == len(BODY_POINTS) and offsets:
            return i, offsets[0]
    return ()


def _has_rows_of(facts: ModelFacts, numbers: int) -> bool:
    return len(facts.single_shape) == 2 and facts.single_shape[1] == numbers


# whether a decoder fits the outputs' shapes
_FITS: dict[Decoder, Callable[[ModelFacts], bool]] = {
    "": lambda f: len(f.single_shape) >= 1 and int(np.prod(f.single_shape)) == f.single_shape[-1] >= 2,
    "ssd": lambda f: bool(f.postprocess_outputs),
    "yolo": lambda f: f.yolo_channels(f.cells) >= 5,
    "yolo5": lambda f: f.yolo_channels(3 * f.cells) >= 6,
    "yolo_pose": _is_pose,
    "boxes": lambda f: _has_rows_of(f, 6) and f.single_shape[0] > 6,
    "mask": _is_mask,
    "movenet": lambda f: f.single_shape == (1, 17, 3),
    "movenet_multi": lambda f: _has_rows_of(f, 56) and f.single_shape[0] <= 16,
    "posenet": lambda f: len(_posenet_outputs(f)) == 2,
}


def _class_count(facts: ModelFacts, decoder: Decoder) -> int | None:
    """The number of classes that the model scores; None if the shapes do not show it."""
    shape = facts.single_shape
    match decoder:
        case "":
            return shape[-1]
        case "yolo":
            return facts.yolo_channels(facts.cells) - 4
        case "yolo5":
            return facts.yolo_channels(3 * facts.cells) - 5
        case "mask" if len(shape) == 3 and shape[2] > 1:
            return shape[2]
    return None


def _output_spec(facts: ModelFacts, decoder: Decoder, notes: list[str]) -> OutputSpec:
    order: tuple[int, ...] = ()
    relative = False
    match decoder:
        case "ssd":
            order, relative = facts.postprocess_outputs, True
        case "yolo" | "yolo5" | "yolo_pose" | "boxes":
            relative = _is_relative(facts, decoder)
        case "posenet":
            order, relative = _posenet_outputs(facts), True
        case "movenet" | "movenet_multi":
            relative = True
    is_pose = TASKS[decoder] == ("pose",)
    activation: Literal["softmax", "none"] = "none" if decoder or facts.ends_in_scores else "softmax"
    return OutputSpec(
        TASKS[decoder][0],
        activation,
        _unique(_pose_labels(facts) if is_pose else _class_labels(facts, decoder, notes)),
        threshold=THRESHOLDS.get(decoder, 0.0),
        decoder=decoder,
        relative=relative,
        order=order,
        points=_point_names(facts, decoder) if is_pose else (),
    )


def _pose_labels(facts: ModelFacts) -> tuple[str, ...]:
    return facts.labels if facts.labels and len(facts.labels) == 1 else ("person",)


def _point_names(facts: ModelFacts, decoder: Decoder) -> tuple[str, ...]:
    channels = facts.yolo_channels(facts.cells)
    if decoder != "yolo_pose" or channels == 5 + 3 * len(BODY_POINTS):
        return BODY_POINTS
    return tuple(f"point {k}" for k in range((channels - 5) // 3))


def _class_labels(facts: ModelFacts, decoder: Decoder, notes: list[str]) -> tuple[str, ...]:
    """One label per class. A label for the background, which has no score, is left out."""
    labels, count = facts.labels, _class_count(facts, decoder)
    if labels and decoder == "ssd" and labels[0].lower() in BACKGROUND_LABELS:
        notes.append(f"the first label is {labels[0]!r}, which this kind of detector does not count: left out")
        labels = labels[1:]
    if labels and count and len(labels) != count:
        if len(labels) != count + 1 or labels[0].lower() not in BACKGROUND_LABELS:
            raise ModelError(f"{facts.name}: has scores for {count} classes, but there are {len(labels)} labels")
        notes.append(f"the first label is {labels[0]!r}, for which the model has no score: left out")
        labels = labels[1:]
    if not labels:
        labels = tuple(f"class {k}" for k in range(count or 1))
        notes.append("the model has no labels, so classes are numbered. Pass them with --labels.")
    return labels


def _unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Number labels that occur more than once: COCO's list has several '???'."""
    return tuple(label if labels.count(label) == 1 else f"{label} {k}" for k, label in enumerate(labels))


def _is_relative(facts: ModelFacts, decoder: Decoder) -> bool:
    """Whether coordinates are 0..1. The centres of a detector's cells lie all over any image: in pixels they are far
    beyond 1."""
    first = _noise_outputs(facts)[0]
    if decoder == "boxes":
        corners = first.reshape(-1, 6)[:, :4]
        centres = (corners[:, :2] + corners[:, 2:]) / 2
    else:
        centres = upright(first[0])[:2]
    return bool(np.abs(centres).max() <= MAX_RELATIVE)


def _noise_outputs(facts: ModelFacts) -> list[Any]:
    """The outputs for an image of noise."""
    interpreter = facts.interpreter
    tensor = interpreter.quantizer.empty()
    noise = np.random.default_rng(0).integers(0, 256, tensor.shape, dtype=np.uint8)
    values = noise / 255 if tensor.dtype == np.float32 else noise.view(np.int8) if tensor.dtype == np.int8 else noise
    interpreter.feed(values.astype(tensor.dtype))
    interpreter.invoke()
    return interpreter.results()


def _input_spec(facts: ModelFacts, decoder: Decoder, hints: Hints, notes: list[str]) -> InputSpec:
    width, height = facts.interpreter.size
    normalization = hints.normalization or _normalization(facts.interpreter.input, facts)
    if normalization is None:
        raise ModelError(
            f"{facts.name}: takes float images, but does not state their normalisation. A wrong guess would give wrong "
            "results silently. Make a bundle with: sightline convert --scheme passthrough --normalization, followed by "
            "0..255, 0..1, -1..1, imagenet, or MEAN/STD"
        )
    resize = hints.resize
    if resize is None:
        # as the models' makers do it; masks and classifiers have no convention, and letterbox loses nothing
        resize = "stretch" if decoder == "ssd" else "letterbox"
        notes.append(f"images are resized by {resize}. Choose another way with --resize.")
    mean, std = normalization
    # plain interpolation is what the makers measured with, although it aliases
    return InputSpec(width, height, resize, "linear", mean=mean, std=std)


def _normalization(tensor: TensorInfo, facts: ModelFacts) -> Normalization | None:
    if tensor.dtype != "float32":  # raw bytes: such models are fed like this everywhere
        shift = 128 if tensor.dtype == "int8" else 0
        if not tensor.scale:
            return (0.0,) * 3, (1.0,) * 3
        return (float(tensor.zero_point + shift),) * 3, (1 / tensor.scale,) * 3
    if facts.ultralytics:
        return (0.0,) * 3, (255.0,) * 3
    if facts.metadata and facts.metadata.mean and facts.metadata.std:
        return facts.metadata.mean, facts.metadata.std
    return None
