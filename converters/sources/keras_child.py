"""The part of `keras_source` that runs in a process of its own: TensorFlow prints, takes memory, and may crash.

    python keras_child.py convert MODEL FOLDER    leaves FOLDER/float.tflite
    python keras_child.py outputs MODEL FOLDER    reads FOLDER/inputs.npy, leaves FOLDER/outputs.npy

What the model lacks goes to FOLDER/error.txt, with exit code 2; any other failure too, with 1.
"""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from typing import Any

# without this folder, whose modules are not the ones that libraries mean
sys.path = [p for p in sys.path if p != str(Path(__file__).parent)]

import numpy as np
import tensorflow as tf

WANTED = "one picture in RGB, float32 [batch, height, width, 3]"
SAVED_MODEL = "save it with `model.export(FOLDER)` where its code is, and convert that SavedModel"
# ops by which a graph reaches files, other machines or Python: while TensorFlow loads it, or while it runs
REACHING = {
    "WriteFile", "ReadFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "Save", "SaveSlices",
    "SaveV2", "MergeV2Checkpoints", "LoadDataset", "SaveDataset", "SaveDatasetV2", "SnapshotDataset",
    "SnapshotDatasetV2", "SnapshotDatasetReader", "DistributedSave", "DatasetToTFRecord",
    "ExperimentalDatasetToTFRecord", "SqlDataset", "TFRecordDataset", "TFRecordDatasetV2", "TextLineDataset",
    "FixedLengthRecordDataset", "CSVDataset", "WholeFileReader", "WholeFileReaderV2", "PrintV2",
    "CreateSummaryFileWriter", "CreateSummaryDbWriter", "Rpc", "TryRpc", "RpcCall", "RpcServer", "RpcClient",
    "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "DebugNanCount", "DumpGraph", "WriteRawProtoSummary",
}  # fmt: skip


class Refused(Exception):
    pass


def main() -> None:
    task, model, folder = sys.argv[1:]
    try:
        {"convert": convert, "outputs": outputs}[task](Path(model), Path(folder))
    except Refused as e:
        Path(folder, "error.txt").write_text(str(e), encoding="utf-8")
        sys.exit(2)
    except Exception as e:  # TensorFlow's have no common class
        traceback.print_exc()
        doing = "TensorFlow cannot convert it" if task == "convert" else "TensorFlow cannot run it"
        Path(folder, "error.txt").write_text(f"{doing}: {type(e).__name__}: {first_line(e)}", encoding="utf-8")
        sys.exit(1)


def convert(path: Path, folder: Path) -> None:
    function, _ = read(path)
    try:
        # without the object that the weights belong to: with it those of a Keras model stay variables
        content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    except Exception as e:
        # 'tf.FFT2D' op is neither a custom op nor a flex op, at "model/layer/FFT2D@..."
        ops = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", str(e))))
        if not ops:
            raise
        found = re.search(rf'"([^"@]+)/{ops[0]}@', str(e))
        where = f" (in {found[1]!r})" if found else ""
        raise Refused(
            f"TFLite has no op for TensorFlow's {', '.join(ops)}{where}; express it in other ops in the model"
        ) from None
    Path(folder, "float.tflite").write_bytes(content)


def outputs(path: Path, folder: Path) -> None:
    function, _ = read(path)
    found = [
        np.asarray(function(tf.constant(picture[None])), np.float32).reshape(1, -1)
        for picture in np.load(folder / "inputs.npy")
    ]
    np.save(folder / "outputs.npy", np.concatenate(found))


def read(path: Path) -> tuple[Any, Any]:
    """The model as a function of one picture, [1, height, width, 3], and the object that keeps its weights alive."""
    call, shape, owner = saved_model(path) if path.is_dir() else keras_model(path)
    function = tf.function(call).get_concrete_function(tf.TensorSpec((1, *shape), tf.float32))
    return function, owner


def saved_model(path: Path) -> tuple[Any, tuple[int, int, int], Any]:
    try:
        check_reach(path)
        owner = tf.saved_model.load(str(path))
    except Refused:
        raise
    except Exception as e:
        raise Refused(f"not a SavedModel that TensorFlow can load: {first_line(e)}") from None
    if "serving_default" not in owner.signatures:
        known = ", ".join(owner.signatures) or "none at all"
        raise Refused(f"has no signature 'serving_default' (it has: {known}); export it with one")
    signature = owner.signatures["serving_default"]
    entries = signature.structured_input_signature[1]
    shape = picture([(name, spec.shape, spec.dtype.name) for name, spec in entries.items()])
    (name,) = entries
    given = list(signature.structured_outputs)
    if len(given) != 1:
        raise Refused(f"gives {len(given)} outputs ({', '.join(given)}); needed is one, the scores of the classes")
    return lambda x: signature(**{name: x})[given[0]], shape, owner


