"""`sightline inspect`."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from converters.edgetpu.rules import CONVERT, EdgeTpuMapping, Problem
from converters.inspect import dataset as data_sheet
from converters.inspect.model import End, Inspection, OpRow, inspect_model
from sightline.bundle import Bundle, read_bundle
from sightline.data.detection import read_boxes
from sightline.data.formats import Format, find_format
from sightline.device import DeviceConfig, load_device
from sightline.errors import ConfigError, DataError, ModelError
from sightline.files import sha256
from sightline.options import NEW_FILE, READ

_NAME = 34  # characters of a tensor's name
_WIDTH = 120


@click.command()
@click.argument("model", type=READ)
@click.option("--device", help="What of it matters for this one; see `sightline devices`.")
@click.option("--scheme", help="One variant of a bundle.  [default: all]")
@click.option("--ops/--no-ops", default=None, help="The table op by op.  [default: where one model is shown]")
@click.option("--format", "kind", type=click.Choice(["coco", "voc", "yolo"]), help="Of boxes, where several lie there.")
@click.option("--sheet", type=NEW_FILE, help="Picture to write: boxes drawn into some of DATA.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect(
    model: Path,
    device: str | None,
    scheme: str | None,
    ops: bool | None,
    kind: Format | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Show a model's tensors, ops, memory and delegate support, or the contents of a box dataset.

    MODEL is any .tflite, or a bundle. It is opened in a process of its own, so a file that crashes LiteRT is told
    and not suffered. Or it is a folder of pictures with boxes (COCO, Pascal VOC, YOLO): counts, sizes, and what is
    wrong with them.
    """
    if kind or sheet or (model.is_dir() and not (model / "manifest.json").exists() and _has_boxes(model)):
        _inspect_boxes(model, kind, sheet, as_json)
        return
    named = load_device(device) if device else None
    bundle, models = _read(model, scheme)
    labels = bundle.manifest.output.labels if bundle else ()
    found = {name: inspect_model(content, name) for name, content in models.items()}
    if as_json:
        shown = {
            name: {
                "sha256": sha256(models[name]),
                **dataclasses.asdict(i),
                "macs": i.macs,
                "device": [dataclasses.asdict(r) for r in for_device(i, named[1])] if named else None,
            }
            for name, i in found.items()
        }
        click.echo(json.dumps({"model": str(model), "labels": labels, "device": device, "models": shown}))
    else:
        table = len(found) == 1 if ops is None else ops
        parts = [render(name, sha256(models[name]), i, labels, named, table) for name, i in found.items()]
        click.echo("\n\n".join(parts))
    for name, i in found.items():
        if i.runtime.error and not i.edgetpu.compiled:
            raise ModelError(f"{name}: LiteRT cannot load it: {i.runtime.error}")
        if i.runtime.failure:
            raise ModelError(f"{name}: LiteRT opens it but cannot run it: {i.runtime.failure}")


def _has_boxes(folder: Path) -> bool:
    try:
        find_format(folder)
    except DataError as e:
        return "no annotations" not in str(e)
    return True


def _inspect_boxes(root: Path, kind: Format | None, sheet: Path | None, as_json: bool) -> None:
    data = read_boxes(root, kind=kind, wrong="skip")
    summary = data_sheet.summarize(data)
    click.echo(json.dumps(data_sheet.to_json(data, summary)) if as_json else data_sheet.render(data, summary))
    if sheet:
        data_sheet.write_sheet(sheet, data)
        click.echo(f"wrote {sheet}", err=True)


def _read(path: Path, scheme: str | None) -> tuple[Bundle | None, dict[str, bytes]]:
    """The bundle, if it is one, and {file name: bytes} of what is to be looked at."""
    if path.is_dir():
        bundle = read_bundle(path)
        schemes = [scheme] if scheme else list(bundle.manifest.variants)
        return bundle, {bundle.manifest.variants[bundle.variant(s)[0]]: bundle.variant(s)[1] for s in schemes}
    if scheme:
        raise ConfigError(f"{path}: --scheme chooses a variant of a bundle; this is one model")
    try:
        return None, {path.name: path.read_bytes()}
    except OSError as e:
        raise ModelError(f"{path}: {e.strerror}; a .tflite or a bundle is needed") from None


@dataclasses.dataclass(frozen=True)
class Remark:
    """fits: whether the device can live with it. text: what it is, and what would have to change."""

    fits: bool
    text: str


