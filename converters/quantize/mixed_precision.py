"""Which ops cost most accuracy in int8, and which sets of them to leave in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from converters.tflite.graph import read_graph
from converters.tflite.ops import Op, list_ops, macs

# time of a float op over that of an int8 op: 2.4 and 3.7 were measured on two whole models
FLOAT_COST = 3.0
# expected time of the mixed model over that of the int8 model, at most
MAX_SLOWDOWN = 1.25
# a transformer has many small ops: above this number, neighbouring ops are measured together
MAX_GROUPS = 128
SET_SIZES = (1, 2, 4, 8, 16, 32)  # numbers of float ops that are tried


@dataclass(frozen=True)
class OpSensitivity:
    """What it costs to quantize one op.

    divergence: of the outputs, in nats, when only this op (with its group) is quantized.
    macs: multiply-accumulates, or the output's elements for an op that has none.
    """

    op: Op
    divergence: float
    macs: int


def rank_ops(
    content: bytes, divergence_of: Callable[[Sequence[str]], float], max_groups: int = MAX_GROUPS
) -> tuple[OpSensitivity, ...]:
    """Measure each op that computes, the most sensitive first.

    divergence_of: takes the first outputs of some ops, and returns the divergence of the model's outputs when only
        those ops are quantized.
    max_groups: number of measurements, at most.
    """
    work = [macs(node) or node.outputs[0].elements for node in read_graph(content).nodes]
    candidates = [(op, work[i]) for i, op in enumerate(list_ops(content)) if op.computes_in_float]
    size = math.ceil(len(candidates) / max_groups) or 1
    sensitivities = []
    for first in range(0, len(candidates), size):
        group = candidates[first : first + size]
        divergence = divergence_of([op.output for op, _ in group])
        sensitivities += [OpSensitivity(op, divergence, n) for op, n in group]
    return tuple(sorted(sensitivities, key=lambda s: -s.divergence))


def float_sets(sensitivities: Sequence[OpSensitivity]) -> list[tuple[str, ...]]:
    """Growing sets of the most sensitive ops, within `MAX_SLOWDOWN`. Each op is named by its first output.

    A single float op between two int8 ops gains little: its inputs and outputs are rounded as before. The most
    sensitive ops are mostly neighbours (the first layers, the last), and neighbours keep the tensors between them in
    float.
    """
    total = sum(s.macs for s in sensitivities) or 1
    budget = (MAX_SLOWDOWN - 1) / (FLOAT_COST - 1) * total
    outputs: list[str] = []
    cost = 0
    for sensitivity in sensitivities:
        if cost + sensitivity.macs <= budget:
            cost += sensitivity.macs
            outputs.append(sensitivity.op.output)
    sizes = sorted({min(n, len(outputs)) for n in SET_SIZES} - {0})
    return [tuple(outputs[:n]) for n in sizes]
