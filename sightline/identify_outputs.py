"""What somebody else's .tflite is: read from what it says of itself, and from the shapes of what it gives.

Where several things are possible it is an error that lists them: a wrong guess would be a wrong answer without a sign.
"""

from __future__ import annotations

import ast
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sightline.decoders import BODY, NOTHING, upright
from sightline.errors import ModelError
from sightline.flatbuffer import Table
from sightline.interpreter import Delegate, Interpreter, TensorInfo
from sightline.metadata import Metadata, read_metadata
from sightline.output_spec import TASKS, Decoder, OutputSpec
from sightline.preprocess import InputSpec, Resize

POSTPROCESS = "TFLite_Detection_PostProcess"
STRIDES = (8, 16, 32)  # of YOLO's three levels
THRESHOLDS = {"ssd": 0.4, "yolo": 0.25, "yolo5": 0.25, "yolo_pose": 0.25, "boxes": 0.25, "movenet": 0.3,
              "movenet_multi": 0.3, "posenet": 0.3}  # fmt: skip  # as their makers show them
_BY_TASK: dict[str, tuple[Decoder, ...]] = {
    "detect": ("yolo", "yolo5", "boxes"), "pose": ("yolo_pose",), "classify": ("",),
}  # fmt: skip
_SCORES = (14, 25)  # builtin ops that end in scores: LOGISTIC, SOFTMAX
_AFTER = (6, 22, 114)  # that may come after: DEQUANTIZE, RESHAPE, QUANTIZE
_MOST_BYTES = 1 << 20  # of a text in the archive

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Hints:
    """What the user says, which outranks what the file says. decoder: a key of `sightline.output_spec.TASKS`; `classes`
    for scores of classes."""

    labels: tuple[str, ...] | None = None
    decoder: str | None = None
    normalization: Normalization | None = None
    resize: Resize | None = None


NO_HINTS = Hints()


