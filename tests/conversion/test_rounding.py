"""What quantization-aware training rounds is what the int8 model rounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ai_edge_litert import interpreter as litert

from converters.quantize.calibrate import observe, ranges
from converters.quantize.quantize import quantize
from converters.sources.from_torch import convert_program, open_program
from converters.tflite.ops import list_ops
from sightline.interpreter import Interpreter
from sightline.preprocess import Frame, InputSpec
from tests.support.models import Neighbours
from trainer.export import save_program
from trainer.model import Classifier
from trainer.quantization_aware import FakeQuantizedActivation, calibrate, fake_quantized

SPEC = InputSpec(16, 16)
# they hold no numbers of their own
MOVES = ("PAD", "PADV2", "MAX_POOL_2D", "RESHAPE", "TRANSPOSE")


@pytest.fixture(scope="module")
def frames() -> Frame:
    """uint8 [32, 16, 16, 3], each of another brightness."""
    rng = np.random.default_rng(0)
    return rng.integers(0, np.linspace(40, 256, 32).astype(int)[:, None, None, None], (32, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def neighbours() -> Neighbours:
    torch.manual_seed(0)
    return Neighbours().eval()


@pytest.fixture(scope="module")
def int8(neighbours: Neighbours, frames: Frame) -> bytes:
    program = convert_program(open_program(save_program(neighbours, SPEC), "neighbours"), "neighbours")
    return quantize(program, "static_int8", ranges(observe(program, frames, SPEC), "min_max"), "per_channel")


@pytest.mark.slow
def test_it_rounds_the_tensors_that_tflite_has_by_the_same_scales(
    neighbours: Neighbours, frames: Frame, int8: bytes
) -> None:
    net = fake_quantized(neighbours, 16, torch.device("cpu"))
    calibrate(net, frames, torch.device("cpu"))
    simulated = [float(m.high - m.low) / 255 for m in net.modules() if isinstance(m, FakeQuantizedActivation)]
    interpreter = litert.Interpreter(model_content=int8)
    scale = {d["name"]: d["quantization"][0] for d in interpreter.get_tensor_details()}
    real = [scale[op.output] for op in list_ops(int8) if op.name not in MOVES]
    assert len(real) == 6
    assert simulated == pytest.approx(real, rel=1e-4)


def test_it_gives_what_the_int8_model_gives(neighbours: Neighbours, frames: Frame, int8: bytes) -> None:
    net = fake_quantized(neighbours, 16, torch.device("cpu"))
    calibrate(net, frames, torch.device("cpu"))
    x = torch.from_numpy(frames).float()
    with torch.no_grad():
        simulated, exact = net(x).numpy(), neighbours(x).numpy()
    interpreter = Interpreter(int8, SPEC, delegate="none")
    real = np.concatenate([interpreter(frame)[0] for frame in frames])
    step = interpreter.outputs[0].scale
    assert np.abs(simulated - real).max() < 2.01 * step
    # the simulation predicts the noise itself, not only its size
    assert np.square(simulated - real).mean() < 0.5 * np.square(exact - real).mean()


@pytest.mark.slow
def test_normalisation_is_one_op_in_int8(frames: Frame) -> None:
    torch.manual_seed(0)
    model = Classifier(torch.nn.Conv2d(3, 4, 3, padding=1), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()
    program = convert_program(open_program(save_program(model, SPEC), "model"), "model")
    names = [
        op.name
        for op in list_ops(
            quantize(program, "static_int8", ranges(observe(program, frames, SPEC), "min_max"), "per_channel")
        )
    ]
    assert names[:2] == ["DEPTHWISE_CONV_2D", "PAD"] or names[:2] == ["DEPTHWISE_CONV_2D", "CONV_2D"]
    assert not {"SUB", "MUL"} & set(names)
