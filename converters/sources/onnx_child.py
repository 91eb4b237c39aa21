"""The part of `onnx_source` that runs in the tool environment, where neither Sightline nor its libraries are.

    python onnx_child.py convert MODEL.onnx FOLDER    leaves FOLDER/float.tflite
    python onnx_child.py outputs MODEL.onnx FOLDER    reads FOLDER/inputs.npy, leaves FOLDER/outputs.npy

What the model lacks goes to FOLDER/error.txt, with exit code 2; any other failure too, with 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

# without this folder, whose modules are not the ones that libraries mean
sys.path = [p for p in sys.path if p != str(Path(__file__).parent)]

import numpy as np
import onnx

QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


class Refused(Exception):
    pass


def main() -> None:
    task, model, folder = sys.argv[1:]
    try:
        {"convert": convert, "outputs": outputs}[task](Path(model), Path(folder))
    except Refused as e:
        Path(folder, "error.txt").write_text(str(e), encoding="utf-8")
        sys.exit(2)
    except (Exception, SystemExit) as e:  # onnx2tf exits where it gives up
        traceback.print_exc()
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        doing = "onnx2tf cannot convert it" if task == "convert" else "ONNX Runtime cannot run it"
        Path(folder, "error.txt").write_text(f"{doing}: {type(e).__name__}: {' '.join(lines)[:300]}", encoding="utf-8")
        sys.exit(1)


def convert(path: Path, folder: Path) -> None:
    model = read(path)
    entry, channels = picture(model)
    nodes = {node.op_type: node.name or node.output[0] for node in model.graph.node}
    for op in nodes:
        if op in QUANTIZED or op.startswith("QLinear"):
            raise Refused(f"is quantized already ({op}, node {nodes[op]!r}); convert the float model that it came from")
    one_picture(model, entry)
    onnx.save(model, folder / "model.onnx")

    import onnx2tf

    onnx2tf.convert(
        input_onnx_file_path=str(folder / "model.onnx"),
        output_folder_path=str(folder / "onnx2tf"),
        keep_shape_absolutely_input_names=[entry.name] if channels == 3 else None,
        non_verbose=True,
    )
    content = Path(folder, "onnx2tf", "model_float32.tflite").read_bytes()
    for custom in custom_ops(content):
        # what onnx2tf does not know becomes ONNX_NAME, for which nobody has a kernel
        known = {f"ONNX_{op.upper()}": f"{op} (node {name!r})" for op, name in nodes.items()}
        raise Refused(
            f"onnx2tf has no TFLite for the op {known.get(custom, custom)}; express it in other ops in the model, "
            "and export it again"
        )
    Path(folder, "float.tflite").write_bytes(content)


def outputs(path: Path, folder: Path) -> None:
    import onnxruntime

    model = read(path)
    entry, channels = picture(model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for image in np.load(folder / "inputs.npy"):
        image = image[None] if channels == 3 else image.transpose(2, 0, 1)[None]
        found.append(np.asarray(session.run(None, {entry.name: image})[0], np.float32).reshape(1, -1))
    np.save(folder / "outputs.npy", np.concatenate(found))


def read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as e:  # protobuf's
        raise Refused(f"not an ONNX model: {' '.join(str(e).split())[:200]}") from None
    if not model.graph.node:
        raise Refused("not an ONNX model: it holds no graph")
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {e.key: e.value for e in tensor.external_data}
        if os.path.normpath(where.get("location", "..")).split("/")[0] in ("", ".."):
            raise Refused(f"its weights are in {where.get('location')!r}, which is outside of its folder")
        file = path.parent / where["location"]
        if not file.is_file():
            raise Refused(f"its weights are in {where['location']!r}, which is not beside it: {file} is missing")
        if file.stat().st_size < int(where.get("offset", 0)) + int(where.get("length", 0)):
            raise Refused(f"its weights are in {file}, which is too short: it was cut, or is another model's")
    onnx.load_external_data_for_model(model, str(path.parent))
    return model


def picture(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, int]:
    """The input, and which of its dimensions is the colours: 1 for NCHW, 3 for NHWC."""
    weights = {tensor.name for tensor in model.graph.initializer}
    entries = [entry for entry in model.graph.input if entry.name not in weights]
    shown = ", ".join(f"{e.name!r} {describe(e)}" for e in entries)
    wanted = "one picture in RGB, float32 [1, 3, height, width] or [1, height, width, 3]"
    if len(entries) != 1:
        raise Refused(f"takes {len(entries)} inputs ({shown}); needed is {wanted}")
    kind, shape = entries[0].type.tensor_type.elem_type, sizes(entries[0])
    if kind != onnx.TensorProto.FLOAT or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise Refused(f"takes {shown}; needed is {wanted}")
    channels = 1 if shape[1] == 3 else 3
    if any(not isinstance(n, int) for n in shape[1:]):
        raise Refused(f"takes {shown}, a size that is not fixed; export it for pictures of one size")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise Refused(f"takes {shown}, {shape[0]} pictures at once; export it for one, or with a dynamic batch")
    return entries[0], channels


def one_picture(model: onnx.ModelProto, entry: onnx.ValueInfoProto) -> None:
    """Make a dynamic batch 1, in and out: onnx2tf would compute the shapes of a dynamic one while it runs."""
    batch = entry.type.tensor_type.shape.dim[0]
    symbol = batch.dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_value = 1
    batch.dim_value = 1


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?" for d in dims]


def describe(value: onnx.ValueInfoProto) -> str:
    kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return f"{'float32' if kind == 'float' else kind} [{', '.join(str(n) for n in sizes(value))}]"


def custom_ops(content: bytes) -> list[str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(i).CustomCode() for i in range(model.OperatorCodesLength()))
    return [code.decode() for code in codes if code]


if __name__ == "__main__":
    main()