def for_device(i: Inspection, config: DeviceConfig) -> list[Remark]:
    """What of a model matters to a device."""
    kib, limit = i.bytes / 1024, config.max_model_kib
    remarks = []
    if limit:
        change = "" if kib <= limit else "; train a smaller --arch, or convert with --scheme static_int8"
        remarks.append(Remark(kib <= limit, f"{kib:,.0f} KiB of the {limit:,} KiB that it takes{change}"))
    if config.delegate == "edgetpu":
        remarks.append(_for_edgetpu(i.edgetpu))
    elif i.edgetpu.compiled:
        text = f"compiled for the Edge TPU, and the delegate here is {config.delegate}; take the plain variant"
        remarks.append(Remark(False, text))
    elif config.delegate == "none":
        remarks.append(Remark(True, "TFLite's own kernels run it all (delegate: none)"))
    elif not i.runtime.error:
        slow = sum(op.macs for op in i.left)
        text = f"{1 - slow / max(1, i.macs):.1%} of the MACs run in XNNPACK"
        change = f"; the others in slow kernels: convert with --scheme {config.scheme}" if slow else ""
        remarks.append(Remark(not slow, text + change))
    wanted = {"browser": "float32", "android": "float32"}.get(config.runner)
    if wanted and any(t.dtype != wanted for t in i.inputs):
        text = f"its {config.runner} gives {wanted}, the input is {i.inputs[0].dtype}; --scheme static_int8_float_io"
        remarks.append(Remark(False, text))
    inside = [op.name for op in i.ops if op.weights and op.activations.startswith("float")]
    if config.scheme.startswith("static_int8") and config.delegate != "edgetpu" and inside:
        text = f"{len(inside)} ops with weights compute in float; int8 is faster here: --scheme {config.scheme}"
        remarks.append(Remark(False, text))
    return remarks


def _for_edgetpu(m: EdgeTpuMapping) -> Remark:
    if m.compiled:
        return Remark(True, "compiled for the Edge TPU")
    return Remark(False, f"not compiled for the Edge TPU; {CONVERT} where edgetpu_compiler is installed")


def render(
    name: str, digest: str, i: Inspection, labels: Sequence[str], device: tuple[str, DeviceConfig] | None, table: bool
) -> str:
    """The page for people: 120 columns, the op table first and the conclusions last, where a terminal ends."""
    lines = [f"{name}  {_size(i.bytes)}  sha256 {digest[:12]}"]
    lines += [_entry("in", t) for t in i.inputs] + [_entry("out", t) for t in i.outputs]
    said = i.embedded.metadata
    labels = labels or (said.labels if said and said.labels else ())
    if labels:
        lines += _paragraph("labels", f"{len(labels)}: {_shorten(', '.join(labels), 2 * _WIDTH)}")
    if i.embedded.entries or i.embedded.files:
        files = f"; files: {', '.join(i.embedded.files)}" if i.embedded.files else ""
        lines += _paragraph("metadata", _shorten(", ".join(i.embedded.entries) + files, 2 * _WIDTH))
    if said:
        normalised = f"; takes (byte - {list(said.mean)}) / {list(said.std or ())}" if said.mean else ""
        lines += _paragraph("says", _shorten(f"{said.name} {said.version}: {said.description}{normalised}", 2 * _WIDTH))
    if i.embedded.damage:
        lines += _paragraph("damaged", i.embedded.damage)
    if table:
        lines += ["", *_table(i)]
    lines += ["", *_kinds(i), ""]
    learned = sum(p.elements for p in i.parameters)
    detail = ", ".join(f"{p.dtype} {_size(p.bytes)}" for p in i.parameters)
    lines += _paragraph("weights", f"{learned:,} parameters: {detail or 'none'}")
    lines += _paragraph("memory", _memory(i))
    lines += _paragraph("XNNPACK", _xnnpack(i))
    for k, text in enumerate(_edgetpu(i)):
        lines += _paragraph("" if k else "Edge TPU", text)
    if i.subgraphs > 1:
        lines += _paragraph("graphs", f"{i.subgraphs}; only the main one is shown")
    if device:
        lines.append(f"  for {device[0]}")
        for r in for_device(i, device[1]):
            lines += _paragraph("  ok" if r.fits else "  change", r.text)
    return "\n".join(lines)


def _paragraph(title: str, text: str) -> list[str]:
    start = f"  {title:10}"
    return textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False)


def _entry(role: str, t: End) -> str:
    shape = f"{t.dtype} {list(t.shape)}" + ("" if t.fixed else " (not fixed)")
    match len(t.scales):
        case 0:
            quantized = "not quantized"
        case 1:
            quantized = f"scale {t.scales[0]:.6g}, zero point {t.zero_points[0] if t.zero_points else 0}"
        case n:
            quantized = f"{n} scales"
    return f"  {role:10}{_shorten(t.name, _NAME):{_NAME + 2}}{shape:38}{quantized}"


