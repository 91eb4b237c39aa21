"""Which ops cost most in int8, and which sets of them are worth leaving in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from converters.tflite.graph import Op, ops, unpack
from converters.tflite.ops import macs, read_graph

# a float op takes about so many times as long as an int8 one: 2.4 and 3.7 were measured on two whole models
FLOAT_COST = 3.0
# the mixed model may be expected to take so many times as long as the int8 one
SLOWDOWN = 1.25
# the ops of a transformer are many and small: where there are more than this, neighbours are looked at together
GROUPS = 128


@dataclass(frozen=True)
class OpSensitivity:
    """One op. divergence: of the outputs, in nats, when this op (with its group) alone is quantized. macs:
    multiply-accumulates, or the output's elements of an op that has none."""

    op: Op
    divergence: float
    macs: int


def rank_ops(content: bytes, divergence_of: Callable[[Sequence[str]], float]) -> tuple[OpSensitivity, ...]:
    """Each op that computes, with what it alone costs; the dearest first. divergence_of: some ops' first outputs -> of
    the model's outputs when only those ops are quantized."""
    work = [macs(node) or node.outputs[0].elements for node in read_graph(unpack(content)).nodes]
    every = [(op, work[i]) for i, op in enumerate(ops(content)) if op.computes_in_float]
    size = math.ceil(len(every) / GROUPS) or 1
    sensitivities = []
    for first in range(0, len(every), size):
        group = every[first : first + size]
        divergence = divergence_of([op.output for op, _ in group])
        sensitivities += [OpSensitivity(op, divergence, n) for op, n in group]
    return tuple(sorted(sensitivities, key=lambda s: -s.divergence))


def float_sets(sensitivities: Sequence[OpSensitivity]) -> list[tuple[str, ...]]:
    """Growing sets of the dearest ops, within the time that they may take.

    An op between two int8 ones gains little in float, for what goes in and out is rounded as before; the dearest ops
    are mostly neighbours (the first layers, the last), and neighbours keep what is between them in float.
    """
    total = sum(s.macs for s in sensitivities) or 1
    budget = (SLOWDOWN - 1) / (FLOAT_COST - 1) * total
    chosen: list[str] = []
    spent = 0
    for sensitivity in sensitivities:
        if spent + sensitivity.macs <= budget:
            spent += sensitivity.macs
            chosen.append(sensitivity.op.output)
    sizes = sorted({min(n, len(chosen)) for n in (1, 2, 4, 8, 16, 32)} - {0})
    return [tuple(chosen[:n]) for n in sizes]
