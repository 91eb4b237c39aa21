"""What a model learns from: labels, or the outputs of the float model that it was before int8 rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.npz import unpack
from sightline.run_folder import Run
from trainer.model import load_program
from trainer.quantization_aware import calibrate, fake_quantized
from trainer.recipe import Recipe
from trainer.task import Task

FakeQuantize = Callable[[nn.Module, int, torch.device], nn.Module]
Calibrate = Callable[[nn.Module, NDArray[np.uint8], torch.device], None]


class Strategy(Protocol):
    """What a model learns from.

    model: is trained and averaged.
    float_model: is exported; shares its parameters with `model`.
    dtype: of mixed precision; None computes in float32.
    provenance: what the run states about its origin, besides the recipe.
    """

    model: nn.Module
    float_model: nn.Module
    dtype: torch.dtype | None
    provenance: dict[str, Any]

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch. net: `model`, or its wrapper for several processes."""

    def end_epoch(self, average: nn.Module) -> None:
        """Called before the evaluation of each epoch. average: the model with averaged weights."""

    def is_better(self, score: float, best: float) -> bool:
        """Whether the epoch becomes the result."""

    def final_metrics(self, best: dict[str, float], val_loader: DataLoader[Any]) -> dict[str, float]:
        """Metrics that the run gets in addition to or instead of those of its best epoch."""


MakeStrategy = Callable[[Task, Recipe, Run | None, torch.device], Strategy]


def make_strategy(task: Task, recipe: Recipe, parent: Run | None, device: torch.device) -> Strategy:
    """Distillation if there is a parent run to fine-tune, supervised training otherwise."""
    return Distillation(task, recipe, parent, device) if parent else Supervised(task, recipe, device)


class Supervised:
    """Learns the labels. The result is the epoch with the best score. See `Strategy`."""

    def __init__(self, task: Task, recipe: Recipe, device: torch.device) -> None:
        self._task, self._recipe = task, recipe
        self.model = self.float_model = task.build(recipe, recipe.weights).to(device)
        self.dtype = mixed_precision(device)
        self.provenance: dict[str, Any] = {}

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return self._task.loss(net(images), targets, self._recipe)

    def end_epoch(self, average: nn.Module) -> None:
        pass

    def is_better(self, score: float, best: float) -> bool:
        return score > best

    def final_metrics(self, best: dict[str, float], val_loader: DataLoader[Any]) -> dict[str, float]:
        return {}


class Distillation:
    """Fine-tunes a finished run with int8 rounding, towards the outputs of its float model. See `Strategy`.

    The result is the last epoch: labels do not measure how well the weights bear the rounding.
    """

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        parent: Run,
        device: torch.device,
        *,
        quantize: FakeQuantize = fake_quantized,
        set_ranges: Calibrate = calibrate,
    ) -> None:
        self._task, self._device, self._set_ranges = task, device, set_ranges
        self.float_model = task.build(recipe, "none")
        load_program(self.float_model, parent)
        self.float_model.to(device)
        self._teacher = copy.deepcopy(self.float_model).eval().requires_grad_(False)
        self._frames = unpack(parent.read("calibration.npz"), "calibration.npz", "frames")["frames"]
        # the same weights in a graph that rounds them as int8 will
        self.model = quantize(self.float_model, task.spec.width, device)
        set_ranges(self.model, self._frames, device)
        self.dtype: torch.dtype | None = None  # bfloat16 has fewer steps than int8
        old = parent.manifest
        self.provenance: dict[str, Any] = {"parent": {"name": old.name, "version": old.version, "metrics": old.metrics}}

    def loss(self, net: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        # with and without rounding, the parent's outputs: conversion is judged by how well the two agree
        teacher = self._teacher(images)
        distance = self._task.distillation_loss
        return distance(net(images), teacher) + distance(self.float_model(images), teacher)

    def end_epoch(self, average: nn.Module) -> None:
        # the weights have moved, and the ranges of the activations with them
        self._set_ranges(self.model, self._frames, self._device)
        self._set_ranges(average, self._frames, self._device)

    def is_better(self, score: float, best: float) -> bool:
        return True

    def final_metrics(self, best: dict[str, float], val_loader: DataLoader[Any]) -> dict[str, float]:
        simulated = {f"simulated_int8_{k}": v for k, v in best.items() if k != "loss"}
        unrounded = self._task.evaluate(self.float_model, val_loader, self._device)
        return simulated | {k: v for k, v in unrounded.items() if k != "loss"}


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """What the device computes fast. None on a CPU, where bfloat16 without AMX is slower than float32."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
