"""The content of a .tflite, and what LiteRT and its delegates do with it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from converters.edgetpu import rules as edgetpu
from converters.inspect.memory import Memory, plan_memory
from converters.inspect.probe import Kernels, Partition, ProbeResult, run_probe
from converters.tflite.graph import Graph, Node, Operand, read_graph, unpack
from converters.tflite.ops import macs
from sightline.errors import ModelError
from sightline.tflite_metadata import Metadata, read_metadata

_IDENTIFIER = b"TFL3"
_WEIGHTS_INPUT = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1, "CONV_3D": 1}
Probe = Callable[[bytes, Kernels, str], ProbeResult]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of the model.

    fixed: whether all sizes are fixed.
    scales, zero_points: empty where it is not quantized.
    """

    name: str
    shape: tuple[int, ...]
    fixed: bool
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


@dataclass(frozen=True)
class OpRow:
    """An op.

    shape: of its first output.
    activations: dtypes as 'in > out'.
    weights: dtype and granularity of its largest constant, or ''.
    macs: multiply-accumulates of convolutions, fully-connected layers and matrix products.
    xnnpack: whether XNNPACK runs it; None where that was not measured.
    edgetpu: why the Edge TPU's compiler does not map it.
    """

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
    """The learned constants of one dtype (weights and biases, not axes and sizes). Each buffer counts once."""

    dtype: str
    elements: int
    bytes: int


@dataclass(frozen=True)
class Runtime:
    """What LiteRT did with the model, in a child process.

    load_error: why LiteRT does not load it, or ''.
    run_error: why it does not run on zeros, or ''.
    resident_builtin, resident_xnnpack: growth of the process in bytes, with TFLite's own kernels and with XNNPACK; see
        `ProbeResult`.
    partitions: groups of ops that XNNPACK runs as one.
    """

    load_error: str
    run_error: str
    resident_builtin: int | None
    resident_xnnpack: int | None
    partitions: int


@dataclass(frozen=True)
class Embedded:
    """What is in the file beside the graph.

    metadata_names: names of the model's metadata entries.
    files: names of the appended files, such as labels.
    metadata: TFLite Metadata; None where there is none, or where it is damaged.
    metadata_error: why it cannot be read, or ''.
    """

    metadata_names: tuple[str, ...]
    files: tuple[str, ...]
    metadata: Metadata | None = None
    metadata_error: str = ""


@dataclass(frozen=True)
class Inspection:
    """Everything about one .tflite. bytes: size of the file."""

    bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
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
    def not_in_xnnpack(self) -> list[OpRow]:
        """The ops that XNNPACK does not run."""
        return [op for op in self.ops if op.xnnpack is False]


def inspect_model(content: bytes, name: str, probe: Probe = run_probe) -> Inspection:
    """Inspect a .tflite. Raises ModelError for a file that is none, or that crashes LiteRT.

    probe: opens and runs the model.
    """
    if content[4:8] != _IDENTIFIER:
        reason = "empty" if not content else f"not a .tflite (bytes 4 to 8 are {content[4:8]!r}, not {_IDENTIFIER!r})"
        raise ModelError(f"{name}: {reason}")
    builtin, xnnpack = probe(content, "builtin", name), probe(content, "xnnpack", name)
    load_error = builtin.load_error or xnnpack.load_error
    try:
        model = unpack(content)
        graph = read_graph(model)
        delegated = None if load_error else _delegated(graph.nodes, xnnpack.partitions)
        reasons = edgetpu.problems(graph.nodes)
        return Inspection(
            bytes=len(content),
            inputs=tuple(map(_tensor_info, graph.inputs)),
            outputs=tuple(map(_tensor_info, graph.outputs)),
            ops=tuple(_row(n, delegated, reasons[n.index]) for n in graph.nodes),
            subgraphs=len(model.subgraphs),
            parameters=_parameters(graph),
            memory=plan_memory(graph),
            runtime=Runtime(
                load_error=load_error,
                run_error=builtin.run_error or xnnpack.run_error,
                resident_builtin=builtin.resident_bytes,
                resident_xnnpack=xnnpack.resident_bytes,
                partitions=len(xnnpack.partitions),
            ),
            edgetpu=edgetpu.map_ops(graph.nodes),
            embedded=read_embedded(content),
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
        raise ModelError(f"{name}: its graph does not fit together: {load_error or e}") from None


def read_embedded(content: bytes) -> Embedded:
    """What is in the file beside the graph. Damaged metadata is reported and does not hide the rest."""
    names = tuple((m.name or b"").decode(errors="replace") for m in unpack(content).metadata or ())
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return Embedded(names, (), *_metadata(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return Embedded(names, tuple(archive.namelist()), *_metadata(content))


def _metadata(content: bytes) -> tuple[Metadata | None, str]:
    try:
        return read_metadata(content), ""
    except ModelError as e:
        return None, str(e)


def _delegated(nodes: Sequence[Node], partitions: Sequence[Partition]) -> set[int]:
    """Indices of the ops that delegates run: all ops between a partition's outputs and its inputs."""
    producer = {t.index: node for node in nodes for t in node.outputs}
    indices: set[int] = set()
    for partition in partitions:
        inputs, todo = set(partition.inputs), list(partition.outputs)
        while todo:
            node = producer[todo.pop()]
            if node.index not in indices:
                indices.add(node.index)
                todo += [t.index for t in node.inputs if t and t.index in producer and t.index not in inputs]
    return indices


def _tensor_info(tensor: Operand) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.shape, tensor.fixed, tensor.dtype, tensor.scales, tensor.zero_points)


def _row(node: Node, delegated: set[int] | None, problem: edgetpu.Problem | None) -> OpRow:
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
        xnnpack=None if delegated is None else node.index in delegated,
        edgetpu=problem,
    )


def _weights(node: Node) -> str:
    learned = [t for t in node.constants if _is_learned(t)]
    main = node.input(_WEIGHTS_INPUT[node.name]) if node.name in _WEIGHTS_INPUT else None
    if main is None or not main.constant:
        if node.name in _WEIGHTS_INPUT or not learned:
            return ""
        main = max(learned, key=lambda t: t.bytes)
    granularity = {0: "", 1: " per-tensor"}.get(len(main.scales), " per-channel")
    return main.dtype + granularity


def _is_learned(tensor: Operand) -> bool:
    return tensor.constant and (tensor.dtype not in ("int32", "int64", "bool", "string") or bool(tensor.scales))


def _parameters(graph: Graph) -> tuple[Parameters, ...]:
    by_buffer = {t.buffer: t for n in graph.nodes for t in n.constants if _is_learned(t)}
    totals: dict[str, tuple[int, int]] = {}
    for tensor in by_buffer.values():
        elements, size = totals.get(tensor.dtype, (0, 0))
        totals[tensor.dtype] = (elements + tensor.elements, size + len(tensor.data))
    return tuple(Parameters(d, n, b) for d, (n, b) in sorted(totals.items(), key=lambda item: -item[1][1]))
