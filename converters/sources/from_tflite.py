"""Foreign float .tflite files, and the check of every float .tflite before it is quantized."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from converters.log_capture import Log, silent
from converters.tflite.graph import pack, read_graph, unpack
from converters.tflite.rewrites import rewrite_for_quantizer
from sightline.errors import ModelError

TITLE = "TFLite"
_EXPECTED = "It must take one RGB image, float32 [1, height, width, 3]."


def to_tflite(path: Path, log: Log = silent) -> bytes:
    """The file itself if it takes one image. A dynamic or larger batch becomes 1."""
    return check_float(path.read_bytes(), str(path))


def outputs(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run LiteRT's own kernels, which are another implementation than XNNPACK. Returns float32 [n, classes]."""
    interpreter = _load(path.read_bytes(), str(path))
    (details,) = interpreter.get_input_details()
    _set_batch_1(interpreter, details, str(path))
    output = interpreter.get_output_details()[0]["index"]
    scores = []
    for image in inputs:
        interpreter.set_tensor(details["index"], image[None])
        interpreter.invoke()
        scores.append(interpreter.get_tensor(output).astype(np.float32).reshape(1, -1))
    return np.concatenate(scores)


def check_float(content: bytes, name: str) -> bytes:
    """Check that a .tflite is float32, takes one image [1, height, width, 3], and has TFLite's own ops alone.

    Returns it unchanged, or with the batch made 1, and in ops that the quantizer knows (see `rewrites`).
    Raises ModelError, which states what is wrong.
    """
    if content[4:8] != b"TFL3":
        raise ModelError(f"{name}: not a .tflite file")
    _check_ops(content, name)
    interpreter = _load(content, name)
    inputs = interpreter.get_input_details()
    shown = ", ".join(f"{e['name']} {_dtype(e)} {[int(n) for n in e['shape_signature']]}" for e in inputs)
    if len(inputs) != 1:
        raise ModelError(f"{name}: takes {len(inputs)} inputs ({shown}). {_EXPECTED}")
    _check_not_quantized(content, name)
    details, shape = inputs[0], [int(n) for n in inputs[0]["shape_signature"]]
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        raise ModelError(
            f"{name}: takes {shown}, channels first, for which TFLite has no kernels. Convert the original model "
            "(.onnx and .pt2 may have channels first), or export it with channels last."
        )
    if _dtype(details) != "float32" or len(shape) != 4 or shape[3] != 3:
        raise ModelError(f"{name}: takes {shown}. {_EXPECTED}")
    if min(shape[1:]) < 1:
        raise ModelError(f"{name}: takes {shown}, a size that is not fixed. Export it for images of one size.")
    wrong = [_dtype(d) for d in interpreter.get_output_details() if _dtype(d) != "float32"]
    if wrong:
        raise ModelError(f"{name}: gives {wrong[0]}. It must give scores in float32.")
    return rewrite_for_quantizer(content if shape[0] == 1 else _with_batch_1(content, interpreter, details, name))


def _check_ops(content: bytes, name: str) -> None:
    try:
        # not the whole graph: LiteRT has not checked the file yet, because it does not open unknown ops
        model = schema.Model.GetRootAs(content, 0)
        codes = [model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength())]
    except Exception:  # a damaged file's offsets raise errors of many types
        raise ModelError(f"{name}: not a .tflite file, or a damaged one") from None
    custom = sorted(code.decode(errors="replace") for code in codes if code)
    flex = [code.removeprefix("Flex") for code in custom if code.startswith("Flex")]
    if flex:
        raise ModelError(
            f"{name}: runs TensorFlow's own {', '.join(flex)} (select TF ops), which devices lack. Replace it in the "
            "model, and convert it with TFLITE_BUILTINS alone."
        )
    if custom:
        raise ModelError(f"{name}: has ops that are not TFLite's own: {', '.join(custom)}. Export it without them.")


def _check_not_quantized(content: bytes, name: str) -> None:
    for tensor in read_graph(content).operands:
        if tensor.dtype == "float16" or (tensor.dtype != "float32" and tensor.scales):
            raise ModelError(
                f"{name}: is quantized already ({tensor.dtype} {tensor.name}), and the lost precision cannot be "
                "restored. Convert the float model that it was made from. `sightline run` runs the file unchanged."
            )


def _load(content: bytes, name: str) -> Any:
    # without XNNPACK and threads: `outputs` must not come from the implementation that devices run
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return litert.Interpreter(
                model_content=content,
                experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
    except (ValueError, RuntimeError) as e:
        raise ModelError(f"{name}: LiteRT cannot load it: {' '.join(str(e).split())}") from None


def _set_batch_1(interpreter: Any, details: dict[str, Any], name: str) -> None:
    """Resize the interpreter's input to a batch of 1. Raises ModelError if another batch is built into the graph."""
    try:
        interpreter.resize_tensor_input(details["index"], [1, *(int(n) for n in details["shape_signature"][1:])])
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as e:
        batch = int(details["shape_signature"][0])
        raise ModelError(
            f"{name}: takes a batch of {'any size' if batch < 0 else batch}, and cannot be changed to take one image "
            f"({' '.join(str(e).split())[:200]}). Export it with batch 1."
        ) from None


def _with_batch_1(content: bytes, interpreter: Any, details: dict[str, Any], name: str) -> bytes:
    """The file with the shapes that its tensors have for one image."""
    _set_batch_1(interpreter, details, name)
    model = unpack(content)
    graph = model.subgraphs[0]
    for tensor_details in interpreter.get_tensor_details():
        # tensors with a higher index are temporaries of the interpreter
        if tensor_details["index"] < len(graph.tensors):
            tensor = graph.tensors[tensor_details["index"]]
            if tensor.shape is not None:
                tensor.shape = np.asarray(tensor_details["shape"], np.int32)
            tensor.shapeSignature = None
    return pack(model)


def _dtype(details: dict[str, Any]) -> str:
    return str(np.dtype(details["dtype"]).name)
