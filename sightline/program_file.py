"""Checks a .pt2 of torch.export, and removes whatever could run code when torch opens it.

A .pt2 can have more than tensors and a graph: pickles, compiled libraries, expressions that torch evaluates, and names
that become Python source or attributes of `torch`. This module refuses each of these, and writes a new archive that has
only checked parts. It does not import torch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

from sightline.documents import parse_json, shortened
from sightline.errors import ModelError
from sightline.program_ops import ATEN, HIGHER_ORDER

_TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_GRAPH, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_PLAIN = re.compile(r"archive_format|archive_version|byteorder|\.data/\w+|extra/[^/]+")
_OP = re.compile(
    r"torch\.ops\.aten\.(?P<aten>\w+)(\.(?!__|\w*[Oo]ut|grad_input)\w+)?|torch\.ops\.higher_order\.(?P<higher>\w+)"
)
_PYTHON_OP = re.compile(
    r"_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|lshift|rshift)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.sym_(int|float|not|max|min|ite|sum|sqrt)|torch\._sym_sqrt"
)
_NAME = re.compile(r"\w*", re.ASCII)
_DOTTED = re.compile(r"[\w.:<> -]*")
# expressions of sizes, as sympy and torch write them: `s77 + 1`, `LessThan(Symbol('u0', integer=True), Integer(5))`
_EXPRESSION = re.compile(
    r"(Symbol\('[a-z]{1,3}\d+'(, \w{1,20}=True)*\)|[a-z]{1,3}\d+(?!\w)|FloorDiv|ModularIndexing|Where|PythonMod|Mod"
    r"|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|TruncToInt|TruncToFloat|ToFloat|IntTrueDiv|FloatTrueDiv"
    r"|RoundToInt|PowByNatural|Max|Min|Integer|Float|Rational|Add|Mul|Pow|Eq|Ne|Equality|Unequality|LessThan|GreaterThan"
    r"|StrictLessThan|StrictGreaterThan|And|Or|Not|True|False|true|false|int_oo|oo"
    r"|\d{1,19}(\.\d{1,19})?(?![\d.])|\*\*[2-4]\b|[ (),+/<>=&|~-]|\*(?!\*))*",
    re.ASCII,
)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_SPECS, _METADATA = ("in_spec", "out_spec"), ("stack_trace", "nn_module_stack", "torch_fn")


class UnlistedOpError(ModelError):
    """An op that is not on the list.

    target: such as aten.from_file.default.
    metadata: of torch.export about the call, unchecked.
    """

    def __init__(self, name: str, target: str, metadata: dict[str, Any]) -> None:
        super().__init__(unlisted(name, target))
        self.target, self.metadata = target, metadata


def unlisted(name: str, call: str) -> str:
    """The error message for a call of an op that is not on the list."""
    return (
        f"{name}: calls {call}, which is not on the list of ops that a .pt2 may call. Use other ops, call "
        "run_decompositions() on the exported program before you save it, or export the model to ONNX."
    )


def checked_program(content: bytes, name: str) -> bytes:
    """The program as a new archive that has only tensors and a checked graph.

    Raises ModelError, and its subclass UnlistedOpError for an op that is not on the list.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _rewritten(archive, name)
    # a damaged archive raises any of these
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as e:
        raise ModelError(f"{name}: is not a program that torch.export saved: {str(e) or type(e).__name__}") from None


def _rewritten(archive: zipfile.ZipFile, name: str) -> bytes:
    parts: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        inner = info.filename.partition("/")[2]
        if inner in parts or info.is_dir():
            raise ValueError(f"{shortened(info.filename)!r} is in it twice, or is a folder")
        parts[inner] = info
    if _GRAPH not in parts:
        raise ValueError(f"it has no {_GRAPH}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as rewritten:
        for inner, info in parts.items():
            data = archive.read(info)
            if inner in _CONFIGS:
                _check_payloads(parse_json(data), name)
            elif inner == _GRAPH:
                data = json.dumps(_checked_graph(parse_json(data), name)).encode()
            elif inner == _SAMPLES:
                data = b""  # a pickle, which nothing here needs
            elif not (_TENSORS.fullmatch(inner) or _PLAIN.fullmatch(inner)):
                _refuse(name, f"has {shortened(inner)!r}, which is code or a pickle")
            rewritten.writestr(f"archive/{inner}", data)
    return buffer.getvalue()


def _refuse(name: str, why: str) -> NoReturn:
    raise ModelError(
        f"{name}: {why}, and is not opened: it could run anything here. Export the model again, with plain "
        "tensors as its weights and constants."
    )


def _check_payloads(document: Any, name: str) -> None:
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise ValueError("it does not list its tensors")
    for key, payload in config.items():
        plain = isinstance(payload, dict) and re.fullmatch(r"(weight|tensor)_\d+", str(payload.get("path_name")))
        if not plain or payload.get("use_pickle") is not False:
            _refuse(name, f"has {shortened(key)!r} as a pickle, which is code")


def _checked_graph(document: Any, name: str) -> dict[str, Any]:
    """Remove the guards, which are Python source that torch compiles, and metadata that it reads for debuggers."""
    if not isinstance(document, dict) or not isinstance(document.get("graph_module"), dict):
        raise ValueError("its graph is not valid")
    document["guards_code"] = []
    for node, key, value in _walk(document):
        if key in ("target", "as_operator"):
            if not _listed(str(value)):
                metadata = node.get("metadata")
                target = shortened(str(value).removeprefix("torch.ops."))
                raise UnlistedOpError(name, target, metadata if isinstance(metadata, dict) else {})
        elif key == "expr_str":
            if len(str(value)) > 500 or not _EXPRESSION.fullmatch(str(value)):
                _refuse(name, f"has the expression {shortened(str(value))!r}")
        elif key == "forward_arg_names":
            if not all(isinstance(word, str) and _NAME.fullmatch(word) for word in value or ()):
                _refuse(name, f"has arguments called {shortened(str(value))!r}")
        elif key in _SPECS:
            for _, inner, kind in _walk(parse_json(value)) if value else ():
                if inner == "type" and kind not in _CONTAINERS:
                    _refuse(name, f"has an input or output of type {shortened(str(kind))!r}")
        elif isinstance(value, str) and (key == "name" or str(key).endswith(("_name", "fqn"))):
            if not (_NAME if key == "name" else _DOTTED).fullmatch(value):
                _refuse(name, f"has a {key} {shortened(value)!r}")
        elif key == "metadata" and isinstance(value, dict):
            for dropped in value.keys() - {*_METADATA}:
                del value[dropped]
    return document


def _listed(target: str) -> bool:
    op = _OP.fullmatch(target)
    if op is None:
        return bool(_PYTHON_OP.fullmatch(target))
    return op["aten"] in ATEN or op["higher"] in HIGHER_ORDER


def _walk(document: Any) -> Iterator[tuple[dict[Any, Any], Any, Any]]:
    """Each (mapping, key, value) of every mapping in the document; those of a mapping before those of its values."""
    todo = [document]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield from [(node, key, value) for key, value in node.items()]
            todo += node.values()
        elif isinstance(node, list):
            todo += node
