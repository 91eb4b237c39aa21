"""The part of `from_keras` that runs in a child process: TensorFlow prints, takes memory, and may crash.

    python keras_child.py convert MODEL FOLDER    writes FOLDER/float.tflite
    python keras_child.py outputs MODEL FOLDER    reads FOLDER/inputs.npy, writes FOLDER/outputs.npy

If the model cannot be used, the reason goes to FOLDER/error.txt, with exit code 2. Any other failure does too, with 1.
"""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from typing import Any

# without this folder: libraries must not import its modules by name
sys.path = [p for p in sys.path if p != str(Path(__file__).parent)]

import numpy as np
import tensorflow as tf

EXPECTED = "It must take one RGB image, float32 [batch, height, width, 3]."
SAVED_MODEL = "Save it with `model.export(FOLDER)` where its code is, and convert that SavedModel."
# ops with which a graph reaches files, other machines or Python, while TensorFlow loads it or while it runs
EXTERNAL_OPS = {
    "WriteFile", "ReadFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "Save", "SaveSlices",
    "SaveV2", "MergeV2Checkpoints", "LoadDataset", "SaveDataset", "SaveDatasetV2", "SnapshotDataset",
    "SnapshotDatasetV2", "SnapshotDatasetReader", "DistributedSave", "DatasetToTFRecord",
    "ExperimentalDatasetToTFRecord", "SqlDataset", "TFRecordDataset", "TFRecordDatasetV2", "TextLineDataset",
    "FixedLengthRecordDataset", "CSVDataset", "WholeFileReader", "WholeFileReaderV2", "PrintV2",
    "CreateSummaryFileWriter", "CreateSummaryDbWriter", "Rpc", "TryRpc", "RpcCall", "RpcServer", "RpcClient",
    "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DumpGraph", "WriteRawProtoSummary",
}  # fmt: skip


class ModelRefusedError(Exception):
    """The model cannot be used. The text is for the user."""


def main() -> None:
    task, model, folder = sys.argv[1:]
    try:
        {"convert": convert, "outputs": outputs}[task](Path(model), Path(folder))
    except ModelRefusedError as e:
        Path(folder, "error.txt").write_text(str(e), encoding="utf-8")
        sys.exit(2)
    except Exception as e:  # TensorFlow's errors have no common class
        traceback.print_exc()
        failure = "TensorFlow cannot convert it" if task == "convert" else "TensorFlow cannot run it"
        Path(folder, "error.txt").write_text(f"{failure}: {type(e).__name__}: {first_line(e)}", encoding="utf-8")
        sys.exit(1)


def convert(path: Path, folder: Path) -> None:
    function, _ = read(path)
    try:
        # without the object that owns the weights: with it the weights of a Keras model stay variables
        content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    except Exception as e:
        # 'tf.FFT2D' op is neither a custom op nor a flex op, at "model/layer/FFT2D@..."
        ops = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(e))))
        if not ops:
            raise
        layer = re.search(rf'"([^"@]+)/{ops[0]}@', str(e))
        where = f" (in {layer[1]!r})" if layer else ""
        raise ModelRefusedError(
            f"TFLite has no op for TensorFlow's {', '.join(ops)}{where}. Express it in other ops in the model."
        ) from None
    Path(folder, "float.tflite").write_bytes(content)


def outputs(path: Path, folder: Path) -> None:
    function, _ = read(path)
    scores = [
        np.asarray(function(tf.constant(image[None])), np.float32).reshape(1, -1)
        for image in np.load(folder / "inputs.npy")
    ]
    np.save(folder / "outputs.npy", np.concatenate(scores))


def read(path: Path) -> tuple[Any, Any]:
    """The model as a function of one image, [1, height, width, 3], and the object that owns its weights."""
    call, shape, owner = saved_model(path) if path.is_dir() else keras_model(path)
    function = tf.function(call).get_concrete_function(tf.TensorSpec((1, *shape), tf.float32))
    return function, owner


def saved_model(path: Path) -> tuple[Any, tuple[int, int, int], Any]:
    try:
        check_external_ops(path)
        owner = tf.saved_model.load(str(path))
    except ModelRefusedError:
        raise
    except Exception as e:
        raise ModelRefusedError(f"not a SavedModel that TensorFlow can load: {first_line(e)}") from None
    if "serving_default" not in owner.signatures:
        known = ", ".join(owner.signatures) or "none at all"
        raise ModelRefusedError(f"has no signature 'serving_default' (it has: {known}). Export it with one.")
    signature = owner.signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    shape = image_shape([(name, spec.shape, spec.dtype.name) for name, spec in inputs.items()])
    (name,) = inputs
    outputs = list(signature.structured_outputs)
    if len(outputs) != 1:
        raise ModelRefusedError(
            f"gives {len(outputs)} outputs ({', '.join(outputs)}). It must give one, the scores of the classes."
        )
    return lambda x: signature(**{name: x})[outputs[0]], shape, owner


