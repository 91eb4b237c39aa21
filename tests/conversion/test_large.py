"""Models of more than 256 KiB: ai-edge-quantizer keeps their weights after the FlatBuffer, and all have to know it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from converters.edgetpu.lowering import lower
from converters.evaluate.run_images import run_all
from converters.quantize.calibrate import observe, ranges
from converters.quantize.quantize import quantize
from converters.sources.from_torch import to_tflite
from converters.tflite.edits import shuffle_weights
from converters.tflite.graph import pack, unpack
from converters.tflite.metadata_writer import with_metadata
from converters.tflite.ops import list_ops
from sightline.output_spec import OutputSpec
from sightline.preprocess import Frame, InputSpec
from tests.support.conversion import save_program

SPEC = InputSpec(16, 16)


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 32, 3, stride=2), nn.Conv2d(32, 320, 3)
        self.third, self.head = nn.Conv2d(320, 640, 1), nn.Linear(640, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x.permute(0, 3, 1, 2) / 255 - 0.5))))
        x = torch.relu(self.third(x))
        return self.head(x.amax((2, 3)))


@pytest.fixture(scope="module")
def frames() -> Frame:
    rng = np.random.default_rng(0)
    return np.uint8(rng.uniform(0, 1, (16, 1, 1, 3)) * rng.integers(0, 256, (16, 16, 16, 3)))


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, frames: Frame) -> bytes:
    path = save_program(tmp_path_factory.mktemp("large") / "net.pt2", Large(), torch.zeros(1, 16, 16, 3))
    content = to_tflite(path)
    made = quantize(content, "static_int8", ranges(observe(content, frames, SPEC), "min_max"), "per_tensor")
    model = schema.Model.GetRootAs(made, 0)
    outside = [i for i in range(model.BuffersLength()) if model.Buffers(i).Offset() > 1]
    assert len(outside) >= 2, "then this file tests nothing"
    return made


def outputs(content: bytes, frames: Frame) -> np.ndarray:
    return run_all(content, frames, SPEC, "large")


@pytest.mark.slow
def test_they_are_weights_and_no_activations(int8: bytes) -> None:
    assert all(op.activations.count("int8") <= 2 for op in list_ops(int8) if op.name == "CONV_2D")


def test_the_control_damages_them(int8: bytes, frames: Frame) -> None:
    model, broken = schema.Model.GetRootAs(int8, 0), shuffle_weights(int8)
    graph = model.Subgraphs(0)
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        place, size = model.Buffers(tensor.Buffer()).Offset(), model.Buffers(tensor.Buffer()).Size()
        if place > 1 and tensor.Type() == schema.TensorType.INT8:
            assert int8[place : place + size] != broken[place : place + size]
    assert np.abs(outputs(int8, frames) - outputs(broken, frames)).max() > 0


def test_they_come_along_when_objects_are_packed_again(int8: bytes, frames: Frame) -> None:
    assert np.array_equal(outputs(pack(unpack(int8)), frames), outputs(int8, frames))
    assert np.array_equal(outputs(lower(int8), frames), outputs(int8, frames))


def test_they_are_found_behind_the_metadata(int8: bytes, frames: Frame) -> None:
    labels = OutputSpec("classify", "softmax", ("a", "b", "c", "d"))
    moved = with_metadata(int8, name="large", version="1", input=SPEC, output=labels)
    assert np.array_equal(outputs(moved, frames), outputs(int8, frames))
    again = with_metadata(moved, name="large", version="2", input=SPEC, output=labels)
    assert np.array_equal(outputs(again, frames), outputs(int8, frames))
    model = schema.Model.GetRootAs(moved, 0)
    places = [model.Buffers(i).Offset() for i in range(model.BuffersLength())]
    old = schema.Model.GetRootAs(int8, 0)
    before = [old.Buffers(i).Offset() for i in range(old.BuffersLength())]
    assert {(a - b) % 16 for a, b in zip(places, before, strict=False) if b > 1} == {0}
