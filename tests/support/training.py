"""A training that takes a second: the smallest timm model that has batch norm, on 32 pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sightline.data.classification import ClassificationDataset
from sightline.preprocess import InputSpec
from trainer.classification_task import ClassificationTask
from trainer.recipe import Recipe
from trainer.train import EpochReport, Setup, print_epoch

ARCH = "test_byobnet"
EPOCHS = 4
TaskFactory = Callable[[str, Any, InputSpec], Any]


def arguments(images: Path, out: Path, **options: object) -> list[str]:
    """The command line. Options replace the defaults; None removes an option."""
    defaults: dict[str, object] = {
        "arch": ARCH,
        "weights": "none",
        "image_size": 32,
        "epochs": EPOCHS,
        "batch": 16,
        "patience": 0,
    }
    texts = [str(images), "--out", str(out)]
    for key, value in {**defaults, **options}.items():
        if value is not None:
            texts += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    return texts


def learn(
    images: Path, out: Path, task_factory: TaskFactory | None = None, setup: Setup | None = None, **options: object
) -> None:
    """`sightline train` in this process: errors come as they are raised."""
    run_line(arguments(images, out, **options), task_factory, setup)


def run_line(line: list[str], task_factory: TaskFactory | None = None, setup: Setup | None = None) -> None:
    """Parse the command line and train. task_factory, setup: as `trainer.cli.run_training` takes them."""
    from trainer.cli import make_task, read_options, run_training, train

    with train.make_context("train", line) as context:
        run_training(read_options(context), task_factory or make_task, setup)


class Stopped(Exception):
    """Something from outside that ends a training."""


def stop_after(epoch: int) -> Setup:
    """Training ends once that epoch, counted from 0, is saved."""

    def stop(report: EpochReport) -> None:
        print_epoch(report)
        if report.epoch == epoch:
            raise Stopped

    return Setup(on_epoch=stop)


def with_accuracies(*accuracies: float) -> TaskFactory:
    """Makes a classification task whose evaluations have these accuracies, one after the other."""
    values: Iterator[float] = iter(accuracies)

    class Scripted(ClassificationTask):
        def evaluate(self, *_: Any) -> dict[str, float]:
            return {"accuracy": next(values), "loss": 1.0}

    return lambda name, data, spec: Scripted(data, spec)


def with_model(make: Callable[[int], torch.nn.Module]) -> TaskFactory:
    """Makes a classification task that learns another model. make: takes the number of classes."""

    class Custom(ClassificationTask):
        def build(self, recipe: Recipe, weights: str) -> torch.nn.Module:
            return make(len(self.data.labels))

    def task(name: str, data: ClassificationDataset, spec: InputSpec) -> ClassificationTask:
        return Custom(data, spec)

    return task


def recipe(**changes: Any) -> Recipe:
    """A recipe that changes nothing at random, with some changes."""
    plain = Recipe(
        task="classify",
        arch=ARCH,
        weights="none",
        epochs=10,
        batch=8,
        learning_rate=0.5,
        weight_decay=0.0,
        warmup_epochs=2,
        label_smoothing=0.0,
        ema_decay=0.9,
        patience=0,
        augment="none",
        flip=False,
        seed=0,
    )
    return dataclasses.replace(plain, **changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What the run's program holds: parameters and buffers."""
    return {k: v.detach() for k, v in torch.export.load(run / "model.pt2").state_dict.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Bit for bit, NaN included."""
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].numpy().tobytes() == b[k].numpy().tobytes()
        for k in a
    )
