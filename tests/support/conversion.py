"""Help for tests of conversion: programs to convert, changed runs, and the content of folders."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sightline.files import seal


class Calls(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def save_program(path: Path, module: nn.Module, *inputs: Tensor, dynamic: Any = None) -> Path:
    """Export a module to the .pt2 file `path`. Returns the path."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch's exporter
        buffer = io.BytesIO()
        torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic), buffer)
    path.write_bytes(buffer.getvalue())
    return path


def rewrite(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a run's model.json and seal it again, as a faulty writer would."""
    document = json.loads((run / "model.json").read_text(encoding="utf-8"))
    change(document)
    (run / "model.json").write_bytes(seal(document))


def tree(folder: Path) -> dict[str, bytes]:
    """{relative path: content} of all files in a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
