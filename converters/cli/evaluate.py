"""`sightline evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sightline.bare_model import AS_IS
from sightline.device import SCHEMES
from sightline.errors import InputError
from sightline.files import write_file
from sightline.options import NEW_FILE, READ, SEED


@click.command()
@click.argument("models", nargs=-1, required=True, type=READ)
@click.argument("data", type=READ)
@click.option(
    "--part",
    type=click.Choice(["val", "all"]),
    default="val",
    show_default=True,
    help="What training holds out, or every picture.",
)
@click.option("--seed", type=SEED, help="Of the split, where DATA has none of its own.  [default: the models' own]")
@click.option(
    "--scheme",
    "schemes",
    multiple=True,
    type=click.Choice([*SCHEMES, AS_IS]),
    help="Variant of a bundle.  [default: all]",
)
@click.option("--report", type=NEW_FILE, help="Page to write: classes, curves, worst pictures.")
@click.option(
    "--corrupt",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Pictures that cannot be read, and boxes that are wrong.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def evaluate(models: tuple[Path, ...], data: Path, report: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the accuracy or mAP of models on labelled images, computed as on the device.

    MODELS are bundles and run folders, which are compared side by side; DATA is what `sightline train` takes: class
    folders, or pictures with boxes.
    """
    from converters.cli.convert import Bar
    from converters.evaluate.evaluate import evaluate as run
    from converters.report.evaluation import classes, render, to_json, variants

    if report and report.suffix != ".html":
        raise InputError(f"--report {report}: it is a page, so its name ends in .html")
    result = run(models, data, progress=Bar(), **options)
    if report:
        write_file(report, render(result).encode())
    if as_json:
        click.echo(json.dumps(to_json(result)))
        return
    part = "all of it" if result.part == "all" else f"what training holds out, seed {result.seed}"
    skipped = f", {result.skipped:,} skipped" if result.skipped else ""
    click.echo(f"{len(result.paths):,} pictures of {data}: {part}{skipped}")
    for heads, rows in (variants(result), classes(result)):
        click.echo()
        for line in columns(heads, rows):
            click.echo(line)
    if report:
        click.echo(f"\nwrote {report}")


def columns(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A table in a terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'>' if k else '<'}{w}}" for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    ]
