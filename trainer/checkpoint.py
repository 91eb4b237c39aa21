"""Checkpoints that survive a kill at any moment and load without pickle: tensors in safetensors, the rest in JSON.

`state.json` names the tensor files and their hashes. It is renamed into place last, which makes the tensor files valid.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from sightline.errors import ModelError
from sightline.files import checked_table, file_table, read_verified, seal, unseal, write_file

SCHEMA = 1
Tensors = dict[str, Tensor]
Write = Callable[[Path, bytes], None]  # writes a file as a whole or not at all, as `sightline.files.write_file`


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on.

    epoch: the last finished one, from 0.
    state: JSON values.
    tensors: weights, optimizer and random state.
    best: weights of the best epoch. For `save_checkpoint` None means that the saved ones remain the best.
    """

    epoch: int
    state: dict[str, Any]
    tensors: Tensors
    best: Tensors | None


def save_checkpoint(folder: Path, checkpoint: Checkpoint, write: Write = write_file) -> None:
    """Save the checkpoint, and delete the tensor files that it replaces."""
    path = folder / "state.json"
    table = unseal(path, "checkpoint", SCHEMA)["files"] if path.exists() else {}
    epoch, best = checkpoint.epoch, checkpoint.best
    files = {f"epoch-{epoch:04}.safetensors": save(_on_cpu(checkpoint.tensors))}
    if best is not None:
        files[f"best-{epoch:04}.safetensors"] = save(_on_cpu(best))
    for name, data in files.items():
        write(folder / name, data)
    old_best = {n: v for n, v in table.items() if n.startswith("best-") and best is None}
    table = {**old_best, **file_table(files)}
    write(path, seal({"schema": SCHEMA, "epoch": epoch, "state": checkpoint.state, "files": table}))
    for old in folder.glob("*.safetensors"):
        if old.name not in table:
            old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint:
    """The last checkpoint that was saved completely."""
    path = folder / "state.json"
    document = unseal(path, "checkpoint", SCHEMA)
    table = checked_table(document, str(path))
    tensors = {name.split("-")[0]: load(read_verified(folder, table, name)) for name in table}
    if set(tensors) != {"epoch", "best"}:
        raise ModelError(f"{path}: lists {', '.join(table)}. One epoch-*.safetensors and one best-* are needed.")
    return Checkpoint(document["epoch"], document["state"], tensors["epoch"], tensors["best"])


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, str]:
    """An optimizer's state as named tensors, and its groups as JSON text."""
    state = optimizer.state_dict()
    tensors = {f"optimizer.{i}.{key}": value for i, slot in state["state"].items() for key, value in slot.items()}
    return tensors, json.dumps(state["param_groups"])


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, groups: str) -> None:
    """Give the optimizer what `flatten_optimizer` returned."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            slots.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": slots, "param_groups": json.loads(groups)})


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
