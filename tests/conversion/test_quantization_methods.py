"""The methods that make int8 more accurate: each does what its paper describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.evaluate.run_images import run_all
from converters.quantize.bias_correction import correct_biases, rounded
from converters.quantize.calibrate import METHODS, Activation, observe, ranges
from converters.quantize.cross_layer_equalization import equalize
from converters.quantize.mixed_precision import OpSensitivity, float_sets, rank_ops
from converters.quantize.quantize import quantize
from converters.sources import from_torch as torch_source
from converters.tflite.layers import Network
from converters.tflite.ops import list_ops
from sightline.preprocess import InputSpec
from tests.conftest import SIZE
from tests.support.conversion import save_program

SPEC = InputSpec(SIZE, SIZE)


class Pairs(nn.Module):
    """What equalization may pass through (padding, pooling, a depthwise layer), and what it may not (a residual)."""

    def __init__(self, residual: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.with_residual = residual
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.residual = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            for layer in (self.first, self.depthwise, self.pointwise, self.residual):
                layer.weight *= torch.logspace(0, -2, 8).view(-1, 1, 1, 1)
                layer.bias.uniform_(0.1, 0.3).mul_(torch.logspace(0, -2, 8))
            self.pointwise.weight *= torch.logspace(0, 2, 8)[None, :, None, None]
            self.residual.weight *= torch.logspace(0, 2, 8)[None, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.permute(0, 3, 1, 2) / 255))
        x = torch.relu(self.depthwise(x))
        x = torch.relu(self.pointwise(x))
        if not self.with_residual:
            return x.mean((2, 3))
        x = x + torch.nn.functional.hardswish(self.residual(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, np.ndarray, dict[str, Activation]]:
    path = save_program(tmp_path_factory.mktemp("pairs") / "net.pt2", Pairs(), torch.zeros(1, SIZE, SIZE, 3))
    content = torch_source.to_tflite(path)
    rng = np.random.default_rng(0)  # of different colours, or all of them would give the same mean
    frames = np.uint8(rng.uniform(0, 1, (24, 1, 1, 3)) * rng.integers(0, 256, (24, SIZE, SIZE, 3)))
    return content, frames, observe(content, frames, SPEC)


@pytest.mark.slow
def test_equalization_changes_weights_and_no_output(pairs: tuple[bytes, np.ndarray, dict[str, Activation]]) -> None:
    content, frames, activations = pairs
    changed, count = equalize(content, activations)
    assert count == 2, "first with depthwise, depthwise with pointwise; the residual is read by two"
    assert changed != content
    before, after = run_all(content, frames, SPEC, "net"), run_all(changed, frames, SPEC, "net")
    assert np.allclose(before, after, rtol=1e-4, atol=1e-5)
    layers = list(Network(content).layers())
    for layer in layers[:2]:  # each with 100:1 between its channels before
        name = Network(content).name(layer.output)
        old, new = activations[name].channel_high, observe(changed, frames, SPEC)[name].channel_high
        assert old.max() / old.min() > 50
        assert new.max() / new.min() < 0.2 * old.max() / old.min()


@pytest.mark.slow
def test_equalization_makes_int8_better(pairs: tuple[bytes, np.ndarray, dict[str, Activation]], tmp_path: Path) -> None:
    """Checks the layers that allow the correction. The rounding of a residual after them would hide its effect."""
    path = save_program(tmp_path / "net.pt2", Pairs(residual=False), torch.zeros(1, SIZE, SIZE, 3))
    content, frames = torch_source.to_tflite(path), pairs[1]
    expected = run_all(content, frames, SPEC, "net")

    def error(float_model: bytes) -> float:
        limits = ranges(observe(float_model, frames, SPEC), "min_max")
        int8 = quantize(float_model, "static_int8_float_io", limits, "per_channel")
        return float(np.square(run_all(int8, frames, SPEC, "net") - expected).mean())

    assert error(equalize(content, observe(content, frames, SPEC))[0]) < 0.5 * error(content)


def test_biases_take_back_the_shift_of_rounded_weights(
    pairs: tuple[bytes, np.ndarray, dict[str, Activation]],
) -> None:
    """With the pointwise layer's weights rounded and nothing else, its mean output is float's again."""
    content, frames, activations = pairs
    corrected, count = correct_biases(content, activations, "per_channel")
    network = Network(content)
    assert count == len(list(network.layers()))
    layer = next(x for x in network.layers() if x.activation == 0 and network.values(x.weights).shape[1:3] == (1, 1))
    name = network.name(layer.output)

    def mean(biases: bytes) -> np.ndarray:
        made = Network(content)
        made.replace(layer.weights, rounded(made.values(layer.weights), False, False))
        made.replace(layer.bias, Network(biases).values(layer.bias))  # type: ignore[arg-type]
        return observe(made.pack(), frames, SPEC)[name].channel_mean

    expected = activations[name].channel_mean
    assert np.abs(mean(corrected) - expected).max() < 0.1 * np.abs(mean(content) - expected).max()


def test_rounded_weights_are_what_the_quantizer_writes(
    pairs: tuple[bytes, np.ndarray, dict[str, Activation]],
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content, _, activations = pairs
    network = Network(content)
    int8 = quantize(content, "static_int8", ranges(activations, "min_max"), "per_channel")
    model = schema.Model.GetRootAs(int8, 0)
    graph = model.Subgraphs(0)
    stored = {graph.Tensors(i).Name().decode(): graph.Tensors(i) for i in range(graph.TensorsLength())}
    for layer in network.layers():
        tensor = stored[network.name(layer.weights)]
        weights = network.values(layer.weights)
        values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.int8).reshape(weights.shape)
        scale = tensor.Quantization().ScaleAsNumpy()
        shaped = scale if layer.depthwise else scale.reshape(-1, *(1,) * (weights.ndim - 1))
        assert np.allclose(rounded(weights, layer.depthwise, False), values * shaped, atol=1e-6)


def test_macs_are_what_a_hand_counts(pairs: tuple[bytes, np.ndarray, dict[str, Activation]]) -> None:
    half = SIZE // 2
    by_hand = {
        "CONV_2D": SIZE * SIZE * 8 * 27 + 2 * half * half * 8 * 8,
        "DEPTHWISE_CONV_2D": half * half * 8 * 9,
        "FULLY_CONNECTED": 4 * 8,
    }
    counted: dict[str, int] = {}
    for sensitivity in rank_ops(pairs[0], lambda outputs: 0.0):
        counted[sensitivity.op.name] = counted.get(sensitivity.op.name, 0) + sensitivity.macs
    assert {name: counted[name] for name in by_hand} == by_hand


def test_of_very_many_ops_neighbours_are_looked_at_together(
    pairs: tuple[bytes, np.ndarray, dict[str, Activation]],
) -> None:
    every = [op.output for op in list_ops(pairs[0]) if op.computes_in_float]
    calls: list[list[str]] = []

    def divergence_of(outputs: Sequence[str]) -> float:
        calls.append(list(outputs))
        return float(len(calls))

    rank_ops(pairs[0], divergence_of)
    assert calls == [[output] for output in every]
    calls.clear()
    sensitivities = rank_ops(pairs[0], divergence_of, max_groups=2)
    half = -(-len(every) // 2)
    assert calls == [every[:half], every[half:]]
    assert [s.op.output for s in sensitivities] == every[half:] + every[:half], (
        "the dearest first, neighbours in their order"
    )


def test_ops_that_are_left_in_float_compute_in_float_and_the_output_with_them(
    pairs: tuple[bytes, np.ndarray, dict[str, Activation]],
) -> None:
    content, frames, activations = pairs
    sensitivities = rank_ops(content, lambda outputs: 0.0)
    last = list_ops(content)[-1].output
    mixed = quantize(content, "static_int8", ranges(activations, "min_max"), "per_channel", (last,))
    left = [op for op in list_ops(mixed) if op.computes_in_float]
    assert [op.name for op in left] == ["FULLY_CONNECTED"]
    assert len(sensitivities) == sum(op.computes_in_float for op in list_ops(content))
    expected = run_all(content, frames, SPEC, "net")
    all_int8 = quantize(content, "static_int8", ranges(activations, "min_max"), "per_channel")
    assert np.square(run_all(mixed, frames, SPEC, "net") - expected).mean() < (
        np.square(run_all(all_int8, frames, SPEC, "net") - expected).mean()
    )


def test_float_ops_keep_to_the_time_that_they_may_take(pairs: tuple[bytes, np.ndarray, dict[str, Activation]]) -> None:
    op = list_ops(pairs[0])[0]
    sensitivities = [OpSensitivity(op, 1.0 / (i + 1), n) for i, n in enumerate((1000, 10, 10, 10, 10, 10))]
    sets = float_sets(sensitivities)
    assert [len(s) for s in sets] == [1, 2, 4, 5], "the first would take most of the time"
    assert float_sets([OpSensitivity(op, 1.0, 100)]) == []


def act(values: np.ndarray, **changes: object) -> Activation:
    channels = values.reshape(-1, values.shape[-1])
    a = Activation(
        float(values.min()), float(values.max()), channels.reshape(-1).astype(np.float32), channels.min(0),
        channels.max(0), channels.mean(0), np.square(channels).mean(0), 2,
    )  # fmt: skip
    return Activation(**{**a.__dict__, **changes})


def test_each_method_sets_its_range() -> None:
    values = np.random.default_rng(0).normal(0, 1, (100_000, 4)).astype(np.float32)
    values[0, 0] = 100.0
    activations = {"a": act(values), "bytes": act(values, pinned=True, low=0.0, high=255.0)}

    def limits(method: str, name: str = "a") -> tuple[float, float]:
        r = ranges(activations, method)[name]  # type: ignore[arg-type]
        assert r["min"].shape == (1, 1)
        return float(r["min"].item()), float(r["max"].item())

    assert limits("min_max") == (pytest.approx(values.min()), 100.0)
    assert limits("percentile_99.99") == (
        pytest.approx(np.percentile(values, 0.01), rel=1e-3), pytest.approx(np.percentile(values, 99.99), rel=1e-3),
    )  # fmt: skip
    low, high = limits("mse")
    assert low == pytest.approx(values.min(), rel=0.5)
    assert 35 < high < 100, "0.4 of the range is the least that is tried"
    for method in METHODS:
        assert limits(method, "bytes") == (0.0, 255.0)


def test_least_squares_is_no_worse_than_any_other_clipping() -> None:
    values = np.random.default_rng(0).laplace(0, 1, (50_000, 1)).astype(np.float32)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        stored = np.clip(np.round((values - low) / step), 0, 255) * step + low
        return float(np.square(stored - values).mean())

    by = {}
    for method in METHODS:
        r = ranges({"a": act(values)}, method)["a"]
        by[method] = error(float(r["min"].item()), float(r["max"].item()))
    assert by["mse"] <= 1.02 * min(by.values())
    assert by["mse"] < 0.95 * by["min_max"]


def test_observation_does_not_depend_on_the_number_of_cores(
    pairs: tuple[bytes, np.ndarray, dict[str, Activation]],
) -> None:
    content, frames, activations = pairs
    for name, a in observe(content, frames, SPEC, workers=1).items():
        for key, value in a.__dict__.items():
            assert np.array_equal(value, getattr(activations[name], key)), (name, key)
