"""What is in a .tflite, and what LiteRT makes of it: pure reading, and a child process for each delegate.

Method of the arena: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020), greedy by
size for offset calculation, which is what TFLite's planner does.
"""

from __future__ import annotations

import io
import json
import signal
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from converters.edgetpu import rules as edgetpu
from converters.tflite.graph import unpack
from converters.tflite.ops import Graph, Node, Operand, macs, read_graph
from sightline.child import python
from sightline.errors import ModelError
from sightline.metadata import Metadata, read_metadata

_IDENTIFIER = b"TFL3"
_ALIGNMENT = 64  # bytes, of a tensor in TFLite's arena
_PROBE_TIMEOUT_S = 120
_WEIGHTS_AT = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1}


@dataclass(frozen=True)
class End:
    """An input or output of the model. scales, zero_points: none where it is not quantized."""

    name: str
    shape: tuple[int, ...]
    fixed: bool
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


@dataclass(frozen=True)
class OpRow:
    """An op. activations: 'in > out' dtypes. weights: dtype and granularity of its largest constant, or ''. macs:
    multiply-accumulates of convolutions, fully-connected layers and matrix products. xnnpack: whether it was taken,
    None where that was not measured. edgetpu: why the compiler would not map it."""

    index: int
    name: str
    version: int
    shape: tuple[int, ...]
    activations: str
    weights: str
    macs: int
    xnnpack: bool | None
    edgetpu: edgetpu.Problem | None


@dataclass(frozen=True)
class Parameters:
    """Constants that are learned (weights and biases, not axes and sizes), each buffer once: elements and bytes."""

    dtype: str
    elements: int
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes of activations, computed from the tensors' lifetimes. arena: as TFLite's planner lays them out, kernels'
    scratch not included. largest_live: of the tensors that are needed at once, at op `at`: no plan needs less."""

    arena: int
    largest_live: int
    at: int


@dataclass(frozen=True)
class Runtime:
    """Measured, in a child process. error: why LiteRT does not load it, or ''. failure: why it does not run on zeros,
    or ''. resident: bytes by which the process grew from before it was loaded until it had run once, LiteRT's own
    pages included; None where the system does not say. partitions: groups of ops that XNNPACK runs as one."""

    error: str
    failure: str
    resident_own: int | None
    resident_xnnpack: int | None
    partitions: int


@dataclass(frozen=True)
class Embedded:
    """entries: names of the model's metadata. files: names of the files that are appended to it, such as labels.
    metadata: the standard's, where the model has some that can be read. damage: why it cannot."""

    entries: tuple[str, ...]
    files: tuple[str, ...]
    metadata: Metadata | None = None
    damage: str = ""


@dataclass(frozen=True)
class Inspection:
    bytes: int
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    ops: tuple[OpRow, ...]
    subgraphs: int
    parameters: tuple[Parameters, ...]
    memory: Memory
    runtime: Runtime
    edgetpu: edgetpu.EdgeTpuMapping
    embedded: Embedded

    @property
    def macs(self) -> int:
        return sum(op.macs for op in self.ops)

    @property
    def left(self) -> list[OpRow]:
        """The ops that XNNPACK did not take."""
        return [op for op in self.ops if op.xnnpack is False]


