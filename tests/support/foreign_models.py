"""Models in the formats of other tools with known answers: they find red and blue squares."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from torch import Tensor, nn

from converters.sources.from_torch import convert_program
from converters.tflite.graph import pack, unpack

SIZE = 64
STRIDES = (8, 16, 32)
CLASSES = ("blue", "red")


def _centres(stride: int) -> Tensor:
    """[cells, 2]: x, y in pixels."""
    count = SIZE // stride
    y, x = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride


class Cells(nn.Module):
    """float32 [1, 64, 64, 3], 0..255 -> for each stride [1, cells, 2]: logits of blue and red in each cell."""

    def __init__(self, strides: tuple[int, ...] = STRIDES) -> None:
        super().__init__()
        self.strides = strides
        self.colour = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.colour.weight[:] = 0.1 * torch.tensor([[-0.5, -0.5, 1.0], [1.0, -0.5, -0.5]])[:, :, None, None]
            self.colour.bias[:] = -13.0

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.permute(0, 3, 1, 2)
        return [self.colour(nn.functional.avg_pool2d(x, s)).flatten(2).transpose(1, 2) for s in self.strides]


class Yolo(nn.Module):
    """[1, 4 + 2, 84]: a box of 16 pixels around each cell.

    relative: coordinates in 0..1 instead of pixels.
    turned: [1, 84, 6].
    objectness: a score after the box, and three times as many boxes, as YOLOv5 has them.
    points: number of keypoints of a pose, instead of the second class.
    scale: factor of the input.
    """

    def __init__(
        self,
        *,
        relative: bool = True,
        turned: bool = False,
        objectness: bool = False,
        points: int = 0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.cells, self.turned, self.objectness, self.points, self.scale = Cells(), turned, objectness, points, scale
        centres = torch.cat([_centres(s) for s in STRIDES])
        boxes = torch.cat([centres, torch.full_like(centres, 16.0)], 1) / (SIZE if relative else 1)
        self.boxes = nn.Parameter(boxes[None])

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.cat(self.cells(x * self.scale), 1).sigmoid()
        boxes = self.boxes + 0 * scores[..., :1]
        if self.points:
            where = torch.cat([boxes[..., :2], scores[..., 1:]], -1).repeat(1, 1, self.points)
            rows = torch.cat([boxes, scores[..., 1:], where], -1)
        elif self.objectness:
            rows = torch.cat([boxes, scores.amax(-1, keepdim=True), scores], -1).repeat(1, 3, 1)
        else:
            rows = torch.cat([boxes, scores], -1)
        return rows if self.turned else rows.transpose(1, 2)


class Finished(nn.Module):
    """[1, 64, 6]: left, top, right, bottom, score, class, as exports with NMS have them."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells((8,))
        centres = _centres(8)
        self.boxes = nn.Parameter(torch.cat([centres - 8, centres + 8], 1)[None])

    def forward(self, x: Tensor) -> Tensor:
        scores = self.cells(x)[0].sigmoid()
        kind = (scores[..., 1:] > scores[..., :1]).float()
        return torch.cat([self.boxes + 0 * kind, scores.amax(-1, keepdim=True), kind], -1)


class Mask(nn.Module):
    """[1, 16, 16, 3]: scores of background, blue and red for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells((4,))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.cells(x)[0].reshape(1, 16, 16, 2)
        return torch.cat([0 * scores[..., :1], scores], -1)


class Outputs(nn.Module):
    """Outputs of any shapes, for tests of structure alone."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes = shapes
        self.values = nn.ParameterList(torch.linspace(0, 1, int(np.prod(s))).reshape(s) for s in shapes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(v + 0 * x.mean() for v in self.values)


def tflite(module: nn.Module, size: int = SIZE) -> bytes:
    program = torch.export.export(module.eval(), (torch.zeros(1, size, size, 3),))
    return convert_program(program, type(module).__name__)


def with_ultralytics(content: bytes, task: str = "detect", **more: Any) -> bytes:
    """Add the metadata that Ultralytics exports have in an archive at their end."""
    metadata = {
        "description": "a test",
        "task": task,
        "imgsz": [SIZE, SIZE],
        "stride": 32,
        "names": dict(enumerate(CLASSES)),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("metadata.json", json.dumps({**metadata, **more}))
    return content + buffer.getvalue()


class _Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = Cells((8,))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.cells(x)[0].sigmoid()
        boxes = torch.cat([scores, scores], -1) * 0
        return boxes, torch.cat([0 * scores[..., :1], scores], -1)


def ssd(order: tuple[int, ...] = (0, 1, 2, 3)) -> bytes:
    """A model that ends in the post-processing op of TensorFlow's detectors.

    order: of boxes, classes, scores and count among the outputs.
    """
    model = unpack(tflite(_Raw()))
    graph = model.subgraphs[0]
    centres = _centres(8).numpy()[:, ::-1] / SIZE
    anchors = np.concatenate([centres, np.full_like(centres, 16 / SIZE)], 1).astype(np.float32)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(anchors.tobytes(), np.uint8)
    model.buffers.append(buffer)

    def tensor(name: str, shape: tuple[int, ...], where: int) -> int:
        t = schema.TensorT()
        t.name, t.shape, t.type, t.buffer = name.encode(), np.asarray(shape, np.int32), schema.TensorType.FLOAT32, where
        graph.tensors.append(t)
        return len(graph.tensors) - 1

    max_detections = 10
    constant = tensor("anchors", anchors.shape, len(model.buffers) - 1)
    results = [
        tensor(name, shape, 0)
        for name, shape in (
            ("boxes", (1, max_detections, 4)),
            ("classes", (1, max_detections)),
            ("scores", (1, max_detections)),
            ("count", (1,)),
        )
    ]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = b"TFLite_Detection_PostProcess", 1
    model.operatorCodes.append(code)
    op = schema.OperatorT()
    op.opcodeIndex = len(model.operatorCodes) - 1
    op.inputs = np.asarray([*graph.outputs, constant], np.int32)
    op.outputs = np.asarray(results, np.int32)
    options = {
        "max_detections": max_detections, "max_classes_per_detection": 1, "num_classes": 2, "detections_per_class": 100,
        "nms_score_threshold": 0.1, "nms_iou_threshold": 0.6, "use_regular_nms": False,
        "x_scale": 10.0, "y_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
    }  # fmt: skip
    op.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)
    graph.operators.append(op)
    graph.outputs = np.asarray([results[i] for i in order], np.int32)
    model.signatureDefs = []
    return pack(model)