def _table(i: Inspection) -> list[str]:
    lines = [
        f"  {'op':>3} {'kind':20} {'v':>2}  {'output':16}{'activations':16}{'weights':17}{'MACs':>11}  {'XNNPACK':9}TPU"
    ]
    for op in i.ops:
        shape = "x".join(map(str, op.shape)) or "scalar"
        taken = {True: "yes", False: "no", None: ""}[op.xnnpack]
        mapped = "yes" if op.edgetpu is None else f"no: {op.edgetpu.what}"
        if op.edgetpu is None and i.edgetpu.stop is not None and op.index > i.edgetpu.stop:
            mapped = "no: comes after"
        row = (
            f"  {op.index:>3} {_shorten(op.name, 20):20} {op.version:>2}  {_shorten(shape, 15):16}"
            f"{_shorten(op.activations, 15):16}{op.weights:17}{_count(op.macs):>11}  {taken:9}{mapped}"
        )
        lines.append(_shorten(row.rstrip(), _WIDTH))
    return lines


def _kinds(i: Inspection) -> list[str]:
    counts = Counter(op.name for op in i.ops)
    work = {name: sum(op.macs for op in i.ops if op.name == name) for name in counts}
    width = max([12, *(len(n) for n in counts)])
    lines = [f"  {'kind':{width}}{'ops':>6}{'MACs':>16}{'share':>8}"]
    for name in sorted(counts, key=lambda n: (-work[n], -counts[n], n)):
        share = f"{work[name] / i.macs:.1%}" if work[name] else ""
        lines.append(f"  {name:{width}}{counts[name]:>6}{_count(work[name]):>16}{share:>8}".rstrip())
    return [*lines, f"  {'total':{width}}{len(i.ops):>6}{i.macs:>16,}"]


def _memory(i: Inspection) -> str:
    live = f"{_size(i.memory.largest_live)} at once, at op {i.memory.at}"
    text = f"activations {_size(i.memory.arena)} as TFLite plans them ({live})"
    grown = {"XNNPACK": i.runtime.resident_xnnpack, "TFLite's kernels": i.runtime.resident_own}
    told = [f"{_size(n)} with {k}" for k, n in grown.items() if n is not None]
    return f"{text}; its process grew by {', '.join(told)}" if told else text


def _xnnpack(i: Inspection) -> str:
    if i.runtime.error:
        return "not measured: LiteRT does not load it"
    left = i.left
    parts = f"{i.runtime.partitions} partition{'' if i.runtime.partitions == 1 else 's'}"
    if not left:
        return f"takes all {len(i.ops)} ops, in {parts}"
    return f"takes {len(i.ops) - len(left)} of {len(i.ops)} ops, in {parts}; left: {_listed(left)}"


def _listed(ops: Sequence[OpRow]) -> str:
    """'ARG_MAX (2), CAST (0, 4)', the indices of the first kinds."""
    kinds: dict[str, list[int]] = {}
    for op in ops:
        kinds.setdefault(op.name, []).append(op.index)
    shown = [
        f"{name} ({', '.join(map(str, where[:3]))}{', ..' if len(where) > 3 else ''})" for name, where in kinds.items()
    ]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more kinds" if len(shown) > 4 else "")


def _edgetpu(i: Inspection) -> list[str]:
    """The verdict, what else would stop it further on, and what nobody knows but the compiler."""
    m = i.edgetpu
    if m.compiled:
        return ["compiled for it"]
    unsure = [f"unsure: {', '.join(m.unsure)}: some sizes do not map, and Coral does not say which"] if m.unsure else []
    if m.stop is None and not m.before:
        return [f"all {m.ops} ops would map", *unsure]
    if m.complete:
        ends = [*["QUANTIZE at the start"] * bool(m.before), *["DEQUANTIZE at the end"] * bool(m.after)]
        return [f"{m.mapped} of {m.ops} ops would map; {' and '.join(ends)} on the CPU", *unsure]
    assert m.problem is not None
    first = f"the first {m.mapped} of {m.ops} ops would map" if m.mapped else f"none of {m.ops} ops would map"
    verdict = f"{first}; stops at op {m.stop}, {m.name}: {_told(m.problem)}"
    if m.mapped:
        verdict += "; all from there on runs on the CPU"
    more = Counter((op.name, op.edgetpu) for op in i.ops[m.stop or 0 :] if op.edgetpu not in (None, m.problem))
    further = [f"then {name} ({n}): {_told(problem)}" for (name, problem), n in more.items() if problem]
    if len(further) > 4:
        further[3:] = [f"and {len(further) - 3} more kinds of reasons; --json has them all"]
    return [verdict, *further, *unsure]


def _told(problem: Problem) -> str:
    return f"{problem.what}; {problem.fix}" if problem.fix else problem.what


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _size(count: float) -> str:
    return f"{count / 1024:,.1f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:,.2f} MiB"
