"""Reads what a .tflite from somewhere else states about itself: metadata, ops at its end, shapes of its outputs."""

from __future__ import annotations

import ast
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sightline.errors import ModelError
from sightline.flatbuffer import Table
from sightline.interpreter import Delegate, Interpreter
from sightline.tflite_metadata import Metadata, read_metadata

POSTPROCESS_OP = "TFLite_Detection_PostProcess"
STRIDES = (8, 16, 32)  # pixels per cell of YOLO's three levels
_SCORE_OPS = (14, 25)  # builtin ops that end in scores: LOGISTIC, SOFTMAX
_OPS_AFTER_SCORES = (6, 22, 114)  # builtin ops that may follow them: DEQUANTIZE, RESHAPE, QUANTIZE
_MAX_TEXT_BYTES = 1 << 20  # of a text in the archive
_ULTRALYTICS_TASKS = ("detect", "pose", "classify")  # that Sightline runs


@dataclass(frozen=True)
class ModelFacts:
    """What a .tflite states about itself.

    name: of the file, for error messages.
    interpreter: has the model loaded.
    ultralytics: what Ultralytics wrote into the file; {} for other models.
    metadata: TFLite Metadata; None if the file has none.
    labels: class names; None if the file has none.
    postprocess_outputs: outputs of the post-processing op in its order, as indices of the model's outputs.
    ends_in_scores: whether the graph ends in a softmax or sigmoid.
    """

    name: str
    interpreter: Interpreter
    ultralytics: dict[str, Any]
    metadata: Metadata | None
    labels: tuple[str, ...] | None
    postprocess_outputs: tuple[int, ...]
    ends_in_scores: bool

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [t.shape for t in self.interpreter.outputs]

    @property
    def outputs_text(self) -> str:
        """The outputs, for an error message."""
        return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in self.interpreter.outputs)

    @property
    def single_shape(self) -> tuple[int, ...]:
        """The shape of the only output, without its leading 1; () if there are several."""
        return self.shapes[0][1:] if len(self.shapes) == 1 and self.shapes[0][:1] == (1,) else ()

    @property
    def cells(self) -> int:
        """Number of cells of YOLO's three levels for this input size."""
        width, height = self.interpreter.size
        return sum((height // s) * (width // s) for s in STRIDES)

    def yolo_channels(self, boxes: int) -> int:
        """How many numbers the output has for each of `boxes` boxes; 0 if it is no table of that many boxes."""
        shape = self.single_shape
        if len(shape) != 2 or boxes not in shape or self.interpreter.outputs[0].dtype.startswith(("int32", "int64")):
            return 0
        channels = shape[0] if shape[1] == boxes else shape[1]
        return channels if channels <= boxes else 0


def read_facts(content: bytes, name: str, labels: tuple[str, ...] | None, delegate: Delegate) -> ModelFacts:
    """Read a .tflite. labels: the user's, which replace the file's. Raises ModelError."""
    interpreter = Interpreter(content, name=name, delegate=delegate)
    ultralytics = _read_ultralytics(content, name)
    metadata = read_metadata(content, name)
    task = ultralytics.get("task")
    if task not in (None, *_ULTRALYTICS_TASKS):
        raise ModelError(f"{name}: its metadata has the task {task!r}. Sightline runs detect, pose and classify.")
    labels = labels or _ultralytics_labels(ultralytics) or (metadata.labels if metadata else None)
    try:
        outputs, ends_in_scores = _postprocess_outputs(content), _ends_in_scores(content)
    except ValueError as e:
        raise ModelError(f"{name}: {e}") from None
    return ModelFacts(name, interpreter, ultralytics, metadata, labels, outputs, ends_in_scores)


def _read_ultralytics(content: bytes, name: str) -> dict[str, Any]:
    """What Ultralytics writes into its exports: JSON or a Python dictionary, in the archive at the file's end."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if not info.filename.endswith((".json", ".txt")) or info.file_size > _MAX_TEXT_BYTES:
                    continue
                text = archive.read(info).decode("utf-8", "replace").strip()
                if not text.startswith("{"):
                    continue
                try:
                    document = json.loads(text)
                except ValueError:
                    document = ast.literal_eval(text)
                if isinstance(document, dict) and "names" in document:
                    return document
    except zipfile.BadZipFile:
        return {}
    except Exception as e:  # a damaged archive raises many kinds
        raise ModelError(f"{name}: its metadata cannot be read: {e}") from None
    return {}


def _ultralytics_labels(document: dict[str, Any]) -> tuple[str, ...] | None:
    names = document.get("names")
    if isinstance(names, dict):
        names = [names[k] for k in sorted(names, key=int)]
    return tuple(str(n) for n in names) if isinstance(names, list | tuple) and names else None


def _postprocess_outputs(content: bytes) -> tuple[int, ...]:
    """Indices of boxes, classes, scores and count among the model's outputs; () without the post-processing op."""
    model = Table.root(content, b"TFL3")
    graph = model.item(2, 0)
    for op, _ in _ops_from_end(model, graph):
        if model.item(1, op.number(0, "<I")).text(1) == POSTPROCESS_OP:
            op_outputs, graph_outputs = op.integers(2), graph.integers(2)
            if len(op_outputs) == 4 and all(t in graph_outputs for t in op_outputs):
                return tuple(graph_outputs.index(t) for t in op_outputs)
            raise ValueError(f"the outputs of {POSTPROCESS_OP} are not the model's own")
    return ()


def _ends_in_scores(content: bytes) -> bool:
    model = Table.root(content, b"TFL3")
    for _, kind in _ops_from_end(model, model.item(2, 0)):
        if kind not in _OPS_AFTER_SCORES:
            return kind in _SCORE_OPS
    return False


def _ops_from_end(model: Table, graph: Table) -> Iterator[tuple[Table, int]]:
    """The ops from the last one, each with the number of its builtin kind."""
    for i in reversed(range(graph.vector(3, 4)[1])):
        op = graph.item(3, i)
        code = model.item(1, op.number(0, "<I"))
        yield op, max(code.number(0, "<b"), code.number(3, "<i"))
