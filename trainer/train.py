"""The training loop, from top to bottom."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from sightline.errors import ConfigError
from sightline.files import write_file
from sightline.npz import unpack
from sightline.run_folder import Run
from trainer.checkpoint import flatten_optimizer, load_checkpoint, restore_optimizer, save_checkpoint
from trainer.data import Shuffled, loader
from trainer.model import load_program
from trainer.quantization_aware import calibrate, fake_quantized
from trainer.recipe import Recipe
from trainer.task import Task


def train(
    task: Task,
    recipe: Recipe,
    out: Path,
    workers: int,
    resume: bool,
    parent: Run | None = None,
) -> dict[str, Any]:
    """Learn the task's data, write the run folder `out`, and return its metrics. See `sightline train --help`.

    parent: the run that is fine-tuned where the recipe is quantization-aware.
    """
    with _processes() as (rank, world, device):
        torch.manual_seed(recipe.seed)
        float_model = task.build(recipe, "none" if parent else recipe.weights)
        if parent:
            load_program(float_model, parent)
        float_model.to(device)
        model = float_model
        if parent:  # its weights then lie in a graph that rounds them as int8 will
            teacher = copy.deepcopy(float_model).eval().requires_grad_(False)
            frames = unpack(parent.read("calibration.npz"), "calibration.npz", "frames")["frames"]
            model = fake_quantized(float_model, task.spec.width, device)
            calibrate(model, frames, device)
        ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
        net: nn.Module = DistributedDataParallel(model) if world > 1 else model
        optimizer = torch.optim.AdamW(
            param_groups_weight_decay(model, recipe.weight_decay), lr=recipe.learning_rate, fused=False
        )
        mixed = None if parent else _mixed_precision(device)  # bfloat16 has fewer steps than int8
        scaler = torch.amp.GradScaler(device.type, enabled=mixed is torch.float16)
        batches = Shuffled(len(task.data.train), recipe.batch, recipe.seed, rank, world)
        if len(batches) == 0:
            raise ConfigError(f"{len(task.data.train)} training pictures are too few for {world} processes")
        train_loader = loader(task.train_set(recipe), workers, collate=task.collate, batches=batches)
        val_loader = loader(task.val_set(), workers, collate=task.collate, batch=64)

        start, best, best_epoch = 0, -1.0, -1
        best_metrics: dict[str, float] = {}
        checkpoint, history_path = out / "checkpoint", out / "history.jsonl"
        history: list[str] = []
        config = {**asdict(recipe), "input": asdict(task.spec), "data": task.data.fingerprint, "world": world}
        if resume:
            done, state, tensors, best_weights = load_checkpoint(checkpoint)
            _check_same(state["config"], config, out)
            start, best, best_epoch, history = done + 1, state["best"], state["best_epoch"], state["history"]
            best_metrics = state["best_metrics"]
            model.load_state_dict(_part(tensors, "model"))
            ema.module.load_state_dict(_part(tensors, "ema"))
            restore_optimizer(optimizer, tensors, state["optimizer_groups"])
            scaler.load_state_dict(state["scaler"])
            torch.set_rng_state(tensors["rng"])
            if device.type == "cuda":
                torch.cuda.set_rng_state(tensors["rng_cuda"], device)
        if rank == 0:
            write_file(history_path, "".join(history).encode())

        began = time.monotonic()
        for epoch in range(start, recipe.epochs):
            if recipe.patience and epoch - best_epoch > recipe.patience and best_epoch >= 0:
                _say(rank, f"no better for {recipe.patience} epochs: stopped early")
                break
            epoch_began = time.monotonic()
            batches.epoch = epoch
            model.train()
            # on the device until the epoch ends: reading it each step would wait for the GPU
            loss_sum = torch.zeros((), device=device)
            with _bar(train_loader, f"epoch {epoch + 1}/{recipe.epochs}", rank) as steps:
                for i, (images, targets) in enumerate(steps):
                    step = epoch * len(batches) + i
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(step, len(batches), recipe)
                    images = images.to(device, non_blocking=True).float()
                    targets = targets.to(device, non_blocking=True)
                    with torch.autocast(device.type, mixed or torch.bfloat16, enabled=mixed is not None):
                        if parent:  # rounded or not, the parent's answers: what is judged is that the two agree
                            wanted = teacher(images)
                            loss = task.imitation(net(images), wanted) + task.imitation(float_model(images), wanted)
                        else:
                            loss = task.loss(net(images), targets, recipe)
                    optimizer.zero_grad(set_to_none=True)
                    scaler.scale(loss).backward()
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                    scaler.step(optimizer)
                    scaler.update()
                    ema.update(model, step=step)
                    loss_sum += loss.detach()

            seconds = time.monotonic() - epoch_began
            if parent:  # the weights have moved, and the ranges with them
                calibrate(model, frames, device)
                calibrate(ema.module, frames, device)
            measured = task.evaluate(ema.module, val_loader, device) if rank == 0 else {}
            if world > 1:  # all must stop at the same epoch: one measures
                shared: list[Any] = [measured]
                dist.broadcast_object_list(shared, 0, device=device)
                measured = shared[0]
            # of a fine-tune the last epoch counts: the labels know nothing of how well the rounding is borne
            better = measured[task.goal] > best or parent is not None
            if better:
                best, best_epoch, best_metrics = measured[task.goal], epoch, measured
            record = {
                "epoch": epoch,
                "loss": round(loss_sum.item() / len(batches), 5),
                **{f"val_{name}": round(value, 6) for name, value in measured.items()},
                "learning_rate": optimizer.param_groups[0]["lr"],
            }
            if not math.isfinite(record["loss"]):
                raise ConfigError(
                    f"the loss became {record['loss']} in epoch {epoch + 1}: a smaller --learning-rate than "
                    f"{recipe.learning_rate} is needed"
                )
            history.append(json.dumps(record) + "\n")
            if rank == 0:
                tensors, groups = flatten_optimizer(optimizer)
                tensors |= {f"model.{k}": v for k, v in model.state_dict().items()}
                tensors |= {f"ema.{k}": v for k, v in ema.module.state_dict().items()}
                tensors["rng"] = torch.get_rng_state()
                if device.type == "cuda":
                    tensors["rng_cuda"] = torch.cuda.get_rng_state(device)
                state = {
                    "config": config,
                    "best": best,
                    "best_epoch": best_epoch,
                    "best_metrics": best_metrics,
                    "history": history,
                    "optimizer_groups": groups,
                    "scaler": scaler.state_dict(),
                }
                save_checkpoint(checkpoint, epoch, state, tensors, ema.module.state_dict() if better else None)
                write_file(history_path, "".join(history).encode())
            left = (time.monotonic() - began) / (epoch + 1 - start) * (recipe.epochs - epoch - 1)
            speed = len(batches) * batches.batch * world / seconds
            _say(
                rank,
                f"epoch {epoch + 1:3}/{recipe.epochs}  loss {record['loss']:.3f}  "
                f"{task.title} {measured[task.goal]:7.2%}  best {best:7.2%}  "
                f"{speed:5.0f} pictures/s  {left:4.0f} s left",
            )

        metrics: dict[str, Any] = {k: v for k, v in best_metrics.items() if k != "loss"}
        metrics["best_epoch"] = best_epoch + 1
        if rank == 0:
            _, _, _, best_weights = load_checkpoint(checkpoint)
            model.load_state_dict(best_weights)
            provenance = {"recipe": asdict(recipe), "world": world, "device": _device_name(device)}
            if parent:
                unrounded = task.evaluate(float_model, val_loader, device)
                metrics |= {f"simulated_int8_{k}": v for k, v in best_metrics.items() if k != "loss"}
                metrics |= {k: v for k, v in unrounded.items() if k != "loss"}
                old = parent.manifest
                provenance["parent"] = {"name": old.name, "version": old.version, "metrics": old.metrics}
            task.export(out, float_model, metrics, provenance, recipe.seed)
        return metrics


def learning_rate(step: int, steps_per_epoch: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to 1 % (Loshchilov & Hutter 2017, without restarts)."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, recipe.epochs * steps_per_epoch - warmup)
    return recipe.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


@contextmanager
def _processes() -> Iterator[tuple[int, int, torch.device]]:
    """(rank, processes, device): alone, or one of those that torchrun started."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield rank, world, device
    finally:
        if world > 1:
            dist.destroy_process_group()


def _mixed_precision(device: torch.device) -> torch.dtype | None:
    """What the device computes fast; None on a CPU, where bfloat16 without AMX is slower than float32."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _check_same(before: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    changed = [k for k in now if json.loads(json.dumps(now[k])) != before.get(k)]
    if changed:
        listed = ", ".join(f"{k} was {before.get(k)!r}, is {now[k]!r}" for k in changed)
        raise ConfigError(f"{out}: cannot go on with other settings ({listed}); give the old ones, or another --out")


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


@contextmanager
def _bar(batches: DataLoader[Any], label: str, rank: int) -> Iterator[Any]:
    """A progress bar on a terminal; silent elsewhere, where each epoch's line is enough."""
    if rank or not sys.stderr.isatty():
        yield batches
        return
    with click.progressbar(batches, label=label, file=sys.stderr) as bar:
        yield bar
    click.echo("\x1b[1A\x1b[2K", nl=False, err=True)  # the epoch's line takes its place


def _say(rank: int, line: str) -> None:
    if rank == 0:
        click.echo(line, err=True)
