"""`sightline convert`."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from sightline.bare_model import AS_IS
from sightline.device import SCHEMES, load_device
from sightline.errors import ConfigError
from sightline.options import NEW_FOLDER, READ, Number
from sightline.output_spec import TASKS

DECODERS = [decoder or "classes" for decoder in TASKS]


@click.command()
@click.argument("source", type=READ)
@click.option("--device", required=True, help="A device of `sightline devices`, or a .yaml of your own.")
@click.option("--out", type=NEW_FOLDER, required=True, help="Bundle to write: NAME.bundle.")
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    type=click.Choice([*SCHEMES, AS_IS]),
    help="Quantization; several times for several variants, the first runs by default; as_is leaves a .tflite of "
    "others as it is.  [default: the device's]",
)
@click.option("--max-drop", type=Number(0, 100), default=0.5, show_default=True,
              help="Points of accuracy, or mAP, that may be lost against float32.")  # fmt: skip
@click.option("--max-class-drop", type=Number(0, 100), default=10, show_default=True,
              help="The same, of any one class.")  # fmt: skip
@click.option("--min-agreement", type=Number(0, 100), default=95, show_default=True,
              help="Percent of the pictures, or boxes, that must get float32's answer; 0 = any.")  # fmt: skip
@click.option("--data", type=READ, help="Labelled pictures; for a run, if its data set moved.")
@click.option("--calibration", type=READ, help="Pictures, or .npz, that decide the ranges.")
@click.option("--labels", type=READ, help="File, a label a line.  [default: --data's folders]")
@click.option("--normalization", help="Of a model's input: 0..255, 0..1, -1..1, imagenet, or MEAN/STD.")
@click.option(
    "--resize", type=click.Choice(["letterbox", "center_crop", "stretch"]), help="For a model.  [default: letterbox]"
)
@click.option("--decoder", type=click.Choice(DECODERS), help="Of as_is, where its outputs may be several things.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def convert(
    source: Path, out: Path, device: str, as_json: bool, schemes: tuple[Any, ...], decoder: str | None, **o: Any
) -> None:
    """Quantize a run for a device, check its accuracy, and write a bundle.

    SOURCE is a run folder, or a model of your own with --normalization and pictures: .pt2 (torch.export), .onnx,
    .keras, .h5, a TensorFlow SavedModel folder, or a float .tflite. The bundle is written only if it lost no more than
    --max-drop on pictures that neither training nor calibration saw.

    With --scheme as_is a .tflite that is quantized already, or detects, finds masks or points, becomes a bundle as it
    is; what it gives is read from its metadata and its outputs.
    """
    load_device(device)  # before the libraries, which take seconds
    if AS_IS in schemes:
        if len(schemes) > 1:
            raise ConfigError("--scheme as_is stands alone: nothing else is made of the model")
        _wrap(source, out, device, as_json, decoder, o)
        return
    if decoder:
        raise ConfigError("--decoder is for --scheme as_is; what is converted here gives scores of classes")
    from converters.convert import convert as run
    from converters.convert import report_path
    from converters.evaluate.acceptance import Limits
    from converters.report.html import percent, points
    from converters.sources.base import ModelOptions

    given = ModelOptions(**{f.name: o[f.name] for f in dataclasses.fields(ModelOptions)})
    limits = Limits(o["max_drop"], o["max_class_drop"], o["min_agreement"])
    began = time.monotonic()
    bar = Bar()
    result = run(
        source, out, device=device, schemes=schemes, given=given, limits=limits, progress=bar,
        say=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    seconds = time.monotonic() - began
    if as_json:
        variants = {
            s: {result.metric: m.quality, **m.more, "agreement": m.agreement, "drop": m.drop, "bytes": m.bytes}
            for s, m in result.measured.items()
        }
        summary = {
            "bundle": str(out),
            "device": result.device,
            "pictures": result.pictures,
            "seconds": round(seconds, 1),
        }
        float32 = {result.metric: result.quality, "bytes": result.float_bytes}
        click.echo(json.dumps({**summary, "float32": float32, "variants": variants}))
        return
    click.echo(f"{'':22}{'size':>10}{result.title:>10}{'points':>8}{'as float':>10}")
    if "float32" not in result.measured:
        click.echo(f"{'float32':22}{result.float_bytes / 1024:>6,.0f} KiB{percent(result.quality):>10}")
    for m in result.measured.values():
        size, quality = f"{m.bytes / 1024:>6,.0f} KiB", f"{percent(m.quality):>10}{points(m.drop):>8}"
        click.echo(f"{m.scheme:22}{size}{quality}{m.agreement:>10.2%}")
    click.echo(f"{out}: verified on {result.pictures} held-out pictures, in {seconds:.0f} s; see {report_path(out)}")
    click.echo(f"next: sightline run {out} --source 0")


def _wrap(source: Path, out: Path, device: str, as_json: bool, decoder: str | None, o: dict[str, Any]) -> None:
    from converters.passthrough import wrap
    from converters.report.html import percent
    from converters.sources.base import ModelOptions

    given = ModelOptions(**{f.name: o[f.name] for f in dataclasses.fields(ModelOptions)})
    w = wrap(source, out, device=device, given=given, decoder=decoder, progress=Bar())
    if as_json:
        quality = {w.metric: w.quality.value, **w.quality.more} if w.quality else {}
        told = {"bundle": str(out), "task": w.task, "decoder": w.decoder, "classes": len(w.labels), "bytes": w.bytes}
        click.echo(json.dumps({**told, "pictures": w.pictures, **quality, "notes": w.notes}))
        return
    for note in w.notes:
        click.echo(f"note: {note}", err=True)
    shown = ", ".join(w.labels[:6]) + (", ..." if len(w.labels) > 6 else "")
    click.echo(f"{source}: there to {w.task}, its outputs read as {w.decoder}; {len(w.labels)} classes: {shown}")
    if w.quality:
        click.echo(f"{w.title} {percent(w.quality.value)} on {w.pictures} pictures")
    else:
        click.echo("not measured: nobody gave labelled pictures (--data)")
    click.echo(f"wrote {out}\nnext: sightline run {out} --source 0")


class Bar:
    """A line that grows on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if self.terminal and (done == total or done % 20 == 0):
            end = "\r\x1b[2K" if done == total else "\r"
            click.echo(f"reading {done}/{total}{end}", nl=False, err=True)