@dataclass(frozen=True)
class Recognized:
    """notes: what was taken for granted, for people."""

    input: InputSpec
    output: OutputSpec
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """What is known before the layout. said: what Ultralytics wrote into the file, {} elsewhere. parts: outputs of the
    post-processing op, in its order, as indices of the model's outputs."""

    interpreter: Interpreter
    said: dict[str, Any]
    metadata: Metadata | None
    labels: tuple[str, ...] | None
    parts: tuple[int, ...]
    ends_in_scores: bool

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [t.shape for t in self.interpreter.outputs]

    @property
    def cells(self) -> int:
        width, height = self.interpreter.size
        return sum((height // s) * (width // s) for s in STRIDES)


def recognize(content: bytes, name: str, hints: Hints = NO_HINTS, delegate: Delegate = "xnnpack") -> Recognized:
    """Raises ModelError, which says what it cannot be, or what has to be said of it."""
    interpreter = Interpreter(content, name=name, delegate=delegate)
    said = _ultralytics(content, name)
    metadata = read_metadata(content, name)
    task = said.get("task")
    if task not in (None, "detect", "pose", "classify"):
        raise ModelError(f"{name}: its metadata says that it is for {task!r}; detect, pose and classify can be run")
    labels = hints.labels or _said_labels(said) or (metadata.labels if metadata else None)
    try:
        parts, ends_in_scores = _post_process(content), _ends_in_scores(content)
    except ValueError as e:
        raise ModelError(f"{name}: {e}") from None
    found = _Found(interpreter, said, metadata, labels, parts, ends_in_scores)
    decoder = _decoder(found, name, hints.decoder)
    notes: list[str] = []
    output = _output(found, decoder, name, notes)
    return Recognized(_input(found, decoder, name, hints, notes), output, tuple(notes))


def _decoder(f: _Found, name: str, choice: str | None) -> Decoder:
    possible = [decoder for decoder, fits in _FITS.items() if fits(f)]
    shapes = ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in f.interpreter.outputs)
    if choice:
        decoder: Decoder = "" if choice == "classes" else choice  # type: ignore[assignment]
        if decoder not in possible:
            fitting = f"; what fits: {_listed(possible)}" if possible else ""
            raise ModelError(f"{name}: its outputs ({shapes}) are not those of {choice!r}{fitting}")
        return decoder
    wanted = _BY_TASK.get(f.said.get("task", ""))
    if wanted:
        possible = [decoder for decoder in possible if decoder in wanted]
    elif f.labels:  # as many as it has scores for decides
        exact = [decoder for decoder in possible if _count(f, decoder) == len(f.labels)]
        possible = exact or possible
    if len(possible) == 1:
        return possible[0]
    if possible:
        raise ModelError(
            f"{name}: its outputs ({shapes}) may be several things; say which with --decoder: {_listed(possible)}"
        )
    raise ModelError(
        f"{name}: nothing is known that gives {shapes}; what can be run are scores of classes, boxes of "
        f"{POSTPROCESS} or of Ultralytics' detectors, class masks, and the points of MoveNet and PoseNet"
    )


def _listed(decoders: list[Decoder]) -> str:
    return ", ".join(f"{decoder or 'classes'} (to {' or '.join(_tasks(decoder))})" for decoder in decoders)


def _tasks(decoder: Decoder) -> tuple[str, ...]:
    return TASKS[decoder] if decoder else ("classify",)


def _one(f: _Found) -> tuple[int, ...]:
    """The shape of the only output, without the first 1."""
    return f.shapes[0][1:] if len(f.shapes) == 1 and f.shapes[0][:1] == (1,) else ()


def _yolo_channels(f: _Found, boxes: int) -> int:
    """How many numbers there are for each of so many boxes; 0 = this is not it."""
    shape = _one(f)
    if len(shape) != 2 or boxes not in shape or f.interpreter.outputs[0].dtype.startswith(("int32", "int64")):
        return 0
    channels = shape[0] if shape[1] == boxes else shape[1]
    return channels if channels <= boxes else 0


def _is_pose(f: _Found) -> bool:
    channels = _yolo_channels(f, f.cells)
    return channels > 5 and (channels - 5) % 3 == 0 and (channels == 5 + 3 * len(BODY) or f.said.get("task") == "pose")


def _is_mask(f: _Found) -> bool:
    shape, dtype = _one(f), f.interpreter.outputs[0].dtype
    if len(shape) == 3 and shape[2] == 1:
        shape = shape[:2]
    if len(shape) == 2:  # a class of each pixel
        return dtype in ("int64", "int32", "uint8") and min(shape) > 4
    return len(shape) == 3 and min(shape[:2]) > 4 and 2 <= shape[2] <= 1024


def _is_posenet(f: _Found) -> bool:
    return len(_posenet_parts(f)) == 2


def _posenet_parts(f: _Found) -> tuple[int, ...]:
    """Which outputs are heatmaps and offsets; there are displacements too, for more than one person."""
    flat = [(i, s) for i, s in enumerate(f.shapes) if len(s) == 4]
    for i, heat in flat:
        others = [k for k, s in flat if s[:3] == heat[:3] and s[3] == 2 * heat[3]]
        if heat[3] == len(BODY) and others:
            return i, others[0]
    return ()


_FITS: dict[Decoder, Callable[[_Found], bool]] = {
    "": lambda f: len(_one(f)) >= 1 and int(np.prod(_one(f))) == _one(f)[-1] >= 2,
    "ssd": lambda f: bool(f.parts),
    "yolo": lambda f: _yolo_channels(f, f.cells) >= 5,
    "yolo5": lambda f: _yolo_channels(f, 3 * f.cells) >= 6,
    "yolo_pose": _is_pose,
    "boxes": lambda f: len(_one(f)) == 2 and _one(f)[1] == 6 and _one(f)[0] > 6,
    "mask": _is_mask,
    "movenet": lambda f: _one(f) == (1, 17, 3),
    "movenet_multi": lambda f: len(_one(f)) == 2 and _one(f)[1] == 56 and _one(f)[0] <= 16,
    "posenet": _is_posenet,
}


def _count(f: _Found, decoder: Decoder) -> int | None:
    """How many classes it has scores for; None where that does not show."""
    match decoder:
        case "":
            return _one(f)[-1]
        case "yolo":
            return _yolo_channels(f, f.cells) - 4
        case "yolo5":
            return _yolo_channels(f, 3 * f.cells) - 5
        case "mask" if len(_one(f)) == 3 and _one(f)[2] > 1:
            return _one(f)[2]
    return None


def _output(f: _Found, decoder: Decoder, name: str, notes: list[str]) -> OutputSpec:
    labels, count = f.labels, _count(f, decoder)
    order: tuple[int, ...] = ()
    points: tuple[str, ...] = ()
    relative = False
    match decoder:
        case "ssd":
            order, relative = f.parts, True
        case "yolo" | "yolo5" | "yolo_pose" | "boxes":
            relative = _is_relative(f, decoder)
        case "posenet":
            order, relative = _posenet_parts(f), True
        case "movenet" | "movenet_multi":
            relative = True
    if TASKS[decoder] == ("pose",):
        channels = _yolo_channels(f, f.cells)
        points = (
            BODY
            if decoder != "yolo_pose" or channels == 5 + 3 * len(BODY)
            else tuple(f"point {k}" for k in range((channels - 5) // 3))
        )
        labels = labels if labels and len(labels) == 1 else ("person",)
    elif labels and decoder == "ssd" and labels[0].lower() in NOTHING:
        notes.append(f"the labels begin with {labels[0]!r}, which this kind of detector does not count: left out")
        labels = labels[1:]
    if labels and count and len(labels) != count:
        if len(labels) == count + 1 and labels[0].lower() in NOTHING:
            notes.append(f"the labels begin with {labels[0]!r}, of which the model gives no score: left out")
            labels = labels[1:]
        else:
            raise ModelError(f"{name}: gives scores of {count} classes, but there are {len(labels)} labels")
    if not labels:
        labels = tuple(f"class {k}" for k in range(count or 1))
        notes.append("it has no labels, so classes go by their numbers; say them with --labels")
    task = TASKS[decoder][0]
    activation: Literal["softmax", "none"] = "none" if decoder or f.ends_in_scores else "softmax"
    return OutputSpec(
        task, activation, _unique(labels), threshold=THRESHOLDS.get(decoder, 0.0), decoder=decoder, relative=relative,
        order=order, points=points,
    )  # fmt: skip


def _unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    """COCO's list has several '???'."""
    return tuple(label if labels.count(label) == 1 else f"{label} {k}" for k, label in enumerate(labels))


def _is_relative(f: _Found, decoder: Decoder) -> bool:
    """Whether coordinates are 0 to 1. The middles of a detector's cells lie all over the picture, whatever it shows:
    in pixels they are far beyond 1."""
    if decoder == "boxes":
        corners = _probe(f)[0].reshape(-1, 6)[:, :4]
        middles = (corners[:, :2] + corners[:, 2:]) / 2
    else:
        middles = upright(_probe(f)[0][0])[:2]
    return bool(np.abs(middles).max() <= 4)


def _probe(f: _Found) -> list[Any]:
    """The outputs for a picture of noise."""
    entry = f.interpreter.quantizer.empty()
    noise = np.random.default_rng(0).integers(0, 256, entry.shape, dtype=np.uint8)
    values = noise / 255 if entry.dtype == np.float32 else noise.view(np.int8) if entry.dtype == np.int8 else noise
    f.interpreter.feed(values.astype(entry.dtype))
    f.interpreter.invoke()
    return f.interpreter.results()


def _input(f: _Found, decoder: Decoder, name: str, hints: Hints, notes: list[str]) -> InputSpec:
    t = f.interpreter.input
    width, height = f.interpreter.size
    normalization = hints.normalization or _normalization(t, f)
    if normalization is None:
        raise ModelError(
            f"{name}: takes float pictures and does not say how they are normalised, and a wrong guess gives wrong "
            "answers silently; make it a bundle that says it: sightline convert --scheme passthrough --normalization, "
            "one of 0..255, 0..1, -1..1, imagenet, or MEAN/STD"
        )
    resize = hints.resize
    if resize is None:
        # how their makers feed them; a mask or a classifier has no custom, and letterbox loses nothing
        resize = "stretch" if decoder == "ssd" else "letterbox"
        notes.append(f"pictures are fitted in by {resize}; say another with --resize")
    mean, std = normalization
    # plain interpolation is what their makers measured with, whatever aliases
    return InputSpec(width, height, resize, "linear", mean=mean, std=std)


def _normalization(t: TensorInfo, f: _Found) -> Normalization | None:
    if t.dtype != "float32":  # bytes as they are: that is how such models are fed everywhere
        shift = 128 if t.dtype == "int8" else 0
        return ((float(t.zero_point + shift),) * 3, (1 / t.scale,) * 3) if t.scale else ((0.0,) * 3, (1.0,) * 3)
    if f.said:
        return (0.0,) * 3, (255.0,) * 3
    if f.metadata and f.metadata.mean and f.metadata.std:
        return f.metadata.mean, f.metadata.std
    return None


def _said_labels(said: dict[str, Any]) -> tuple[str, ...] | None:
    names = said.get("names")
    if isinstance(names, dict):
        names = [names[k] for k in sorted(names, key=int)]
    return tuple(str(n) for n in names) if isinstance(names, list | tuple) and names else None


def _ultralytics(content: bytes, name: str) -> dict[str, Any]:
    """What Ultralytics writes into its exports, JSON or a Python dictionary in the archive at the file's end."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if not info.filename.endswith((".json", ".txt")) or info.file_size > _MOST_BYTES:
                    continue
                text = archive.read(info).decode("utf-8", "replace").strip()
                if not text.startswith("{"):
                    continue
                try:
                    said = json.loads(text)
                except ValueError:
                    said = ast.literal_eval(text)
                if isinstance(said, dict) and "names" in said:
                    return said
    except zipfile.BadZipFile:
        return {}
    except Exception as e:  # a damaged archive raises many kinds
        raise ModelError(f"{name}: its metadata cannot be read: {e}") from None
    return {}


def _post_process(content: bytes) -> tuple[int, ...]:
    """Where, among the model's outputs, the op's are: boxes, classes, scores, count; () where there is no such op."""
    model = Table.root(content, b"TFL3")
    graph = model.item(2, 0)
    for op, _ in _backwards(model, graph):
        if model.item(1, op.number(0, "<I")).text(1) == POSTPROCESS:
            made, own = op.integers(2), graph.integers(2)
            if len(made) == 4 and all(t in own for t in made):
                return tuple(own.index(t) for t in made)
            raise ValueError(f"the outputs of {POSTPROCESS} are not the model's own")
    return ()


def _ends_in_scores(content: bytes) -> bool:
    model = Table.root(content, b"TFL3")
    for _, kind in _backwards(model, model.item(2, 0)):
        if kind not in _AFTER:
            return kind in _SCORES
    return False


def _backwards(model: Table, graph: Table) -> Iterator[tuple[Table, int]]:
    """The ops from the last one, and the number of each one's kind."""
    for i in reversed(range(graph.vector(3, 4)[1])):
        op = graph.item(3, i)
        code = model.item(1, op.number(0, "<I"))
        yield op, max(code.number(0, "<b"), code.number(3, "<i"))
