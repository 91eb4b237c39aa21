"""What a resumed training needs to go on exactly: weights, their average, optimizer, random state and scores."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]  # timm lists no exports
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from sightline.errors import ConfigError
from sightline.files import write_file
from trainer.checkpoint import (
    Checkpoint,
    Write,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from trainer.recipe import Recipe

MAX_GRADIENT_NORM = 5.0


@dataclass
class Progress:
    """How far a training is.

    next_epoch: the epoch that is trained next, from 0.
    best: best score so far; -1 before the first epoch.
    best_epoch: epoch of that score; -1 before the first epoch.
    best_metrics: all metrics of that epoch.
    history: one JSON line for each epoch.
    """

    next_epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    def add_epoch(self, loss: float, metrics: dict[str, float], learning_rate: float, best: float | None) -> None:
        """best: the score of the epoch if it is the best so far."""
        epoch = self.next_epoch
        if best is not None:
            self.best, self.best_epoch, self.best_metrics = best, epoch, metrics
        scores = {f"val_{name}": round(value, 6) for name, value in metrics.items()}
        record = {"epoch": epoch, "loss": loss, **scores, "learning_rate": learning_rate}
        self.history.append(json.dumps(record) + "\n")
        self.next_epoch = epoch + 1


class TrainingState:
    """A model in training, with its optimizer and its progress. Only the training thread uses it."""

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device, dtype: torch.dtype | None) -> None:
        """dtype: of mixed precision; None computes in float32."""
        self._model, self._device = model, device
        self._ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
        groups = param_groups_weight_decay(model, recipe.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=False)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.progress = Progress()

    @property
    def average(self) -> nn.Module:
        """The model with the moving average of the weights: it is evaluated, saved as the best, and exported."""
        module: nn.Module = self._ema.module
        return module

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def update(self, loss: Tensor, step: int, learning_rate: float) -> None:
        """One step of the optimizer. step: counts from the start of the training."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        scaled: Any = self._scaler.scale(loss)
        scaled.backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRADIENT_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._ema.update(self._model, step=step)

    def save(self, out: Path, config: dict[str, Any], is_best: bool, write: Write = write_file) -> None:
        """Save the epoch that has just ended. config: settings that a resumed training must share."""
        tensors, groups = flatten_optimizer(self._optimizer)
        tensors |= {f"model.{k}": v for k, v in self._model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.average.state_dict().items()}
        tensors["rng"] = torch.get_rng_state()
        if self._device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state(self._device)
        progress = self.progress
        state = {
            "config": config,
            "best": progress.best,
            "best_epoch": progress.best_epoch,
            "best_metrics": progress.best_metrics,
            "history": progress.history,
            "optimizer_groups": groups,
            "scaler": self._scaler.state_dict(),
        }
        best = self.average.state_dict() if is_best else None
        save_checkpoint(out / "checkpoint", Checkpoint(progress.next_epoch - 1, state, tensors, best), write)
        self.write_history(out)

    def load(self, out: Path, config: dict[str, Any]) -> None:
        """Continue from the last checkpoint. Raises ConfigError if it was made with another config."""
        checkpoint = load_checkpoint(out / "checkpoint")
        state, tensors = checkpoint.state, checkpoint.tensors
        _check_config(state["config"], config, out)
        self.progress = Progress(
            checkpoint.epoch + 1, state["best"], state["best_epoch"], state["best_metrics"], state["history"]
        )
        self._model.load_state_dict(_with_prefix(tensors, "model"))
        self.average.load_state_dict(_with_prefix(tensors, "ema"))
        restore_optimizer(self._optimizer, tensors, state["optimizer_groups"])
        self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(tensors["rng"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"], self._device)

    def load_best(self, out: Path) -> None:
        """Give the model the weights of the best epoch."""
        best = load_checkpoint(out / "checkpoint").best
        assert best is not None
        self._model.load_state_dict(best)

    def write_history(self, out: Path) -> None:
        write_file(out / "history.jsonl", "".join(self.progress.history).encode())


def _check_config(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    changed = [k for k in now if json.loads(json.dumps(now[k])) != before.get(k)]
    if changed:
        listed = ", ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
        raise ConfigError(
            f"{out}: cannot be resumed with other settings ({listed}). Pass the old ones, or another --out."
        )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
