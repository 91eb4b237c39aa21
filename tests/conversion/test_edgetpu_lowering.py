"""The rewrites for the Edge TPU's compiler: the same results, and the op versions that it accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.edgetpu.lowering import lower
from converters.edgetpu.rules import map_ops
from converters.edgetpu.versions import needed_version
from converters.tflite.graph import Node, pack, read_graph, unpack
from sightline.interpreter import Interpreter

FRAME = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def nodes(content: bytes) -> tuple[Node, ...]:
    return read_graph(unpack(content)).nodes


def versions(content: bytes) -> dict[str, int]:
    return {n.name: n.version for n in nodes(content)}


@pytest.mark.slow
@pytest.mark.parametrize("delegate", ["none", "xnnpack"])
@pytest.mark.parametrize("scheme", ["static_int8", "static_int8_float_io", "per_channel"])
def test_a_lowered_graph_computes_the_same_to_the_last_bit(
    mobile: dict[str, bytes], scheme: str, delegate: Any
) -> None:
    plain, lowered = mobile[scheme], lower(mobile[scheme])
    assert plain != lowered
    actual = Interpreter(lowered, delegate=delegate)(FRAME)[0]
    assert np.array_equal(actual, Interpreter(plain, delegate=delegate)(FRAME)[0])
    assert not np.array_equal(actual, Interpreter(lowered, delegate=delegate)(255 - FRAME)[0])


def test_versions_are_those_that_tensorflow_2_5_gave_int8(mobile: dict[str, bytes]) -> None:
    assert versions(mobile["static_int8"])["CONV_2D"] == 1, (
        "the quantizer writes them right now: lower() needs no versions"
    )
    assert versions(lower(mobile["static_int8"])) == {
        "ADD": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "MEAN": 2, "MUL": 2, "PAD": 2, "SUB": 2,
        "TRANSPOSE": 2,
    }  # fmt: skip


def test_newer_versions_come_down_and_uint8_has_its_own(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    for code in model.operatorCodes:
        code.version += 5
    newer = pack(model)
    assert versions(newer)["CONV_2D"] == 6
    assert map_ops(nodes(newer)).first_unmapped == 0
    assert versions(lower(newer)) == versions(lower(mobile["static_int8"]))
    conv = next(n for n in nodes(mobile["static_int8"]) if n.name == "CONV_2D")
    unsigned = replace(conv, inputs=tuple(replace(t, dtype="uint8") for t in conv.inputs if t is not None))
    assert (needed_version(conv), needed_version(unsigned)) == (3, 1)


def test_a_missing_bias_becomes_zeros_in_the_scale_of_the_products(mobile: dict[str, bytes]) -> None:
    before = next(n for n in nodes(mobile["static_int8"]) if n.name == "FULLY_CONNECTED")
    after = next(n for n in nodes(lower(mobile["static_int8"])) if n.name == "FULLY_CONNECTED")
    data, weights, bias = after.inputs
    assert before.input(2) is None
    assert data is not None and weights is not None and bias is not None
    assert (bias.dtype, bias.shape, set(bias.numbers)) == ("int32", (5,), {0})
    assert bias.scales == pytest.approx([data.scales[0] * weights.scales[0]])
    assert not after.option("keepNumDims")


def test_sizes_are_fixed_and_nothing_is_left_over(mobile: dict[str, bytes]) -> None:
    model = unpack(mobile["static_int8"])
    model.subgraphs[0].tensors[0].shapeSignature = np.asarray([-1, 32, 32, 3], np.int32)
    unused = schema.OperatorCodeT()
    unused.builtinCode = unused.deprecatedBuiltinCode = schema.BuiltinOperator.ARG_MAX
    model.operatorCodes.append(unused)
    dynamic = pack(model)
    assert not nodes(dynamic)[0].inputs[0].fixed  # type: ignore[union-attr]
    lowered = unpack(lower(dynamic))
    assert all(t.shapeSignature is None for t in lowered.subgraphs[0].tensors)
    assert len(lowered.operatorCodes) == len(versions(lower(dynamic)))


def test_lowering_twice_changes_nothing(mobile: dict[str, bytes]) -> None:
    assert lower(lower(mobile["static_int8"])) == lower(mobile["static_int8"])
