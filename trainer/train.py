"""The training loop, from top to bottom."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from sightline.errors import ConfigError
from sightline.files import write_file
from sightline.run_folder import Run
from trainer.checkpoint import Write
from trainer.classification_data import Shuffled, loader
from trainer.recipe import Recipe
from trainer.state import TrainingState
from trainer.strategies import MakeStrategy, make_strategy
from trainer.task import Task

VAL_BATCH = 64  # images


@dataclass(frozen=True)
class EpochReport:
    """How an epoch went.

    epoch: counts from 0.
    epochs: all that are planned.
    loss: mean over the training steps.
    metric: name of the score, for people.
    score, best: of this epoch and of the best one, 0..1.
    images_per_s: training speed, over all processes.
    remaining_s: estimate for the epochs that are left, in seconds.
    """

    epoch: int
    epochs: int
    loss: float
    metric: str
    score: float
    best: float
    images_per_s: float
    remaining_s: float


def print_epoch(report: EpochReport) -> None:
    click.echo(
        f"epoch {report.epoch + 1:3}/{report.epochs}  loss {report.loss:.3f}  {report.metric} {report.score:7.2%}  "
        f"best {report.best:7.2%}  {report.images_per_s:5.0f} images/s  {report.remaining_s:4.0f} s left",
        err=True,
    )


@dataclass(frozen=True)
class Setup:
    """How a training runs. Nothing of it changes what is learned.

    workers: processes that read images.
    strategy: makes what the model learns from.
    on_epoch: called in the main process after each epoch is saved.
    write: writes one file of a checkpoint.
    """

    workers: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    strategy: MakeStrategy = make_strategy
    on_epoch: Callable[[EpochReport], None] = print_epoch
    write: Write = write_file


@dataclass(frozen=True)
class Process:
    """One of the processes that train together.

    rank: number of this one; 0 is the main process.
    count: all of them.
    device: where this one computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def train(
    task: Task,
    recipe: Recipe,
    out: Path,
    setup: Setup | None = None,
    *,
    resume: bool = False,
    parent: Run | None = None,
) -> dict[str, Any]:
    """Learn the task's data, write the run folder `out`, and return its metrics. See `sightline train --help`.

    resume: continue from the last checkpoint in `out`.
    parent: the run to fine-tune if the recipe is quantization-aware.
    """
    setup = setup or Setup()
    with _process() as process:
        device, count = process.device, process.count
        torch.manual_seed(recipe.seed)
        strategy = setup.strategy(task, recipe, parent, device)
        model, dtype = strategy.model, strategy.dtype
        state = TrainingState(model, recipe, device, dtype)
        net: nn.Module = DistributedDataParallel(model) if count > 1 else model
        batches = Shuffled(len(task.data.train), recipe.batch, recipe.seed, process.rank, count)
        if len(batches) == 0:
            raise ConfigError(f"{len(task.data.train)} training images are too few for {count} processes")
        train_loader = loader(task.train_set(recipe), setup.workers, collate=task.collate, batches=batches)
        val_loader = loader(task.val_set(), setup.workers, collate=task.collate, batch=VAL_BATCH)
        config = {**asdict(recipe), "input": asdict(task.spec), "data": task.data.fingerprint, "processes": count}
        if resume:
            state.load(out, config)
        if process.is_main:
            state.write_history(out)

        progress = state.progress
        began, first = time.monotonic(), progress.next_epoch
        for epoch in range(first, recipe.epochs):
            if recipe.patience and epoch - progress.best_epoch > recipe.patience and progress.best_epoch >= 0:
                if process.is_main:
                    click.echo(f"no improvement for {recipe.patience} epochs: training stops early", err=True)
                break
            epoch_began = time.monotonic()
            batches.epoch = epoch
            model.train()
            # stays on the device until the epoch ends: reading it in each step would wait for the GPU
            loss_sum = torch.zeros((), device=device)
            with _progress_bar(train_loader, f"epoch {epoch + 1}/{recipe.epochs}", process) as steps:
                for i, (images, targets) in enumerate(steps):
                    step = epoch * len(batches) + i
                    images = images.to(device, non_blocking=True).float()
                    targets = targets.to(device, non_blocking=True)
                    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                        loss = strategy.loss(net, images, targets)
                    state.update(loss, step, learning_rate(step, len(batches), recipe))
                    loss_sum += loss.detach()
            images_per_s = len(batches) * batches.batch * count / (time.monotonic() - epoch_began)

            strategy.end_epoch(state.average)
            metrics = task.evaluate(state.average, val_loader, device) if process.is_main else {}
            metrics = _from_main(metrics, process)
            mean_loss = round(loss_sum.item() / len(batches), 5)
            if not math.isfinite(mean_loss):
                raise ConfigError(
                    f"the loss became {mean_loss} in epoch {epoch + 1}. Use a smaller --learning-rate than "
                    f"{recipe.learning_rate}."
                )
            score = metrics[task.metric]
            is_best = strategy.is_better(score, progress.best)
            progress.add_epoch(mean_loss, metrics, state.learning_rate, score if is_best else None)
            if process.is_main:
                state.save(out, config, is_best, setup.write)
                remaining_s = (time.monotonic() - began) / (epoch + 1 - first) * (recipe.epochs - epoch - 1)
                setup.on_epoch(
                    EpochReport(
                        epoch, recipe.epochs, mean_loss, task.metric_title, score, progress.best, images_per_s,
                        remaining_s,
                    )
                )  # fmt: skip

        result: dict[str, Any] = {k: v for k, v in progress.best_metrics.items() if k != "loss"}
        result["best_epoch"] = progress.best_epoch + 1
        if process.is_main:
            state.load_best(out)
            result |= strategy.final_metrics(progress.best_metrics, val_loader)
            device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
            provenance = {"recipe": asdict(recipe), "processes": count, "device": device_name, **strategy.provenance}
            task.export(out, strategy.float_model, result, provenance)
        return result


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to 1 % (Loshchilov & Hutter 2017, without restarts)."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, recipe.epochs * steps_per_epoch - warmup)
    return recipe.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


@contextmanager
def _process() -> Iterator[Process]:
    """This process: the only one, or one of those that torchrun started."""
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if count > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Process(rank, count, device)
    finally:
        if count > 1:
            dist.destroy_process_group()


def _from_main(metrics: dict[str, float], process: Process) -> dict[str, float]:
    """The main process's metrics, in every process: all of them must stop at the same epoch."""
    if process.count == 1:
        return metrics
    shared: list[dict[str, float]] = [metrics]
    dist.broadcast_object_list(shared, 0, device=process.device)
    return shared[0]


@contextmanager
def _progress_bar(batches: DataLoader[Any], label: str, process: Process) -> Iterator[Any]:
    """A progress bar on a terminal. Elsewhere nothing: the line of each epoch is enough."""
    if not process.is_main or not sys.stderr.isatty():
        yield batches
        return
    with click.progressbar(batches, label=label, file=sys.stderr) as bar:
        yield bar
    click.echo("\x1b[1A\x1b[2K", nl=False, err=True)  # the epoch's line replaces the bar
