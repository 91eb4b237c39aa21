"""Checkpoints that survive a kill at any moment and load without pickle: tensors in safetensors, the rest in JSON.

`state.json` names the tensor files and their hashes, and is renamed into place last: it is what makes them valid.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from sightline.errors import ModelError
from sightline.files import checked_table, file_table, read_verified, seal, unseal, write_file

SCHEMA = 1
Tensors = dict[str, Tensor]


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any], tensors: Tensors, best: Tensors | None) -> None:
    """state: JSON values. tensors: what training goes on from. best: weights of the best epoch, when this is it."""
    path = folder / "state.json"
    table = unseal(path, "checkpoint", SCHEMA)["files"] if path.exists() else {}
    last = f"epoch-{epoch:04}.safetensors"
    new = {last: save(_plain(tensors))}
    if best is not None:
        new[f"best-{epoch:04}.safetensors"] = save(_plain(best))
    for name, data in new.items():
        write_file(folder / name, data)
    kept = {n: v for n, v in table.items() if n.startswith("best-") and best is None}
    table = {**kept, **file_table(new)}
    write_file(path, seal({"schema": SCHEMA, "epoch": epoch, "state": state, "files": table}))
    for old in folder.glob("*.safetensors"):
        if old.name not in table:
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Any], Tensors, Tensors]:
    """(epoch, state, tensors, best) of the last `save_checkpoint` that was finished."""
    path = folder / "state.json"
    document = unseal(path, "checkpoint", SCHEMA)
    table = checked_table(document, str(path))
    found: dict[str, Tensors] = {}
    for name in table:
        found[name.split("-")[0]] = load(read_verified(folder, table, name))
    if set(found) != {"epoch", "best"}:
        raise ModelError(f"{path}: lists {', '.join(table)}; one epoch-*.safetensors and one best-* are needed")
    return document["epoch"], document["state"], found["epoch"], found["best"]


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, str]:
    """An optimizer's state as named tensors, and its groups as JSON text."""
    state = optimizer.state_dict()
    tensors = {f"optimizer.{i}.{key}": value for i, slot in state["state"].items() for key, value in slot.items()}
    return tensors, json.dumps(state["param_groups"])


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, groups: str) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            slots.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": slots, "param_groups": json.loads(groups)})


def _plain(tensors: Tensors) -> Tensors:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
