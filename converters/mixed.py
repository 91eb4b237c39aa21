"""Which ops cost most in int8, and which sets of them are worth leaving in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from converters.graph import Op, ops, unpack
from converters.nodes import macs, read_graph

# a float op takes about so many times as long as an int8 one: 2.4 and 3.7 were measured on two whole models
FLOAT_COST = 3.0
# the mixed model may be expected to take so many times as long as the int8 one
SLOWDOWN = 1.25


@dataclass(frozen=True)
class Share:
    """One op. divergence: of the outputs, in nats, when this op alone is quantized. macs: multiply-accumulates, or the
    output's elements of an op that has none."""

    op: Op
    divergence: float
    macs: int


def by_share(content: bytes, divergence_of: Callable[[str], float]) -> tuple[Share, ...]:
    """Each op that computes, with what it alone costs; the dearest first. divergence_of: an op's first output -> of the
    outputs when only that op is quantized."""
    work = [macs(node) or node.outputs[0].elements for node in read_graph(unpack(content)).nodes]
    shares = [Share(op, divergence_of(op.output), work[i]) for i, op in enumerate(ops(content)) if op.computes_in_float]
    return tuple(sorted(shares, key=lambda s: -s.divergence))


def float_sets(shares: Sequence[Share]) -> list[tuple[str, ...]]:
    """Growing sets of the dearest ops, within the time that they may take.

    An op between two int8 ones gains little in float, for what goes in and out is rounded as before; the dearest ops
    are mostly neighbours (the first layers, the last), and neighbours keep what is between them in float.
    """
    total = sum(s.macs for s in shares) or 1
    budget = (SLOWDOWN - 1) / (FLOAT_COST - 1) * total
    chosen: list[str] = []
    spent = 0
    for share in shares:
        if spent + share.macs <= budget:
            spent += share.macs
            chosen.append(share.op.output)
    sizes = sorted({min(n, len(chosen)) for n in (1, 2, 4, 8, 16, 32)} - {0})
    return [tuple(chosen[:n]) for n in sizes]
