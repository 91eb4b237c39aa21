"""`sightline evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sightline.bare_model import PASSTHROUGH
from sightline.device_config import SCHEMES
from sightline.errors import InputError
from sightline.files import write_file
from sightline.option_types import NEW_FILE, READ, SEED


@click.command()
@click.argument("models", nargs=-1, required=True, type=READ)
@click.argument("data", type=READ)
@click.option("--part", type=click.Choice(["val", "all"]), default="val", show_default=True,
              help="Part of DATA to measure. val: the images that training holds out. all: every image.")  # fmt: skip
@click.option("--seed", type=SEED,
              help="Seed that splits DATA into training and held-out images, if DATA has no val part of its own.  "
                   "[default: the models' seed]")  # fmt: skip
@click.option("--scheme", "schemes", multiple=True, type=click.Choice([*SCHEMES, PASSTHROUGH]),
              help="Measure only this variant of a bundle. Repeat the option for several.  "
                   "[default: all variants]")  # fmt: skip
@click.option("--report", type=NEW_FILE,
              help="Write an HTML report with classes, curves and the worst images. "
                   "The name ends in .html.")  # fmt: skip
@click.option("--corrupt", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
              help="What to do with unreadable images and wrong boxes: refuse the data set, or skip them.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def evaluate(models: tuple[Path, ...], data: Path, report: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the accuracy or mAP of models on labelled images, as a device runs them.

    MODELS are bundles and run folders. They are compared side by side.

    DATA is a data set as `sightline train` takes it: class folders, or images with boxes.
    """
    from converters.cli.progress_bar import ProgressBar
    from converters.evaluate.evaluate import evaluate as run
    from converters.report.evaluation import classes, render, to_json, variants

    if report and report.suffix != ".html":
        raise InputError(f"--report {report}: the report is an HTML page. Give it a name that ends in .html.")
    result = run(models, data, progress=ProgressBar(), **options)
    if report:
        write_file(report, render(result).encode())
    if as_json:
        click.echo(json.dumps(to_json(result)))
        return
    part = "all images" if result.part == "all" else f"held-out part, seed {result.seed}"
    skipped = f", {result.skipped:,} skipped" if result.skipped else ""
    click.echo(f"{len(result.paths):,} images of {data}: {part}{skipped}")
    for table in (variants(result), classes(result)):
        click.echo()
        for line in columns(table.heads, table.rows):
            click.echo(line)
    if report:
        click.echo(f"\nwrote {report}")


def columns(heads: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table: the first column is left-aligned, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'>' if k else '<'}{w}}" for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]