def check_external_ops(path: Path) -> None:
    """Refuse a SavedModel that reaches files, other machines or Python, when it is loaded or when it runs."""
    from tensorflow.python.saved_model.loader_impl import parse_saved_model

    for graph in parse_saved_model(str(path)).meta_graphs:
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        if graph.HasField("object_graph_def"):
            nodes: list[Any] = []
            names = set(graph.object_graph_def.concrete_functions)
        else:  # a model of TensorFlow 1: the nodes of its signatures, one of which prepares it
            nodes, names = list(required_nodes(graph)), set[str]()
        done = set[str]()
        while nodes or names - done:
            for node in nodes:
                if node.op in EXTERNAL_OPS:
                    raise ModelRefusedError(
                        f"reaches files, other machines or Python with TensorFlow's {node.op} "
                        f"(node {node.name!r}), and is not opened. Export it without that op."
                    )
                names.add(node.op)
                for value in node.attr.values():
                    names |= {value.func.name, *(f.name for f in value.list.func)}
            following = (names - done) & functions.keys()
            done |= names
            nodes = [node for name in following for node in functions[name].node_def]


def required_nodes(graph: Any) -> Any:
    """The nodes that the signatures depend on, and those that run after loading."""
    known = {node.name: node for node in graph.graph_def.node}
    todo = [t.name for s in graph.signature_def.values() for t in s.outputs.values()]
    todo += [name for c in graph.collection_def.values() for name in c.node_list.value]
    visited = set[str]()
    while todo:
        name = todo.pop().lstrip("^").split(":")[0]
        if name in known and name not in visited:
            visited.add(name)
            todo += known[name].input
            yield known[name]


def keras_model(path: Path) -> tuple[Any, tuple[int, int, int], Any]:
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as e:
        text = str(e)
        layer = re.search(r"(?:Could not locate class|Unknown layer:?) '?(\w+)'?", text)
        if layer:
            raise ModelRefusedError(
                f"has a custom layer, {layer[1]!r}, whose code is not in the file. {SAVED_MODEL}"
            ) from None
        if "ambda" in text or "safe_mode" in text or "unsafe" in text.lower():
            raise ModelRefusedError(
                f"has a Lambda layer, which is code inside the file and is not run. Use a layer of Keras instead. "
                f"{SAVED_MODEL}"
            ) from None
        if "No model config found" in text:
            raise ModelRefusedError(
                "holds weights without a model. Save the whole model with `model.save('NAME.keras')`."
            ) from None
        raise ModelRefusedError(f"not a model that Keras {keras.__version__} can load: {first_line(e)}") from None
    try:
        shape = image_shape([(x.name, x.shape, x.dtype) for x in model.inputs])
        outputs = model.outputs
    except (AttributeError, ValueError):
        raise ModelRefusedError(f"has no fixed input (it is of a custom class). {SAVED_MODEL}") from None
    if len(outputs) != 1:
        raise ModelRefusedError(f"gives {len(outputs)} outputs. It must give one, the scores of the classes.")
    return lambda x: model(x, training=False), shape, model


def image_shape(inputs: list[tuple[str, Any, str]]) -> tuple[int, int, int]:
    """(height, width, 3) of the one input."""
    shown = ", ".join(f"{name!r} {dtype} [{', '.join('?' if n is None else str(n) for n in shape)}]"
                      for name, shape, dtype in inputs)  # fmt: skip
    if len(inputs) != 1:
        raise ModelRefusedError(f"takes {len(inputs)} inputs ({shown}). {EXPECTED}")
    _, shape, dtype = inputs[0]
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        raise ModelRefusedError(
            f"takes {shown}, channels first, for which TFLite has no kernels. Build it with channels_last."
        )
    if dtype != "float32" or len(shape) != 4 or shape[3] != 3:
        raise ModelRefusedError(f"takes {shown}. {EXPECTED}")
    if shape[0] not in (None, 1):
        raise ModelRefusedError(f"takes {shown}, a batch of {shape[0]}. Save it without a batch size.")
    if shape[1] is None or shape[2] is None:
        raise ModelRefusedError(f"takes {shown}, a size that is not fixed. Save it for images of one size.")
    return int(shape[1]), int(shape[2]), 3


def first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]


if __name__ == "__main__":
    main()
