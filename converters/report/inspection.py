"""The text of `sightline inspect` for a model: 120 columns, op table first, conclusions last (a terminal's end)."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from converters.edgetpu.rules import Problem
from converters.inspect.device_fit import remarks_for
from converters.inspect.model import Inspection, OpRow, TensorInfo
from sightline.device_config import DeviceConfig

_NAME_WIDTH = 34  # characters of a tensor's name
_WIDTH = 120
_MAX_KINDS = 4  # kinds of ops, or of problems, that are listed


@dataclass(frozen=True)
class InspectedModel:
    """A model to show.

    name, sha256: of the file.
    labels: of its bundle; empty where there is none.
    """

    name: str
    sha256: str
    inspection: Inspection
    labels: Sequence[str] = ()


def render(model: InspectedModel, device: tuple[str, DeviceConfig] | None, show_ops: bool) -> str:
    """device: its name and configuration, to add remarks for it. show_ops: whether to add the table of ops."""
    i = model.inspection
    lines = [f"{model.name}  {_size(i.bytes)}  sha256 {model.sha256[:12]}"]
    lines += [_tensor_line("in", t) for t in i.inputs] + [_tensor_line("out", t) for t in i.outputs]
    lines += _metadata(i, model.labels)
    if show_ops:
        lines += ["", *_ops_table(i)]
    lines += ["", *_kinds_table(i), ""]
    learned = sum(p.elements for p in i.parameters)
    detail = ", ".join(f"{p.dtype} {_size(p.bytes)}" for p in i.parameters)
    lines += _paragraph("weights", f"{learned:,} parameters: {detail or 'none'}")
    lines += _paragraph("memory", _memory(i))
    lines += _paragraph("XNNPACK", _xnnpack(i))
    for k, text in enumerate(_edgetpu(i)):
        lines += _paragraph("" if k else "Edge TPU", text)
    if i.subgraphs > 1:
        lines += _paragraph("graphs", f"{i.subgraphs}; only the main graph is shown")
    if device:
        lines.append(f"  for {device[0]}")
        for remark in remarks_for(i, device[1]):
            lines += _paragraph("  ok" if remark.fits else "  change", remark.text)
    return "\n".join(lines)


def _paragraph(title: str, text: str) -> list[str]:
    start = f"  {title:10}"
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False)


def _metadata(i: Inspection, labels: Sequence[str]) -> list[str]:
    lines: list[str] = []
    metadata = i.embedded.metadata
    labels = labels or (metadata.labels if metadata and metadata.labels else ())
    if labels:
        lines += _paragraph("labels", f"{len(labels)}: {_shorten(', '.join(labels), 2 * _WIDTH)}")
    if i.embedded.metadata_names or i.embedded.files:
        files = f"; files: {', '.join(i.embedded.files)}" if i.embedded.files else ""
        lines += _paragraph("metadata", _shorten(", ".join(i.embedded.metadata_names) + files, 2 * _WIDTH))
    if metadata:
        mean, std = metadata.mean, list(metadata.std or ())
        normalised = f"; input is (byte - {list(mean)}) / {std}" if mean else ""
        description = f"{metadata.name} {metadata.version}: {metadata.description}{normalised}"
        lines += _paragraph("about", _shorten(description, 2 * _WIDTH))
    if i.embedded.metadata_error:
        lines += _paragraph("damaged", i.embedded.metadata_error)
    return lines


def _tensor_line(role: str, t: TensorInfo) -> str:
    shape = f"{t.dtype} {list(t.shape)}" + ("" if t.fixed else " (not fixed)")
    match len(t.scales):
        case 0:
            quantization = "not quantized"
        case 1:
            quantization = f"scale {t.scales[0]:.6g}, zero point {t.zero_points[0] if t.zero_points else 0}"
        case n:
            quantization = f"{n} scales"
    return f"  {role:10}{_shorten(t.name, _NAME_WIDTH):{_NAME_WIDTH + 2}}{shape:38}{quantization}"


def _ops_table(i: Inspection) -> list[str]:
    lines = [
        f"  {'op':>3} {'kind':20} {'v':>2}  {'output':16}{'activations':16}{'weights':17}{'MACs':>11}  {'XNNPACK':9}TPU"
    ]
    for op in i.ops:
        shape = "x".join(map(str, op.shape)) or "scalar"
        xnnpack = {True: "yes", False: "no", None: ""}[op.xnnpack]
        mapped = "yes" if op.edgetpu is None else f"no: {op.edgetpu.reason}"
        if op.edgetpu is None and i.edgetpu.first_unmapped is not None and op.index > i.edgetpu.first_unmapped:
            mapped = "no: after the first unmapped op"
        row = (
            f"  {op.index:>3} {_shorten(op.name, 20):20} {op.version:>2}  {_shorten(shape, 15):16}"
            f"{_shorten(op.activations, 15):16}{op.weights:17}{_count(op.macs):>11}  {xnnpack:9}{mapped}"
        )
        lines.append(_shorten(row.rstrip(), _WIDTH))
    return lines


def _kinds_table(i: Inspection) -> list[str]:
    counts = Counter(op.name for op in i.ops)
    work = {name: sum(op.macs for op in i.ops if op.name == name) for name in counts}
    width = max([12, *(len(n) for n in counts)])
    lines = [f"  {'kind':{width}}{'ops':>6}{'MACs':>16}{'share':>8}"]
    for name in sorted(counts, key=lambda n: (-work[n], -counts[n], n)):
        share = f"{work[name] / i.macs:.1%}" if work[name] else ""
        lines.append(f"  {name:{width}}{counts[name]:>6}{_count(work[name]):>16}{share:>8}".rstrip())
    return [*lines, f"  {'total':{width}}{len(i.ops):>6}{i.macs:>16,}"]


def _memory(i: Inspection) -> str:
    peak = f"{_size(i.memory.peak_bytes)} at the same time, at op {i.memory.peak_op}"
    text = f"activations {_size(i.memory.arena_bytes)} as TFLite plans them ({peak})"
    growth = {"XNNPACK": i.runtime.resident_xnnpack, "TFLite's kernels": i.runtime.resident_builtin}
    sizes = [f"{_size(n)} with {kernels}" for kernels, n in growth.items() if n is not None]
    return f"{text}; its process grew by {', '.join(sizes)}" if sizes else text


def _xnnpack(i: Inspection) -> str:
    if i.runtime.load_error:
        return "not measured: LiteRT does not load the model"
    others = i.not_in_xnnpack
    partitions = f"{i.runtime.partitions} partition{'' if i.runtime.partitions == 1 else 's'}"
    if not others:
        return f"runs all {len(i.ops)} ops, in {partitions}"
    return f"runs {len(i.ops) - len(others)} of {len(i.ops)} ops, in {partitions}; not in it: {_by_kind(others)}"


def _by_kind(ops: Sequence[OpRow]) -> str:
    """'ARG_MAX (2), CAST (0, 4)': the first kinds with the indices of their first ops."""
    kinds: dict[str, list[int]] = {}
    for op in ops:
        kinds.setdefault(op.name, []).append(op.index)
    texts = [
        f"{name} ({', '.join(map(str, indices[:3]))}{', ..' if len(indices) > 3 else ''})"
        for name, indices in kinds.items()
    ]
    more = f" and {len(texts) - _MAX_KINDS} more kinds" if len(texts) > _MAX_KINDS else ""
    return ", ".join(texts[:_MAX_KINDS]) + more


def _edgetpu(i: Inspection) -> list[str]:
    """How much the compiler would map, the problems further on, and what only the compiler can decide."""
    m = i.edgetpu
    if m.compiled:
        return ["compiled for it"]
    kinds = ", ".join(m.uncertain_kinds)
    uncertain = [f"uncertain: {kinds}: some sizes do not map, and Coral does not document which"] if kinds else []
    if m.first_unmapped is None and not m.cpu_ops_before:
        return [f"all {m.ops} ops would map", *uncertain]
    if m.complete:
        ends = [*["QUANTIZE at the start"] * bool(m.cpu_ops_before), *["DEQUANTIZE at the end"] * bool(m.cpu_ops_after)]
        return [f"{m.mapped_ops} of {m.ops} ops would map; {' and '.join(ends)} on the CPU", *uncertain]
    assert m.problem is not None
    first = f"the first {m.mapped_ops} of {m.ops} ops would map" if m.mapped_ops else f"none of {m.ops} ops would map"
    verdict = f"{first}; stops at op {m.first_unmapped}, {m.unmapped_name}: {_problem(m.problem)}"
    if m.mapped_ops:
        verdict += "; this op and all after it run on the CPU"
    rest = i.ops[m.first_unmapped or 0 :]
    more = Counter((op.name, op.edgetpu) for op in rest if op.edgetpu not in (None, m.problem))
    further = [f"then {name} ({n}): {_problem(problem)}" for (name, problem), n in more.items() if problem]
    if len(further) > _MAX_KINDS:
        further[_MAX_KINDS - 1 :] = [f"and {len(further) - _MAX_KINDS + 1} more kinds of problems; --json lists all"]
    return [verdict, *further, *uncertain]


def _problem(problem: Problem) -> str:
    return f"{problem.reason}; {problem.fix}" if problem.fix else problem.reason


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _size(count: float) -> str:
    return f"{count / 1024:,.1f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:,.2f} MiB"
