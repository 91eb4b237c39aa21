"""`sightline train`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click

from sightline.bundle import check_name
from sightline.datasets import read_class_folders
from sightline.errors import ConfigError, InputError
from sightline.preprocess import InputSpec


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--task", type=click.Choice(["classify"]), default="classify", show_default=True, help="What to learn.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Run folder to write; its name is the model's."
)
@click.option("--arch", default="mobilenetv4_conv_small", show_default=True, help="Any timm image model.")
@click.option(
    "--weights", default="timm", show_default=True, help="To start from: 'timm' (downloaded), a file, or 'none'."
)
@click.option("--image-size", type=click.IntRange(16, 2048), help="Pixels, square.  [default: the arch's own]")
@click.option(
    "--resize",
    type=click.Choice(["letterbox", "center_crop", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How a picture becomes square.",
)
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True, help="Passes over the pictures.")
@click.option("--batch", type=click.IntRange(2), default=64, show_default=True, help="Pictures a step (and process).")
@click.option(
    "--learning-rate", type=click.FloatRange(1e-7, 1), help="Of AdamW, at its peak.  [default: 0.0005, 0.002 for none]"
)
@click.option(
    "--patience",
    type=click.IntRange(0),
    help="Stop after so many epochs without a better one; 0 = never.  [default: a third of --epochs]",
)
@click.option(
    "--augment", type=click.Choice(["none", "light", "default", "strong"]), default="default", show_default=True,
    help="How much pictures are varied.",
)  # fmt: skip
@click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror pictures; not for text or digits.")
@click.option(
    "--corrupt",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Pictures that cannot be read.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the split, the order and the first weights.")
@click.option("--resume", is_flag=True, help="Go on from --out's last finished epoch, exactly.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def train(data: Path, out: Path, **options: Any) -> None:
    """Train a model on labelled pictures; leaves a run folder.

    DATA has one subfolder of pictures per class, or train/ and val/ that each have them; without val/ a fifth of each
    class is held out. On several GPUs: torchrun --nproc-per-node N -m trainer DATA ...
    """
    from trainer.model import check_arch, native_size  # torch: seconds, which `--help` need not wait for
    from trainer.train import Recipe
    from trainer.train import train as run

    check_name(out.name, "--out")
    check_arch(options["arch"])
    if options["resume"] and not (out / "checkpoint" / "state.json").is_file():
        raise InputError(f"{out}: nothing to resume: it has no finished epoch")
    if not options["resume"] and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists; go on with --resume, or give another --out")
    size = options["image_size"] or native_size(options["arch"])
    spec = InputSpec(size, size, options["resize"])
    main_process = os.environ.get("RANK", "0") == "0"
    began = time.monotonic()
    pictures = read_class_folders(data, seed=options["seed"], corrupt=options["corrupt"])
    if main_process:
        click.echo(
            f"{len(pictures.train)} pictures to learn from, {len(pictures.val)} held out, "
            f"{len(pictures.labels)} classes: {_few(pictures.labels)}",
            err=True,
        )
        for line in pictures.skipped:
            click.echo(f"skipped: {line}", err=True)
        if pictures.leaked:
            click.echo(
                f"warning: {pictures.leaked} pictures are both in train/ and in val/: the accuracy will flatter",
                err=True,
            )
    scratch = options["weights"] == "none"
    recipe = Recipe(
        arch=options["arch"],
        weights=options["weights"],
        epochs=options["epochs"],
        batch=options["batch"],
        learning_rate=options["learning_rate"] or (0.002 if scratch else 0.0005),
        weight_decay=0.05,
        warmup_epochs=min(3, options["epochs"] // 4),
        label_smoothing=0.1,
        ema_decay=0.999,
        # the learning rate's cosine pays off late: 10 epochs of 60 stopped a run 5 points too early
        patience=options["epochs"] // 3 if options["patience"] is None else options["patience"],
        augment=options["augment"],
        flip=options["flip"],
        seed=options["seed"],
    )
    workers = min(4, os.cpu_count() or 1)
    if recipe.batch > len(pictures.train):
        raise ConfigError(f"--batch {recipe.batch} is more than the {len(pictures.train)} training pictures")
    metrics = run(pictures, spec, recipe, out, workers, options["resume"])
    if not main_process:
        return
    seconds = time.monotonic() - began
    if options["as_json"]:
        click.echo(json.dumps({"run": str(out), **metrics, "seconds": round(seconds, 1)}))
    else:
        click.echo(f"{out}: {metrics['accuracy']:.2%} of {len(pictures.val)} held-out pictures, in {seconds:.0f} s")
        click.echo(f"next: sightline convert {out} --device raspberry_pi_5 --out {out.name}.bundle")


def _few(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) if len(labels) <= 12 else f"{', '.join(labels[:10])}, ... {labels[-1]}"
