"""Which op of a PyTorch program cannot be converted, where in its author's code it stands, and what to do instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from sightline.errors import reason

# names of ops, without underscores in front -> what converts in their place
_INSTEAD = {
    r"fft|stft|istft": "compute it before the model, or as a matmul with a constant matrix",
    r"complex|view_as_complex|view_as_real|polar": "keep real and imaginary parts in two tensors",
    r"linalg|inverse|cholesky|svd|det$|lu_": "compute it once, outside of forward, and keep the result as a buffer",
    r"deform_conv2d": "use an ordinary convolution",
    r"nms": "give boxes and scores out, and suppress after the model",
    r"nonzero|masked_select|unique|unique2|argwhere": "its size depends on the picture; use topk, or a mask",
    r"adaptive_max_pool": "use max_pool2d, with the kernel and stride that your size of picture makes of it",
    r"median|kthvalue|mode$|cummax|cummin": "use topk, amax or mean",
    r"rand|bernoulli|normal|multinomial": "leave chance out of forward",
}
_TORCHS = {"aten", "prims", "torchvision", "quantized", "quantized_decomposed", "higher_order", "inductor"}
_LIBRARY = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python3")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+\n\s+([^\n]+)')


@dataclass(frozen=True)
class Op:
    """target: such as aten.fft_rfft2.default. module: path and class of the module that calls it. line: FILE:LINE of
    the author's own code, and what stands there. Empty where it is not known."""

    target: str
    module: str = ""
    line: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (_short(self.target), self.module and f"in module {self.module}", self.line)))


def diagnose(error: BaseException, program: ExportedProgram) -> str:
    """One line: the op at which a conversion of `program` failed, why, and what converts in its place."""
    said = str(error)
    failed = re.search(r"target=torch\.ops\.([\w.]+)\]", said)
    if failed is None:
        known = [n for n in _calls(program) if instead(_target(n))]
        hint = f"; probably for {_op(known[0])}: {instead(_target(known[0]))}" if known else ""
        return f"litert-torch cannot convert it: {reason(error)}{hint}"
    trace = said.partition("Original traceback:\n")[2].partition("\nUse tlparse")[0]
    op = _source(program, failed[1], trace) or Op(failed[1], line=author_line(trace))
    why = "" if "Lowering not found" in said else f" ({reason(error)})"
    advice = instead(op.target) or instead(failed[1])
    return f"litert-torch cannot convert {op}{why}{f'; {advice}' if advice else ''}"


def instead(target: str) -> str:
    """What converts in the place of an op, or nothing where nothing is known."""
    namespace, _, name = target.partition(".")
    if namespace not in _TORCHS:
        return "an op of your own has no kernel on a device: write it in PyTorch's ops"
    name = name.split(".")[0].lstrip("_")
    return next((advice for pattern, advice in _INSTEAD.items() if re.match(pattern, name)), "")


def saved_op(target: str, metadata: dict[str, Any]) -> Op:
    """The author's line of a call in a program that is not opened. metadata: of the call, unchecked."""
    # KEY,PATH,CLASS for each module from the outermost in
    _, path, kind = (*str(metadata.get("nn_module_stack") or "").rpartition(";")[2].split(",", 2), "", "", "")[:3]
    return Op(target, _module(path, kind), author_line(str(metadata.get("stack_trace") or "")))


def author_line(trace: str) -> str:
    """'at FILE:LINE: code' of the innermost frame that is not a library's, else of the innermost."""
    frames = _FRAME.findall(trace)
    own = [f for f in frames if not _LIBRARY.search(f[0])] or frames
    return f"at {own[-1][0]}:{own[-1][1]}: {own[-1][2].strip()}" if own else ""


def training_op(program: ExportedProgram) -> str:
    """The first op that only training has, dropout or statistics of the batch, with its place; else nothing."""
    for node in _calls(program):
        name = _target(node).split(".")[1]
        flag = {"dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5}.get(name)
        if (flag is not None and node.args[flag] is True) or "native_dropout" in name:
            return str(_op(node))
    return ""


def _source(program: ExportedProgram, lowered: str, trace: str) -> Op | None:
    """The program's own op that became `lowered`: of those from the same line, the one with the likest name."""
    # where the program is wrapped, the line is of the code that torch made of its graph, and starts with the op's name
    made = re.findall(r"\n\s+(\w+) = torch\.ops\.", trace)
    named = [n for n in _calls(program) if made and n.name == made[-1]]
    if named:
        return _op(named[0])
    same = [n for n in _calls(program) if n.meta.get("stack_trace", "").strip() == trace.strip()]
    core = lowered.split(".")[1].strip("_")
    alike = [n for n in same if core in _target(n) or _target(n).split(".")[1].strip("_") in core]
    chosen = alike or [n for n in same if instead(_target(n))] or (same if len(same) == 1 else [])
    return _op(chosen[0]) if chosen else None


def _calls(program: ExportedProgram) -> list[Node]:
    return [n for n in program.graph.nodes if n.op == "call_function" and "." in str(n.target)]


def _op(node: Node) -> Op:
    path, kind = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).values()))
    module = _module(path, kind if isinstance(kind, str) else kind.__name__)
    return Op(_target(node), module, author_line(node.meta.get("stack_trace") or ""))


def _module(path: str, kind: str) -> str:
    kind = kind.rpartition(".")[2]
    return f"{path!r} ({kind})" if path else kind


def _target(node: Node) -> str:
    return str(node.target)


def _short(target: str) -> str:
    return target.removesuffix(".default")
