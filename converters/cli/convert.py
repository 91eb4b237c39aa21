"""`sightline convert`."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sightline.bare_model import PASSTHROUGH
from sightline.device_config import SCHEMES, load_device
from sightline.errors import ConfigError
from sightline.option_types import NEW_FOLDER, READ, Number
from sightline.output_spec import TASKS

if TYPE_CHECKING:
    from converters.convert import ConversionResult
    from converters.passthrough import PassthroughResult
    from converters.sources.base import ModelOptions

DECODERS = [decoder or "classes" for decoder in TASKS]


@click.command()
@click.argument("source", type=READ)
@click.option("--device", required=True,
              help="Device that the bundle is for: a name from `sightline devices`, or a .yaml file.")  # fmt: skip
@click.option("--out", type=NEW_FOLDER, required=True, help="Bundle to write. Its name ends in .bundle.")
@click.option("--scheme", "schemes", multiple=True, type=click.Choice([*SCHEMES, PASSTHROUGH]),
              help="Quantization scheme. Repeat the option for several variants; the first one runs by default. "
                   "passthrough keeps a .tflite unchanged.  [default: the device's scheme]")  # fmt: skip
@click.option("--max-drop", type=Number(0, 100), default=0.5, show_default=True,
              help="Maximum loss of accuracy or mAP against float32, in points.")  # fmt: skip
@click.option("--max-class-drop", type=Number(0, 100), default=10, show_default=True,
              help="Maximum loss of accuracy or mAP of any single class, in points.")  # fmt: skip
@click.option("--min-agreement", type=Number(0, 100), default=95, show_default=True,
              help="Minimum percentage of images (or boxes) with the same answer as float32. "
                   "0 accepts any.")  # fmt: skip
@click.option("--data", type=READ,
              help="Folder of labelled images to measure accuracy with. "
                   "For a run: the folder of its data set, if it moved.")  # fmt: skip
@click.option("--calibration", type=READ,
              help="Folder of images, or an .npz file, that sets the activation ranges.")  # fmt: skip
@click.option("--labels", type=READ,
              help="File with one label per line, in the order of the model's outputs.  "
                   "[default: folders of --data]")  # fmt: skip
@click.option("--normalization",
              help="Normalization of the model's input: 0..255, 0..1, -1..1, imagenet, or MEAN/STD in "
                   "grey levels, such as 127.5/64.")  # fmt: skip
@click.option("--resize", type=click.Choice(["letterbox", "center_crop", "stretch"]),
              help="How an image is fitted to the model's input.  [default: letterbox]")  # fmt: skip
@click.option("--decoder", type=click.Choice(DECODERS),
              help="How to read the outputs with --scheme passthrough, if several decoders fit.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def convert(
    source: Path, out: Path, device: str, as_json: bool, schemes: tuple[Any, ...], decoder: str | None, **options: Any
) -> None:
    """Convert a model for a device, check its accuracy, and write a bundle.

    SOURCE is a run folder, or a model of your own: .pt2 (torch.export), .onnx, .keras, .h5, a TensorFlow SavedModel
    folder, or a float .tflite. Your own model needs --normalization and images.

    The bundle is written only if no variant loses more than --max-drop on held-out images, which neither training nor
    calibration used.

    With --scheme passthrough a .tflite becomes a bundle unchanged. Use it for quantized models, and for models that
    detect objects, segment images or find keypoints. Its task is read from its metadata and outputs.
    """
    load_device(device)  # before the libraries, which take seconds to import
    if PASSTHROUGH in schemes:
        if len(schemes) > 1:
            raise ConfigError("--scheme passthrough cannot be combined with other schemes. Pass it alone.")
        _pass_through(source, out, device, as_json, decoder, options)
        return
    if decoder:
        raise ConfigError("--decoder is for --scheme passthrough. A converted model gives scores of classes.")
    from converters.convert import ConvertOptions
    from converters.convert import convert as run
    from converters.evaluate.acceptance import Limits

    limits = Limits(options["max_drop"], options["max_class_drop"], options["min_agreement"])
    start = time.monotonic()
    result = run(
        source, out, ConvertOptions(device, schemes, _model_options(options), limits),
        log=lambda line: click.echo(line, err=True), progress=_progress_bar(),
    )  # fmt: skip
    seconds = time.monotonic() - start
    if as_json:
        click.echo(json.dumps(_to_json(result, seconds)))
    else:
        _print_result(result, seconds)


def _model_options(options: dict[str, Any]) -> ModelOptions:
    from converters.sources.base import ModelOptions

    names = [f.name for f in dataclasses.fields(ModelOptions) if f.name in options]
    return ModelOptions(**{name: options[name] for name in names})


def _progress_bar() -> Any:
    from converters.cli.progress_bar import ProgressBar

    return ProgressBar()


def _to_json(result: ConversionResult, seconds: float) -> dict[str, Any]:
    return {
        "bundle": str(result.bundle),
        "device": result.device,
        "images": result.images,
        "seconds": round(seconds, 1),
        "float32": {result.metric: result.float_quality, "bytes": result.float_bytes},
        "variants": {
            s: {result.metric: v.quality, **v.extra, "agreement": v.agreement, "drop": v.drop, "bytes": v.bytes}
            for s, v in result.variants.items()
        },
    }


def _print_result(result: ConversionResult, seconds: float) -> None:
    from converters.convert import report_path
    from converters.report.text import percent, points

    click.echo(f"{'':22}{'size':>10}{result.title:>10}{'points':>8}{'as float':>10}")
    if "float32" not in result.variants:
        click.echo(f"{'float32':22}{result.float_bytes / 1024:>6,.0f} KiB{percent(result.float_quality):>10}")
    for v in result.variants.values():
        size, quality = f"{v.bytes / 1024:>6,.0f} KiB", f"{percent(v.quality):>10}{points(v.drop):>8}"
        click.echo(f"{v.scheme:22}{size}{quality}{v.agreement:>10.2%}")
    out = result.bundle
    click.echo(f"{out}: verified on {result.images} held-out images in {seconds:.0f} s; report: {report_path(out)}")
    click.echo(f"next: sightline run {out} --source 0")


def _pass_through(
    source: Path, out: Path, device: str, as_json: bool, decoder: str | None, options: dict[str, Any]
) -> None:
    from converters.passthrough import PassthroughOptions, pass_through

    result = pass_through(
        source, out, PassthroughOptions(device, _model_options(options), decoder), progress=_progress_bar()
    )
    if as_json:
        scores = {result.metric: result.scores.value, **result.scores.extra} if result.scores else {}
        facts = {
            "bundle": str(out),
            "task": result.task,
            "decoder": result.decoder,
            "classes": len(result.labels),
            "bytes": result.bytes,
            "images": result.images,
        }
        click.echo(json.dumps({**facts, **scores, "notes": result.notes}))
    else:
        _print_passthrough(source, result)


def _print_passthrough(source: Path, result: PassthroughResult) -> None:
    from converters.report.text import percent

    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    labels = ", ".join(result.labels[:6]) + (", ..." if len(result.labels) > 6 else "")
    click.echo(f"{source}: task {result.task}, decoder {result.decoder}; {len(result.labels)} classes: {labels}")
    if result.scores:
        click.echo(f"{result.title} {percent(result.scores.value)} on {result.images} images")
    else:
        click.echo("accuracy not measured: pass labelled images with --data DIR")
    click.echo(f"wrote {result.bundle}\nnext: sightline run {result.bundle} --source 0")
