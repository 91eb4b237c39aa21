"""Open and run a model in LiteRT, as a child process: a crafted file may crash LiteRT, and then only this process.

Prints a JSON line when the model is open, and another when it has run.
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
    """Probe the model on stdin. kernels: `xnnpack`, or `builtin` for TFLite's own."""
    from ai_edge_litert import interpreter as litert

    content = sys.stdin.buffer.read()
    before = _resident_bytes()
    builtin = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    options = {"experimental_op_resolver_type": builtin} if kernels == "builtin" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            interpreter = litert.Interpreter(model_content=content, num_threads=1, **options)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as e:
            return _print(load_error=" ".join(str(e).split()))
    _print(
        load_error="",
        delegates=[
            {"inputs": d["inputs"].tolist(), "outputs": d["outputs"].tolist()}
            for d in interpreter._get_ops_details()  # no public method lists the ops that a delegate took
            if d["op_name"] == "DELEGATE"
        ],
    )
    try:
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()
    except (ValueError, RuntimeError) as e:
        return _print(run_error=" ".join(str(e).split()))
    after = _resident_bytes()
    return _print(run_error="", resident_bytes=None if before is None or after is None else after - before)


def _resident_bytes() -> int | None:
    """Bytes of this process in memory; None where the system does not provide it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _print(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