def check_reach(path: Path) -> None:
    """Refuse a SavedModel that would reach files, other machines or Python, when it is loaded or when it runs."""
    from tensorflow.python.saved_model.loader_impl import parse_saved_model

    for graph in parse_saved_model(str(path)).meta_graphs:
        functions = {f.signature.name: f for f in graph.graph_def.library.function}
        if graph.HasField("object_graph_def"):
            nodes: list[Any] = []
            names = set(graph.object_graph_def.concrete_functions)
        else:  # of TensorFlow 1: what its signatures compute, one of which prepares it
            nodes, names = list(needed(graph)), set[str]()
        done = set[str]()
        while nodes or names - done:
            for node in nodes:
                if node.op in REACHING:
                    raise Refused(
                        f"reaches out of itself with TensorFlow's {node.op} (node {node.name!r}), and is not opened; "
                        "export it without that"
                    )
                names.add(node.op)
                for value in node.attr.values():
                    names |= {value.func.name, *(f.name for f in value.list.func)}
            following = (names - done) & functions.keys()
            done |= names
            nodes = [node for name in following for node in functions[name].node_def]


def needed(graph: Any) -> Any:
    """The nodes that any signature, or what is run after loading, depends on."""
    known = {node.name: node for node in graph.graph_def.node}
    todo = [t.name for s in graph.signature_def.values() for t in s.outputs.values()]
    todo += [name for c in graph.collection_def.values() for name in c.node_list.value]
    seen = set[str]()
    while todo:
        name = todo.pop().lstrip("^").split(":")[0]
        if name in known and name not in seen:
            seen.add(name)
            todo += known[name].input
            yield known[name]


def keras_model(path: Path) -> tuple[Any, tuple[int, int, int], Any]:
    import keras

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as e:
        said = str(e)
        layer = re.search(r"(?:Could not locate class|Unknown layer:?) '?(\w+)'?", said)
        if layer:
            raise Refused(
                f"has a layer of your own, {layer[1]!r}, whose code is not in the file; {SAVED_MODEL}"
            ) from None
        if "ambda" in said or "safe_mode" in said or "unsafe" in said.lower():
            raise Refused(
                f"has a Lambda layer, which is code inside the file, and is not run; use a layer of Keras, "
                f"or {SAVED_MODEL}"
            ) from None
        if "No model config found" in said:
            raise Refused("holds weights alone; save the whole model with `model.save('NAME.keras')`") from None
        raise Refused(f"not a model that Keras {keras.__version__} can load: {first_line(e)}") from None
    try:
        shape = picture([(x.name, x.shape, x.dtype) for x in model.inputs])
        given = model.outputs
    except (AttributeError, ValueError):
        raise Refused(f"has no fixed input (it is of a class of your own); {SAVED_MODEL}") from None
    if len(given) != 1:
        raise Refused(f"gives {len(given)} outputs; needed is one, the scores of the classes")
    return lambda x: model(x, training=False), shape, model


def picture(entries: list[tuple[str, Any, str]]) -> tuple[int, int, int]:
    """(height, width, 3) of the one input."""
    shown = ", ".join(f"{name!r} {dtype} [{', '.join('?' if n is None else str(n) for n in shape)}]"
                      for name, shape, dtype in entries)  # fmt: skip
    if len(entries) != 1:
        raise Refused(f"takes {len(entries)} inputs ({shown}); needed is {WANTED}")
    _, shape, dtype = entries[0]
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        raise Refused(f"takes {shown}, colours first, for which TFLite has no kernels; build it with channels_last")
    if dtype != "float32" or len(shape) != 4 or shape[3] != 3:
        raise Refused(f"takes {shown}; needed is {WANTED}")
    if shape[0] not in (None, 1):
        raise Refused(f"takes {shown}, {shape[0]} pictures at once; save it without a batch size")
    if shape[1] is None or shape[2] is None:
        raise Refused(f"takes {shown}, a size that is not fixed; save it for pictures of one size")
    return int(shape[1]), int(shape[2]), 3


def first_line(error: Exception) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:300]


if __name__ == "__main__":
    main()
