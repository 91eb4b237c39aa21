"""`sightline inspect`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from converters.inspect import dataset
from converters.inspect.device_fit import remarks_for
from converters.inspect.model import inspect_model
from converters.report.inspection import InspectedModel, render
from sightline.bundle import Bundle, read_bundle
from sightline.data.detection import read_boxes
from sightline.data.formats import Format, find_format
from sightline.device_config import DeviceConfig, load_device
from sightline.errors import ConfigError, DataError, ModelError
from sightline.files import sha256
from sightline.option_types import NEW_FILE, READ


@click.command()
@click.argument("model", type=READ)
@click.option(
    "--device", help="Also list what to change in the model for this device. `sightline devices` lists the names."
)
@click.option("--scheme", help="Show only this variant of a bundle.  [default: all variants]")
@click.option("--ops/--no-ops", "show_ops", default=None,
              help="Show or hide the table of ops.  [default: shown for a single model]")  # fmt: skip
@click.option("--format", "box_format", type=click.Choice(["coco", "voc", "yolo"]),
              help="Annotation format of MODEL, if the folder contains several.")  # fmt: skip
@click.option("--sheet", type=NEW_FILE, help="Write an image with samples of MODEL and their boxes (.jpg or .png).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def inspect(
    model: Path,
    device: str | None,
    scheme: str | None,
    show_ops: bool | None,
    box_format: Format | None,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """Show what is in a model or in a data set.

    MODEL is a .tflite or a bundle: its tensors, ops, memory, and the ops that each delegate runs. The model is opened
    in a child process, so a file that crashes LiteRT is reported as an error.

    MODEL may also be a folder of images with boxes (COCO, Pascal VOC or YOLO): its classes, box sizes and annotation
    errors.
    """
    if box_format or sheet or (model.is_dir() and not (model / "manifest.json").exists() and _has_boxes(model)):
        _inspect_boxes(model, box_format, sheet, as_json)
    else:
        _inspect_models(model, device, scheme, show_ops, as_json)


def _inspect_models(path: Path, device: str | None, scheme: str | None, show_ops: bool | None, as_json: bool) -> None:
    named_config = load_device(device) if device else None
    bundle, contents = _read(path, scheme)
    labels = bundle.manifest.output.labels if bundle else ()
    models = [InspectedModel(n, sha256(c), inspect_model(c, n), labels) for n, c in contents.items()]
    if as_json:
        documents = {m.name: _to_json(m, named_config) for m in models}
        click.echo(json.dumps({"model": str(path), "labels": labels, "device": device, "models": documents}))
    else:
        with_ops = len(models) == 1 if show_ops is None else show_ops
        click.echo("\n\n".join(render(m, named_config, with_ops) for m in models))
    for m in models:
        runtime = m.inspection.runtime
        if runtime.load_error and not m.inspection.edgetpu.compiled:
            raise ModelError(f"{m.name}: LiteRT cannot load it: {runtime.load_error}")
        if runtime.run_error:
            raise ModelError(f"{m.name}: LiteRT opens it but cannot run it: {runtime.run_error}")


def _to_json(model: InspectedModel, device: tuple[str, DeviceConfig] | None) -> dict[str, object]:
    remarks = remarks_for(model.inspection, device[1]) if device else None
    return {
        "sha256": model.sha256,
        **dataclasses.asdict(model.inspection),
        "macs": model.inspection.macs,
        "device": None if remarks is None else [dataclasses.asdict(r) for r in remarks],
    }


def _has_boxes(folder: Path) -> bool:
    try:
        find_format(folder)
    except DataError as e:
        return "no annotations" not in str(e)
    return True


def _inspect_boxes(root: Path, box_format: Format | None, sheet: Path | None, as_json: bool) -> None:
    data = read_boxes(root, kind=box_format, wrong="skip")
    summary = dataset.summarize(data)
    click.echo(json.dumps(dataset.to_json(data, summary)) if as_json else dataset.render(data, summary))
    if sheet:
        dataset.write_sheet(sheet, data)
        click.echo(f"wrote {sheet}", err=True)


def _read(path: Path, scheme: str | None) -> tuple[Bundle | None, dict[str, bytes]]:
    """The bundle, if the path is one, and {file name: bytes} of its models."""
    if path.is_dir():
        bundle = read_bundle(path)
        schemes = [scheme] if scheme else list(bundle.manifest.variants)
        return bundle, {bundle.manifest.variants[bundle.variant(s)[0]]: bundle.variant(s)[1] for s in schemes}
    if scheme:
        raise ConfigError(f"{path}: --scheme chooses a variant of a bundle, and this is a single model. Leave it out.")
    try:
        return None, {path.name: path.read_bytes()}
    except OSError as e:
        raise ModelError(f"{path}: {e.strerror}. Pass a .tflite or a bundle.") from None
