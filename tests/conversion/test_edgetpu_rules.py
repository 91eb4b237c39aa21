"""Which ops the Edge TPU's compiler maps."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from converters.edgetpu.lowering import lower
from converters.edgetpu.rules import map_ops, problems
from converters.tflite.graph import Node, Operand, read_graph, unpack

NO_DATA = np.empty(0, np.uint8)


def nodes(content: bytes) -> tuple[Node, ...]:
    return read_graph(unpack(content)).nodes


def versions(content: bytes) -> dict[str, int]:
    return {n.name: n.version for n in nodes(content)}


def test_the_compiler_would_take_all_of_a_lowered_model(mobile: dict[str, bytes]) -> None:
    before, after = map_ops(nodes(mobile["static_int8"])), map_ops(nodes(lower(mobile["static_int8"])))
    assert (before.first_unmapped, before.unmapped_name, before.problem and before.problem.reason) == (
        16,
        "FULLY_CONNECTED",
        "no bias",
    )
    assert (after.mapped_ops, after.ops, after.complete, after.first_unmapped) == (17, 17, True, None)
    assert after.uncertain_kinds == ("TRANSPOSE",)


def test_per_channel_weights_of_a_fully_connected_layer_stop_it_there(mobile: dict[str, bytes]) -> None:
    m = map_ops(nodes(lower(mobile["per_channel"])))
    assert (m.mapped_ops, m.first_unmapped, m.unmapped_name, m.complete) == (16, 16, "FULLY_CONNECTED", False)
    assert m.problem is not None
    assert m.problem.reason == "per-channel weights"
    assert "--device coral_usb" in m.problem.fix


def test_float_ends_stay_on_the_cpu_and_stop_nothing(mobile: dict[str, bytes]) -> None:
    m = map_ops(nodes(lower(mobile["static_int8_float_io"])))
    assert (m.cpu_ops_before, m.mapped_ops, m.cpu_ops_after, m.ops, m.complete) == (1, 17, 1, 19, True)


@pytest.mark.parametrize("scheme", ["float32", "float16", "dynamic_int8"])
def test_a_model_that_computes_in_float_maps_nothing(mobile: dict[str, bytes], scheme: str) -> None:
    m = map_ops(nodes(mobile[scheme]))
    assert (m.mapped_ops, m.complete) == (0, False)
    assert m.problem is not None
    assert "--scheme static_int8" in m.problem.fix


def operand(shape: tuple[int, ...], dtype: str = "int8", numbers: Any = None, scales: int = 1) -> Operand:
    data = NO_DATA if numbers is None else np.asarray(numbers, dtype).reshape(-1).view(np.uint8)
    return Operand(0, "t", shape, True, dtype, (0.5,) * scales, (0,) * scales, 0, data)


def node(name: str, *inputs: Operand, out: tuple[int, ...] = (1, 4, 4, 8), version: int = 1, **options: Any) -> Node:
    table = type("Options", (), options)()
    return Node(0, name, version, inputs, (operand(out),), table)


X = operand((1, 4, 4, 8))


WEIGHTS, BIAS = operand((8, 1, 1, 8), numbers=np.ones((8, 1, 1, 8))), operand((8,), "int32", np.zeros(8))


ZEROS = operand((1, 4), numbers=[0] * 4)


def axes(*values: int) -> Operand:
    return operand((len(values),), "int32", values)


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        (node("MAX_POOL_2D", X), node("MAX_POOL_2D", X, fusedActivationFunction=1), "a fused activation"),
        (node("MEAN", X, axes(1, 2)), node("MEAN", X, axes(0, 1)), "a reduction over the batch"),
        (node("MEAN", X, axes(-1)), node("MEAN", operand((1, 4, 4, 6)), axes(3)), "a mean over 6 channels"),
        (node("SUM", X, axes(1)), node("SUM", X, axes(-4)), "a reduction over the batch"),
        (node("SUM", X, axes(1)), node("SUM", X, operand((1,), "int8")), "axes that are not constant"),
        (node("PAD", X, axes(0, 0, 1, 1)), node("PAD", X, axes(1, 0, 0, 0)), "padding of the batch"),
        (node("SOFTMAX", X, out=(1, 16_000)), node("SOFTMAX", X, out=(1, 16_001)), "a softmax over"),
        (node("SOFTMAX", X, out=(1, 10)), node("SOFTMAX", X, out=(1, 4, 10)), "a softmax over"),
        (node("PACK", X, axis=1), node("PACK", X, axis=0), "packing along the batch"),
        (node("SPLIT", axes(3), X), node("SPLIT", axes(0), X), "splitting along the batch"),
        (
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1, 1)),
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1, 2)),
            "strides other than 1",
        ),
        (
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1)),
            node("STRIDED_SLICE", X, axes(0), axes(1), axes(1), newAxisMask=1),
            "an ellipsis or a new axis",
        ),
        (
            node("CONV_2D", X, WEIGHTS, BIAS, dilationWFactor=2, dilationHFactor=2),
            node("CONV_2D", X, WEIGHTS, BIAS, dilationWFactor=2, dilationHFactor=1),
            "different dilations in x and y",
        ),
        (node("CONV_2D", X, WEIGHTS, BIAS), node("CONV_2D", X, X, BIAS), "weights that are not constant"),
        (node("CONV_2D", X, WEIGHTS, BIAS), node("CONV_2D", X, WEIGHTS), "no bias"),
        (node("CONV_2D", X, WEIGHTS, BIAS, version=5), node("CONV_2D", X, WEIGHTS, BIAS, version=6), "version 6"),
        (
            node("QUANTIZE", X, version=2),
            node("QUANTIZE", X, version=3),
            "version 3; the compiler knows versions up to 2",
        ),
        (node("CONCATENATION", X, ZEROS), node("CONCATENATION", X, WEIGHTS), "a constant input that is not zero"),
        (node("PRELU", X, operand((1, 1, 8))), node("PRELU", X, operand((4, 4, 8))), "an alpha with more than one"),
        (
            node("FULLY_CONNECTED", X, WEIGHTS, BIAS, out=(1, 8)),
            node("FULLY_CONNECTED", X, WEIGHTS, BIAS, out=(4, 8)),
            r"an output of \[4, 8\]",
        ),
        (node("ADD", X, X), node("ADD", X, operand((2, 4, 4, 8))), "a batch of more than 1"),
        (node("ADD", X, X), node("ADD", X, operand((1, 8), "int16")), "its type is int16; int8 or uint8 is needed"),
        (node("ADD", X, X), node("ADD", X, operand((1, 8), "float32", [1.0])), "its type is float32; int8"),
        (node("ADD", X, X), node("ADD", X, replace(X, fixed=False)), "a size that is not fixed"),
        (node("RELU6", X), node("HARD_SWISH", X), "not an op of the Edge TPU"),
    ],
)
def test_a_limit_of_the_edge_tpu(good: Node, bad: Node, reason: str) -> None:
    assert problems([good]) == [None]
    (problem,) = problems([bad])
    assert problem is not None
    assert re.match(reason, problem.reason), problem.reason
