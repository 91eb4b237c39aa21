"""Float .tflite files of anybody, and what has to hold of every float .tflite before it is quantized."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.sources.base import Say, silent
from converters.tflite.graph import pack, unpack
from converters.tflite.rewrites import rewritten
from sightline.errors import ModelError

TITLE = "TFLite"
_TYPES = {v: k.lower() for k, v in vars(schema.TensorType).items() if not k.startswith("_")}
_WANTED = "one picture in RGB, float32 [1, height, width, 3]"


def to_tflite(path: Path, say: Say = silent) -> bytes:
    """The file itself where it takes one picture; one of a dynamic or larger batch as one that does."""
    return check_float(path.read_bytes(), str(path))


def outputs(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """What LiteRT's own kernels give, without XNNPACK, which is another implementation: float32 [n, classes]."""
    interpreter = _load(path.read_bytes(), str(path))
    (entry,) = interpreter.get_input_details()
    _one_picture(interpreter, entry, str(path))
    output = interpreter.get_output_details()[0]["index"]
    found = []
    for picture in inputs:
        interpreter.set_tensor(entry["index"], picture[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(output).astype(np.float32).reshape(1, -1))
    return np.concatenate(found)


def check_float(content: bytes, name: str) -> bytes:
    """A float32 .tflite that takes one picture, [1, height, width, 3], and has TFLite's own ops alone.

    Returned as it is, or with the batch made 1, and in ops that the quantizer knows (see `rewrite`). Raises ModelError,
    which says what is otherwise.
    """
    if content[4:8] != b"TFL3":
        raise ModelError(f"{name}: not a .tflite file")
    _check_ops(content, name)
    interpreter = _load(content, name)
    entries = interpreter.get_input_details()
    shown = ", ".join(f"{e['name']} {_type(e)} {[int(n) for n in e['shape_signature']]}" for e in entries)
    if len(entries) != 1:
        raise ModelError(f"{name}: takes {len(entries)} inputs ({shown}); needed is {_WANTED}")
    _check_not_quantized(content, name)
    entry, shape = entries[0], [int(n) for n in entries[0]["shape_signature"]]
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        raise ModelError(
            f"{name}: takes {shown}, colours first, for which TFLite has no kernels; convert the original, which this "
            "was made from (.onnx and .pt2 may take colours first), or export it with colours last"
        )
    if _type(entry) != "float32" or len(shape) != 4 or shape[3] != 3:
        raise ModelError(f"{name}: takes {shown}; needed is {_WANTED}")
    if min(shape[1:]) < 1:
        raise ModelError(f"{name}: takes {shown}, a size that is not fixed; export it for pictures of one size")
    wrong = [_type(d) for d in interpreter.get_output_details() if _type(d) != "float32"]
    if wrong:
        raise ModelError(f"{name}: gives {wrong[0]}; needed are scores in float32")
    return rewritten(content if shape[0] == 1 else _with_one_picture(content, interpreter, entry, name))


def _check_ops(content: bytes, name: str) -> None:
    try:
        model = schema.Model.GetRootAs(content, 0)
        codes = [model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength())]
    except Exception:  # whatever a damaged file makes of offsets
        raise ModelError(f"{name}: not a .tflite file, or a damaged one") from None
    custom = sorted(code.decode(errors="replace") for code in codes if code)
    flex = [code.removeprefix("Flex") for code in custom if code.startswith("Flex")]
    if flex:
        raise ModelError(
            f"{name}: runs TensorFlow's own {', '.join(flex)} (select TF ops), which devices lack; replace it in the "
            "model, and convert it with TFLITE_BUILTINS alone"
        )
    if custom:
        raise ModelError(f"{name}: has ops that are not TFLite's own: {', '.join(custom)}; export it without them")


def _check_not_quantized(content: bytes, name: str) -> None:
    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    for i in range(graph.TensorsLength()):
        tensor = graph.Tensors(i)
        kind, scales = _TYPES[tensor.Type()], tensor.Quantization()
        if kind == "float16" or (kind != "float32" and scales is not None and scales.ScaleLength()):
            raise ModelError(
                f"{name}: is quantized already ({kind} {tensor.Name().decode(errors='replace')}); what that lost does "
                "not come back: convert the float model that it came from. It runs as it is, with `sightline run`"
            )


def _load(content: bytes, name: str) -> Any:
    # here are no XNNPACK and no threads: `outputs` is to be another implementation than the one that devices run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return litert.Interpreter(
                model_content=content,
                experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
    except (ValueError, RuntimeError) as e:
        raise ModelError(f"{name}: LiteRT cannot load it: {' '.join(str(e).split())}") from None


def _one_picture(interpreter: Any, entry: dict[str, Any], name: str) -> None:
    """Make the interpreter one for a batch of 1. Raises ModelError where the graph has another one built in."""
    try:
        interpreter.resize_tensor_input(entry["index"], [1, *(int(n) for n in entry["shape_signature"][1:])])
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as e:
        batch = int(entry["shape_signature"][0])
        raise ModelError(
            f"{name}: takes a batch of {'any size' if batch < 0 else batch}, and cannot be made to take one picture "
            f"({' '.join(str(e).split())[:200]}); export it with batch 1"
        ) from None


def _with_one_picture(content: bytes, interpreter: Any, entry: dict[str, Any], name: str) -> bytes:
    """The file with the shapes that its tensors have when there is one picture."""
    _one_picture(interpreter, entry, name)
    model = unpack(content)
    graph = model.subgraphs[0]
    for details in interpreter.get_tensor_details():
        if details["index"] < len(graph.tensors):  # after them come those that the interpreter added for itself
            tensor = graph.tensors[details["index"]]
            if tensor.shape is not None:
                tensor.shape = np.asarray(details["shape"], np.int32)
            tensor.shapeSignature = None
    return pack(model)


def _type(details: dict[str, Any]) -> str:
    return str(np.dtype(details["dtype"]).name)
