"""`sightline train`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from sightline.bundle import check_name
from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.data.detection import DetectionDataset, read_boxes
from sightline.errors import ConfigError, DataError, InputError, ModelError
from sightline.options import NEW_FOLDER, READ, SEED, Number, Whole
from sightline.preprocess import InputSpec
from sightline.run_folder import Run, read_run
from sightline.strict_config import read_record

if TYPE_CHECKING:
    from trainer.task import Task

BOXES_BATCH = 16  # from scratch, 6 in place of 16 pictures a step made mAP 45 into 60 in the same time: steps count
DETECTOR_SIZE = 320  # pixels, where nobody says another


@click.command()
@click.argument("data", type=READ)
@click.option(
    "--task",
    type=click.Choice(["classify", "detect", "points"]),
    help="What is there, its box, or for tiny devices its place alone.  [default: classify]",
)
@click.option("--out", type=NEW_FOLDER, required=True, help="Run folder to write; its name is the model's.")
@click.option("--arch", default="mobilenetv4_conv_small", show_default=True, help="Any timm image model.")
@click.option(
    "--weights", default="timm", show_default=True, help="To start from: 'timm' (downloaded), a file, or 'none'."
)
@click.option("--image-size", type=Whole(16, 2048), help="Pixels, square.  [default: the arch's own, 320 for detect]")
@click.option(
    "--resize",
    type=click.Choice(["letterbox", "center_crop", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How a picture becomes square.",
)
@click.option(
    "--quantization-aware", "parent", type=READ, metavar="RUN",
    help="Fine-tune this finished run with int8's rounding; it gives arch, size, seed and the rest.",
)  # fmt: skip
@click.option("--epochs", type=Whole(1), help="Passes over the pictures.  [default: 30, 8 for --quantization-aware]")
@click.option("--batch", type=Whole(2), help="Pictures a step (and process).  [default: 64, 16 for detect and points]")
@click.option(
    "--learning-rate",
    type=Number(1e-7, 1),
    help="Of AdamW, at its peak.  [default: 0.0005, 0.002 for none]",
)
@click.option(
    "--patience",
    type=Whole(0),
    help="Stop after so many epochs without a better one; 0 = never.  [default: a third of --epochs, 0 if "
    "--quantization-aware]",
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
    help="Pictures that cannot be read, and boxes that are wrong.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the split, the order and the first weights.")
@click.option("--resume", is_flag=True, help="Go on from --out's last finished epoch, exactly.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def train(context: click.Context, data: Path, out: Path, parent: Path | None, **options: Any) -> None:
    """Train a model on labelled images and write a run folder.

    To classify, DATA has one subfolder of pictures per class, or train/ and val/ that each have them; without val/ a
    fifth of each class is held out. To detect or to point, it has boxes: COCO's .json, Pascal VOC's .xml or YOLO's
    .txt with a data.yaml (`sightline inspect DATA --sheet` shows them). On several GPUs:
    torchrun --nproc-per-node N -m trainer DATA ...
    """
    from trainer.model import check_arch, native_size  # torch: seconds, which `--help` need not wait for
    from trainer.recipe import Recipe
    from trainer.train import train as run

    check_name(out.name, "--out")
    run_before = _open_parent(parent) if parent else None
    if run_before:
        options |= _inherited(context, run_before)
    options["task"] = options["task"] or "classify"
    check_arch(options["arch"])
    if options["resume"] and not (out / "checkpoint" / "state.json").is_file():
        raise InputError(f"{out}: nothing to resume: it has no finished epoch")
    if not options["resume"] and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists; go on with --resume, or give another --out")
    detects = options["task"] != "classify"
    size = options["image_size"] or (DETECTOR_SIZE if detects else native_size(options["arch"]))
    spec = run_before.manifest.input if run_before else InputSpec(size, size, options["resize"])
    main_process = os.environ.get("RANK", "0") == "0"
    began = time.monotonic()
    pictures: ClassificationDataset | DetectionDataset
    if detects:
        pictures = read_boxes(data, seed=options["seed"], wrong=options["corrupt"])
    else:
        pictures = read_class_folders(data, seed=options["seed"], corrupt=options["corrupt"])
    if main_process:
        _tell(pictures)
    if run_before:
        _check_split(pictures, run_before, data)
    usual_rate = 0.002 if options["weights"] == "none" else 0.0005
    epochs = options["epochs"] or (8 if run_before else 30)
    recipe = Recipe(
        task=options["task"],
        arch=options["arch"],
        weights=options["weights"],
        epochs=epochs,
        batch=options["batch"] or (BOXES_BATCH if detects else 64),
        learning_rate=options["learning_rate"] or usual_rate,
        weight_decay=0.05,
        warmup_epochs=min(3, epochs // 4),
        label_smoothing=0.0 if run_before or detects else 0.1,
        ema_decay=0.999,
        # the learning rate's cosine pays off late: 10 epochs of 60 stopped a run 5 points too early
        patience=(0 if run_before else epochs // 3) if options["patience"] is None else options["patience"],
        augment=options["augment"],
        flip=options["flip"],
        seed=options["seed"],
        quantization_aware=run_before is not None,
    )
    workers = min(4, os.cpu_count() or 1)
    if recipe.batch > len(pictures.train):
        raise ConfigError(f"--batch {recipe.batch} is more than the {len(pictures.train)} training pictures")
    task = _task(options["task"], pictures, spec)
    if main_process and detects:
        _warn_of_arch(recipe.arch)
    metrics = run(task, recipe, out, workers, options["resume"], run_before)
    if not main_process:
        return
    seconds = time.monotonic() - began
    if options["as_json"]:
        click.echo(json.dumps({"run": str(out), **metrics, "seconds": round(seconds, 1)}))
    else:
        match options["task"]:
            case "classify":
                score = f"{metrics['accuracy']:.2%} of"
            case "detect":
                score = f"mAP {metrics['map']:.2%} (mAP50 {metrics['map50']:.2%}) on"
            case _:
                score = (
                    f"F1 {metrics['f1']:.2%} (precision {metrics['precision']:.2%}, recall {metrics['recall']:.2%}) on"
                )
        click.echo(f"{out}: {score} {len(pictures.val)} held-out pictures, in {seconds:.0f} s")
        click.echo(f"next: sightline convert {out} --device raspberry_pi_5 --out {out.name}.bundle")


def _task(name: str, pictures: ClassificationDataset | DetectionDataset, spec: InputSpec) -> Task:
    if isinstance(pictures, DetectionDataset):
        if name == "points":
            from trainer.points import PointTask

            return PointTask(pictures, spec)
        from trainer.detection import DetectionTask

        return DetectionTask(pictures, spec)
    from trainer.classification import Classification

    return Classification(pictures, spec)


def _warn_of_arch(arch: str) -> None:
    from trainer.detector import quantizes_badly
    from trainer.model import make

    why = quantizes_badly(make(arch))
    if why:
        click.echo(
            f"warning: {arch} will lose in int8, and the Edge TPU may not take it: {why}; mobilenetv4_conv_small, "
            "mobilenetv2_100 and resnet18 have none of these",
            err=True,
        )


def _tell(pictures: ClassificationDataset | DetectionDataset) -> None:
    boxed = isinstance(pictures, DetectionDataset)
    boxes = f" with {sum(len(p.boxes) for p in pictures.train):,} boxes" if boxed else ""  # type: ignore[union-attr]
    click.echo(
        f"{len(pictures.train)} pictures{boxes} to learn from, {len(pictures.val)} held out, "
        f"{len(pictures.labels)} classes: {_few(pictures.labels)}",
        err=True,
    )
    for line in [p.text for p in pictures.problems] if isinstance(pictures, DetectionDataset) else pictures.skipped:
        click.echo(f"skipped: {line}", err=True)
    if pictures.leaked:
        click.echo(
            f"warning: {pictures.leaked} pictures are both in train/ and in val/: what is measured will flatter",
            err=True,
        )


@dataclass(frozen=True)
class Inherited:
    """What fine-tuning takes from a run's recipe."""

    arch: str
    batch: int
    augment: Literal["none", "light", "default", "strong"]
    flip: bool
    seed: int

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, not {self.batch}")


