"""The memory of a model's activations, computed from the lifetimes of its tensors.

Method of the arena: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020), greedy by
size for offset calculation. TFLite's planner does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.tflite.graph import Graph, Node

_ALIGNMENT = 64  # bytes, of a tensor in TFLite's arena


@dataclass(frozen=True)
class Memory:
    """Bytes of the activations.

    arena_bytes: as TFLite's planner lays them out, without the kernels' scratch memory.
    peak_bytes: of the tensors that are needed at the same time. No plan needs less.
    peak_op: index of the op at which that is.
    """

    arena_bytes: int
    peak_bytes: int
    peak_op: int


def plan_memory(graph: Graph) -> Memory:
    """The activations' memory. The model's inputs and outputs live from the first op to the last, as in TFLite."""
    end = len(graph.nodes)
    operands = {t.index: t for t in (*graph.inputs, *(t for n in graph.nodes for t in n.outputs))}
    first = {t.index: n.index for n in reversed(graph.nodes) for t in n.outputs} | {t.index: 0 for t in graph.inputs}
    # a tensor that nothing reads is never freed
    last = dict.fromkeys(operands, end) | {
        t.index: n.index for n in graph.nodes for t in n.inputs if t and t.index in operands
    }
    last |= {t.index: end for t in (*graph.inputs, *graph.outputs)}
    for index in _persistent(graph.nodes):
        operands.pop(index, None)

    live = [sum(t.bytes for i, t in operands.items() if first[i] <= k <= last[i]) for k in range(max(1, end))]
    order = sorted(operands, key=lambda i: (first[i] > 0 or last[i] < end, -operands[i].bytes, first[i]))
    spans: dict[int, tuple[int, int]] = {}
    for i in order:
        busy = sorted(spans[k] for k in spans if first[k] <= last[i] and first[i] <= last[k])
        start = _smallest_gap(busy, operands[i].bytes)
        spans[i] = (start, start + operands[i].bytes)
    peak = max(live)
    return Memory(max((stop for _, stop in spans.values()), default=0), peak, live.index(peak))


def _smallest_gap(busy: Sequence[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap for `size` bytes between the (start, stop) of others; after them if no gap fits."""
    best, width, cursor = -1, 0, 0
    for start, stop in busy:
        aligned = -(-cursor // _ALIGNMENT) * _ALIGNMENT
        if aligned + size <= start and (best < 0 or start - cursor < width):
            best, width = aligned, start - cursor
        cursor = max(cursor, stop)
    return best if best >= 0 else -(-cursor // _ALIGNMENT) * _ALIGNMENT


def _persistent(nodes: Sequence[Node]) -> list[int]:
    """Tensors computed from constants alone, such as float weights from float16: they are outside the arena."""
    return [t.index for n in nodes if n.inputs and not any(t and not t.constant for t in n.inputs) for t in n.outputs]
