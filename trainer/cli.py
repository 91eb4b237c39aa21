"""`sightline train`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sightline.bundle import check_name
from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.data.detection import DetectionDataset, read_boxes
from sightline.errors import ConfigError, DataError, InputError
from sightline.option_types import NEW_FOLDER, READ, SEED, Number, Whole, corrupt_option, json_option
from sightline.preprocess import InputSpec
from sightline.run_folder import Run, read_run
from trainer.options import TrainOptions
from trainer.recipe import DETECTION_IMAGE_SIZE, inherit, recipe_from_options

if TYPE_CHECKING:
    from trainer.task import Task
    from trainer.train import Setup

TrainingData = ClassificationDataset | DetectionDataset
MAX_LABELS_SHOWN = 12


@click.command()
@click.argument("data", type=READ)
@click.option(
    "--task",
    type=click.Choice(["classify", "detect", "points"]),
    help="classify: one label per image. detect: bounding boxes. points: object centres only, for very small devices.  "
    "[default: classify]",
)
@click.option("--out", type=NEW_FOLDER, required=True, help="Run folder to write. Its name becomes the model's name.")
@click.option("--arch", default="mobilenetv4_conv_small", show_default=True, help="Name of the timm model to train.")
@click.option(
    "--weights",
    default="timm",
    show_default=True,
    help="Weights to start from. timm: downloads pretrained weights. none: random weights. Or a file.",
)
@click.option(
    "--image-size",
    type=Whole(16, 2048),
    help="Width and height of the model's input in pixels.  [default: the model's own size; 320 for detect and points]",
)
@click.option(
    "--resize",
    type=click.Choice(["letterbox", "center_crop", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How an image is fitted into the square input. letterbox: pads. center_crop: cuts the longer side. "
    "stretch: changes its proportions.",
)
@click.option(
    "--quantization-aware", "parent", type=READ, metavar="RUN",
    help="Fine-tune this finished run with int8 rounding. Architecture, image size, seed, batch and augmentation are "
    "taken from the run.",
)  # fmt: skip
@click.option(
    "--epochs", type=Whole(1), help="Passes over the training images.  [default: 30; 8 with --quantization-aware]"
)
@click.option(
    "--batch",
    type=Whole(2),
    help="Images per training step, in each process.  [default: 64; 16 for detect and points]",
)
@click.option(
    "--learning-rate",
    type=Number(1e-7, 1),
    help="Highest learning rate of the AdamW optimizer.  [default: 0.0005; 0.002 with --weights none]",
)
@click.option(
    "--patience",
    type=Whole(0),
    help="Stop after this many epochs without improvement. 0 never stops early.  [default: a third of --epochs; "
    "0 with --quantization-aware]",
)
@click.option(
    "--augment", type=click.Choice(["none", "light", "default", "strong"]), default="default", show_default=True,
    help="How strongly training images are varied at random.",
)  # fmt: skip
@click.option(
    "--flip/--no-flip",
    default=True,
    show_default=True,
    help="Mirror training images at random. Use --no-flip for text and digits.",
)
@corrupt_option
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed of the split, the image order and the random weights."
)
@click.option("--resume", is_flag=True, help="Continue the run in --out from its last finished epoch.")
@json_option
@click.pass_context
def train(context: click.Context, /, **_: Any) -> None:
    """Train a model on labelled images and write a run folder.

    For classify, DATA has one subfolder of images per class, or train/ and val/ that each have these subfolders.
    Without val/, a fifth of each class is held out. For detect and points, DATA has images with boxes: a COCO .json,
    Pascal VOC .xml files, or YOLO .txt files with a data.yaml. `sightline inspect DATA --sheet` shows them. To train
    on several GPUs, run: torchrun --nproc-per-node N -m trainer DATA ...
    """
    run_training(read_options(context))


def read_options(context: click.Context) -> TrainOptions:
    """The options of a parsed command line."""
    explicit = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return TrainOptions(**context.params, explicit=frozenset(explicit))


def make_task(name: str, data: TrainingData, spec: InputSpec) -> Task:
    """The task of this name. The imports take seconds, which `--help` need not wait for."""
    if isinstance(data, DetectionDataset):
        if name == "points":
            from trainer.points_task import PointTask

            return PointTask(data, spec)
        from trainer.detection_task import DetectionTask

        return DetectionTask(data, spec)
    from trainer.classification_task import ClassificationTask

    return ClassificationTask(data, spec)


def run_training(
    options: TrainOptions,
    task_factory: Callable[[str, TrainingData, InputSpec], Task] = make_task,
    setup: Setup | None = None,
) -> None:
    """Check the options, train, and print the result."""
    from trainer.model import check_arch  # torch: seconds, which `--help` need not wait for
    from trainer.train import train as train_model

    began = time.monotonic()
    check_name(options.out.name, "--out")
    parent = read_run(options.parent) if options.parent else None
    if parent:
        options = inherit(options, parent)
    recipe = recipe_from_options(options)
    check_arch(recipe.arch)
    _check_out(options)
    spec = parent.manifest.input if parent else _input_spec(options)
    is_main_process = os.environ.get("RANK", "0") == "0"
    data = _read_data(options)
    if is_main_process:
        _print_data(data)
    if parent:
        _check_split(data, parent, options.data)
    if recipe.batch > len(data.train):
        raise ConfigError(f"--batch {recipe.batch} is more than the {len(data.train)} training images")
    task = task_factory(recipe.task, data, spec)
    if is_main_process and options.detects:
        _warn_about_arch(recipe.arch)
    metrics = train_model(task, recipe, options.out, setup, resume=options.resume, parent=parent)
    if is_main_process:
        _print_result(options, metrics, len(data.val), time.monotonic() - began)


def _check_out(options: TrainOptions) -> None:
    out = options.out
    if options.resume and not (out / "checkpoint" / "state.json").is_file():
        raise InputError(f"{out}: cannot be resumed: it has no finished epoch")
    if not options.resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already exists. Continue it with --resume, or choose another --out.")


def _input_spec(options: TrainOptions) -> InputSpec:
    from trainer.model import native_size

    size = options.image_size or (DETECTION_IMAGE_SIZE if options.detects else native_size(options.arch))
    return InputSpec(size, size, options.resize)


def _read_data(options: TrainOptions) -> TrainingData:
    if options.detects:
        return read_boxes(options.data, seed=options.seed, wrong=options.corrupt)
    return read_class_folders(options.data, seed=options.seed, corrupt=options.corrupt)


def _check_split(data: TrainingData, run: Run, folder: Path) -> None:
    before = run.manifest.provenance.get("dataset", {}).get("fingerprint")
    if data.fingerprint != before:
        raise DataError(
            f"{folder}: is not the data set of {run.path} with the same held-out images (fingerprint "
            f"{data.fingerprint[:12]}, not {str(before)[:12]}). Held-out images would have been trained on. Pass the "
            "same folder, --seed and --corrupt."
        )


def _warn_about_arch(arch: str) -> None:
    from trainer.detector import quantization_risk
    from trainer.model import make

    risk = quantization_risk(make(arch))
    if risk:
        click.echo(
            f"warning: {arch} has {risk}. It will lose accuracy in int8, and the Edge TPU may not run it. "
            "mobilenetv4_conv_small, mobilenetv2_100 and resnet18 have no such layers.",
            err=True,
        )


def _print_data(data: TrainingData) -> None:
    boxes = ""
    if isinstance(data, DetectionDataset):
        boxes = f" with {sum(len(image.boxes) for image in data.train):,} boxes"
    labels = data.labels
    listed = ", ".join(labels) if len(labels) <= MAX_LABELS_SHOWN else f"{', '.join(labels[:10])}, ... {labels[-1]}"
    click.echo(
        f"{len(data.train)} training images{boxes}, {len(data.val)} held out, {len(labels)} classes: {listed}",
        err=True,
    )
    for problem in data.problems:
        click.echo(f"skipped: {problem.text}", err=True)
    if data.leaked:
        click.echo(
            f"warning: {data.leaked} images are in both the training and the validation part. Validation scores will "
            "be too high.",
            err=True,
        )


def _print_result(options: TrainOptions, metrics: dict[str, Any], heldout: int, seconds: float) -> None:
    out = options.out
    if options.as_json:
        click.echo(json.dumps({"run": str(out), **metrics, "seconds": round(seconds, 1)}))
        return
    match options.task:
        case "detect":
            score = f"mAP {metrics['map']:.2%} (mAP50 {metrics['map50']:.2%})"
        case "points":
            score = f"F1 {metrics['f1']:.2%} (precision {metrics['precision']:.2%}, recall {metrics['recall']:.2%})"
        case _:
            score = f"accuracy {metrics['accuracy']:.2%}"
    click.echo(f"{out}: {score} on {heldout} held-out images, in {seconds:.0f} s")
    click.echo(f"next: sightline convert {out} --device raspberry_pi_5 --out {out.name}.bundle")