def inspect_model(content: bytes, name: str) -> Inspection:
    """Everything about a .tflite. Raises ModelError for bytes that are none, and for one that crashes LiteRT."""
    if content[4:8] != _IDENTIFIER:
        what = "empty" if not content else f"not a .tflite (bytes 4 to 8 are {content[4:8]!r}, not {_IDENTIFIER!r})"
        raise ModelError(f"{name}: {what}")
    own, xnnpack = (_probe(content, kernels, name) for kernels in ("none", "xnnpack"))
    error = own["error"] or xnnpack["error"] or ""
    try:
        model = unpack(content)
        graph = read_graph(model)
        taken = None if error else _taken(graph.nodes, xnnpack["delegates"])
        reasons = edgetpu.problems(graph.nodes)
        return Inspection(
            bytes=len(content),
            inputs=tuple(map(_end, graph.inputs)),
            outputs=tuple(map(_end, graph.outputs)),
            ops=tuple(_row(n, taken, reasons[n.index]) for n in graph.nodes),
            subgraphs=len(model.subgraphs),
            parameters=_parameters(graph),
            memory=arena(graph),
            runtime=Runtime(
                error=error,
                failure=own.get("failure") or xnnpack.get("failure") or "",
                resident_own=own.get("resident"),
                resident_xnnpack=xnnpack.get("resident"),
                partitions=len(xnnpack.get("delegates") or ()),
            ),
            edgetpu=edgetpu.map_ops(graph.nodes),
            embedded=embedded(content),
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise ModelError(f"{name}: its graph does not fit together: {error or e}") from None


def embedded(content: bytes) -> Embedded:
    """What travels inside the file. Damaged metadata does not hide the rest of a model: it is told in its place."""
    entries = tuple((m.name or b"").decode(errors="replace") for m in unpack(content).metadata or ())
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return Embedded(entries, (), *_metadata(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return Embedded(entries, tuple(archive.namelist()), *_metadata(content))


def _metadata(content: bytes) -> tuple[Metadata | None, str]:
    try:
        return read_metadata(content), ""
    except ModelError as e:
        return None, str(e)


def arena(graph: Graph) -> Memory:
    """The activations' memory. The model's inputs and outputs live from the first op to the last, as in TFLite."""
    end = len(graph.nodes)
    operands = {t.index: t for t in (*graph.inputs, *(t for n in graph.nodes for t in n.outputs))}
    first = {t.index: n.index for n in reversed(graph.nodes) for t in n.outputs} | {t.index: 0 for t in graph.inputs}
    # what nobody reads is never given back
    last = dict.fromkeys(operands, end) | {
        t.index: n.index for n in graph.nodes for t in n.inputs if t and t.index in operands
    }
    last |= {t.index: end for t in (*graph.inputs, *graph.outputs)}
    for index in _persistent(graph.nodes):
        operands.pop(index, None)

    live = [sum(t.bytes for i, t in operands.items() if first[i] <= k <= last[i]) for k in range(max(1, end))]
    order = sorted(operands, key=lambda i: (first[i] > 0 or last[i] < end, -operands[i].bytes, first[i]))
    placed: dict[int, tuple[int, int]] = {}
    for i in order:
        busy = sorted(placed[k] for k in placed if first[k] <= last[i] and first[i] <= last[k])
        start = _smallest_gap(busy, operands[i].bytes)
        placed[i] = (start, start + operands[i].bytes)
    largest = max(live)
    return Memory(max((stop for _, stop in placed.values()), default=0), largest, live.index(largest))


def _smallest_gap(busy: Sequence[tuple[int, int]], size: int) -> int:
    """Where `size` bytes fit best between the (start, stop) of others; after them where no gap is wide enough."""
    best, width, cursor = -1, 0, 0
    for start, stop in busy:
        aligned = -(-cursor // _ALIGNMENT) * _ALIGNMENT
        if aligned + size <= start and (best < 0 or start - cursor < width):
            best, width = aligned, start - cursor
        cursor = max(cursor, stop)
    return best if best >= 0 else -(-cursor // _ALIGNMENT) * _ALIGNMENT


def _persistent(nodes: Sequence[Node]) -> list[int]:
    """What is computed from constants alone, such as float weights from float16, is kept outside of the arena."""
    return [t.index for n in nodes if n.inputs and not any(t and not t.constant for t in n.inputs) for t in n.outputs]


def _probe(content: bytes, kernels: str, name: str) -> dict[str, object]:
    """What `probe.main` says, of all its lines. Raises ModelError where the process dies."""
    command = python("converters.inspect.runtime_probe", kernels)
    what = "XNNPACK" if kernels == "xnnpack" else "TFLite's own kernels"
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=_PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{name}: LiteRT is not done with it after {_PROBE_TIMEOUT_S} s (with {what})") from None
    found: dict[str, object] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    if done.returncode < 0:
        died = f"{signal.Signals(-done.returncode).name}, with {what}"
        raise ModelError(f"{name}: crashes LiteRT when {'it runs' if found else 'opened'} ({died}): do not deploy it")
    if done.returncode > 0 or not found:
        raise RuntimeError(f"the process that opens models failed: {done.stderr.decode(errors='replace')[-2000:]}")
    if found["error"]:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.decode(errors="replace").splitlines()]
        found["error"] = " ".join(
            [str(found["error"]), *(line for line in said if not line.startswith(("INFO", "W0")))]
        )
        if "flatbuffer" in str(found["error"]).lower():
            raise ModelError(f"{name}: damaged or cut off: LiteRT says: {found['error']}")
    return found


def _taken(nodes: Sequence[Node], delegates: object) -> set[int]:
    """Indices of the ops that delegates compute: whatever lies between a delegate's outputs and its inputs."""
    producer = {t.index: node for node in nodes for t in node.outputs}
    taken: set[int] = set()
    for delegate in delegates:  # type: ignore[attr-defined]
        given, open_ = set(delegate["inputs"]), list(delegate["outputs"])
        while open_:
            node = producer[open_.pop()]
            if node.index not in taken:
                taken.add(node.index)
                open_ += [t.index for t in node.inputs if t and t.index in producer and t.index not in given]
    return taken


def _end(tensor: Operand) -> End:
    return End(tensor.name, tensor.shape, tensor.fixed, tensor.dtype, tensor.scales, tensor.zero_points)


def _row(node: Node, taken: set[int] | None, reason: edgetpu.Problem | None) -> OpRow:
    flows_in = list(dict.fromkeys(t.dtype for t in node.inputs if t is not None and not t.constant))
    flows_out = list(dict.fromkeys(t.dtype for t in node.outputs))
    activations = (
        "/".join(flows_out) if flows_in in (flows_out, []) else f"{'/'.join(flows_in)} > {'/'.join(flows_out)}"
    )
    return OpRow(
        index=node.index,
        name=node.name,
        version=node.version,
        shape=node.outputs[0].shape if node.outputs else (),
        activations=activations,
        weights=_weights(node),
        macs=macs(node),
        xnnpack=None if taken is None else node.index in taken,
        edgetpu=reason,
    )


def _weights(node: Node) -> str:
    learned = [t for t in node.constants if _learned(t)]
    main = node.input(_WEIGHTS_AT.get(node.name, -1)) if node.name in _WEIGHTS_AT else None
    if main is None or not main.constant:
        if node.name in _WEIGHTS_AT or not learned:
            return ""
        main = max(learned, key=lambda t: t.bytes)
    granularity = {0: "", 1: " per-tensor"}.get(len(main.scales), " per-channel")
    return main.dtype + granularity


def _learned(tensor: Operand) -> bool:
    return tensor.constant and (tensor.dtype not in ("int32", "int64", "bool", "string") or bool(tensor.scales))


def _parameters(graph: Graph) -> tuple[Parameters, ...]:
    used = {t.buffer: t for n in graph.nodes for t in n.constants if _learned(t)}
    found: dict[str, tuple[int, int]] = {}
    for tensor in used.values():
        elements, size = found.get(tensor.dtype, (0, 0))
        found[tensor.dtype] = (elements + tensor.elements, size + len(tensor.data))
    return tuple(Parameters(d, n, b) for d, (n, b) in sorted(found.items(), key=lambda item: -item[1][1]))