def _open_parent(path: Path) -> Run:
    run = read_run(path)
    recipe = run.manifest.provenance.get("recipe")
    known = set(Inherited.__dataclass_fields__)
    missing = sorted(known - recipe.keys()) if isinstance(recipe, dict) else ["all"]
    if missing:
        raise ModelError(
            f"{path}: does not say how it was trained (model.json: provenance.recipe lacks {', '.join(missing)}): "
            "only a run of `sightline train` can be trained on"
        )
    where = f"{path / 'model.json'}: provenance.recipe"
    read_record(Inherited, {key: value for key, value in recipe.items() if key in known}, where, ModelError)
    return run


def _inherited(context: click.Context, run: Run) -> dict[str, Any]:
    """What fine-tuning takes from the run. Raises ConfigError for an option that would make it another model."""
    recipe, spec = run.manifest.provenance["recipe"], run.manifest.input
    task = "points" if run.manifest.output.decoder == "points" else run.manifest.output.task
    fixed = {"task": task, "arch": recipe["arch"], "image_size": spec.width, "resize": spec.resize}
    given = {k: v for k, v in context.params.items() if context.get_parameter_source(k) is ParameterSource.COMMANDLINE}
    if "weights" in given:
        raise ConfigError("--weights and --quantization-aware exclude each other: the weights are the run's own")
    if given.get("patience"):
        raise ConfigError(
            "--patience and --quantization-aware exclude each other: fine-tuning ends with its last epoch"
        )
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise ConfigError(
                f"--{name.replace('_', '-')} {given[name]}: {run.path} was trained with {value}; leave it out"
            )
    own = {k: given.get(k, recipe[k]) for k in ("batch", "augment", "flip", "seed")}
    return {**fixed, **own, "weights": f"{run.manifest.name} {run.manifest.version}"}


def _check_split(pictures: ClassificationDataset | DetectionDataset, run: Run, data: Path) -> None:
    before = run.manifest.provenance.get("dataset", {}).get("fingerprint")
    if pictures.fingerprint != before:
        raise DataError(
            f"{data}: is not what {run.path} was trained on, with the same pictures held out (fingerprint "
            f"{pictures.fingerprint[:12]}, not {str(before)[:12]}): pictures that judge the model would have taught "
            "it; give that folder, and the same --seed and --corrupt"
        )


def _few(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) if len(labels) <= 12 else f"{', '.join(labels[:10])}, ... {labels[-1]}"
