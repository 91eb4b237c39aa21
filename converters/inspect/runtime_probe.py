"""What LiteRT does with a model, seen from inside a process of its own: a crafted file may crash it, and then only it.

Writes a JSON line once the model is open, and another once it has run.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np


def main(kernels: str) -> None:
    """kernels: `xnnpack` or `none` (TFLite's own). The model comes on stdin."""
    from ai_edge_litert import interpreter as litert

    content = sys.stdin.buffer.read()
    before = _resident()
    own = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    options = {"experimental_op_resolver_type": own} if kernels == "none" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            interpreter = litert.Interpreter(model_content=content, num_threads=1, **options)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as e:
            return _say(error=" ".join(str(e).split()))
    _say(
        error=None,
        delegates=[
            {"inputs": d["inputs"].tolist(), "outputs": d["outputs"].tolist()}
            for d in interpreter._get_ops_details()  # no public name says which ops a delegate took
            if d["op_name"] == "DELEGATE"
        ],
    )
    try:
        for entry in interpreter.get_input_details():
            interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
        interpreter.invoke()
    except (ValueError, RuntimeError) as e:
        return _say(failure=" ".join(str(e).split()))
    grown = _resident()
    return _say(failure=None, resident=None if before is None or grown is None else grown - before)


def _resident() -> int | None:
    """Bytes of this process in memory; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
