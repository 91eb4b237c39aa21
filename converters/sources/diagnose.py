"""Find the op of a PyTorch program that cannot be converted, its line in the author's code, and what to use instead."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from sightline.errors import reason

# names of ops, without leading underscores -> what to use instead
_ALTERNATIVES = {
    r"fft|stft|istft": "compute it before the model, or as a matmul with a constant matrix",
    r"complex|view_as_complex|view_as_real|polar": "keep real and imaginary parts in two tensors",
    r"linalg|inverse|cholesky|svd|det$|lu_": "compute it once, outside of forward, and keep the result as a buffer",
    r"deform_conv2d": "use an ordinary convolution",
    r"nms": "return boxes and scores, and suppress after the model",
    r"nonzero|masked_select|unique|unique2|argwhere": "its size depends on the image; use topk, or a mask",
    r"adaptive_max_pool": "use max_pool2d, with the kernel and stride for your image size",
    r"median|kthvalue|mode$|cummax|cummin": "use topk, amax or mean",
    r"rand|bernoulli|normal|multinomial": "use no random numbers in forward",
}
_TORCH_NAMESPACES = {"aten", "prims", "torchvision", "quantized", "quantized_decomposed", "higher_order", "inductor"}
_LIBRARY = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\]lib[/\\]python3")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+\n\s+([^\n]+)')


@dataclass(frozen=True)
class Op:
    """A call of an op. Fields that are not known are empty.

    target: such as aten.fft_rfft2.default.
    module: path and class of the module that calls it.
    line: FILE:LINE of the author's own code, and the code there.
    """

    target: str
    module: str = ""
    line: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (_short(self.target), self.module and f"in module {self.module}", self.line)))


def diagnose(error: BaseException, program: ExportedProgram) -> str:
    """One line: the op at which the conversion of `program` failed, why, and what to use instead."""
    text = str(error)
    failed = re.search(r"target=torch\.ops\.([\w.]+)\]", text)
    if failed is None:
        suspects = [n for n in _calls(program) if alternative(_target(n))]
        hint = f"; probably because of {_op(suspects[0])}: {alternative(_target(suspects[0]))}" if suspects else ""
        return f"litert-torch cannot convert it: {reason(error)}{hint}"
    trace = text.partition("Original traceback:\n")[2].partition("\nUse tlparse")[0]
    op = _original_op(program, failed[1], trace) or Op(failed[1], line=author_line(trace))
    why = "" if "Lowering not found" in text else f" ({reason(error)})"
    advice = alternative(op.target) or alternative(failed[1])
    return f"litert-torch cannot convert {op}{why}{f'; {advice}' if advice else ''}"


def alternative(target: str) -> str:
    """What to use instead of an op, or '' where that is not known."""
    namespace, _, name = target.partition(".")
    if namespace not in _TORCH_NAMESPACES:
        return "a custom op has no kernel on a device: write it in PyTorch's ops"
    name = name.split(".")[0].lstrip("_")
    return next((advice for pattern, advice in _ALTERNATIVES.items() if re.match(pattern, name)), "")


def saved_op(target: str, metadata: dict[str, Any]) -> Op:
    """The call of an op in a program that is not opened. metadata: of the call, unchecked."""
    # KEY,PATH,CLASS for each module, the outermost first
    _, path, kind = (*str(metadata.get("nn_module_stack") or "").rpartition(";")[2].split(",", 2), "", "", "")[:3]
    return Op(target, _module(path, kind), author_line(str(metadata.get("stack_trace") or "")))


def author_line(trace: str) -> str:
    """'at FILE:LINE: code' of the innermost frame that is not in a library; else of the innermost frame."""
    frames = _FRAME.findall(trace)
    own = [f for f in frames if not _LIBRARY.search(f[0])] or frames
    return f"at {own[-1][0]}:{own[-1][1]}: {own[-1][2].strip()}" if own else ""


def training_op(program: ExportedProgram) -> str:
    """The first op that only training has (dropout, batch statistics) with its module and line; else ''."""
    for node in _calls(program):
        name = _target(node).split(".")[1]
        flag = {"dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5}.get(name)
        if (flag is not None and node.args[flag] is True) or "native_dropout" in name:
            return str(_op(node))
    return ""


def _original_op(program: ExportedProgram, lowered: str, trace: str) -> Op | None:
    """The program's own op that became `lowered`: of those from the same line, the one with the most similar name."""
    # for a wrapped program the line is in the code that torch generated from its graph, and starts with the op's name
    generated = re.findall(r"\n\s+(\w+) = torch\.ops\.", trace)
    named = [n for n in _calls(program) if generated and n.name == generated[-1]]
    if named:
        return _op(named[0])
    same = [n for n in _calls(program) if n.meta.get("stack_trace", "").strip() == trace.strip()]
    core = lowered.split(".")[1].strip("_")
    similar = [n for n in same if core in _target(n) or _target(n).split(".")[1].strip("_") in core]
    chosen = similar or [n for n in same if alternative(_target(n))] or (same if len(same) == 1 else [])
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
