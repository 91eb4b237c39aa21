"""The part of `from_onnx` that runs in the tool environment, without Sightline and its libraries.

    python onnx_child.py convert MODEL.onnx FOLDER    writes FOLDER/float.tflite
    python onnx_child.py outputs MODEL.onnx FOLDER    reads FOLDER/inputs.npy, writes FOLDER/outputs.npy

If the model cannot be used, the reason goes to FOLDER/error.txt, with exit code 2. Any other failure does too, with 1.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

# without this folder: libraries must not import its modules by name
sys.path = [p for p in sys.path if p != str(Path(__file__).parent)]

import numpy as np
import onnx

QUANTIZED_OPS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


class ModelRefusedError(Exception):
    """The model cannot be used. The text is for the user."""


def main() -> None:
    task, model, folder = sys.argv[1:]
    try:
        {"convert": convert, "outputs": outputs}[task](Path(model), Path(folder))
    except ModelRefusedError as e:
        Path(folder, "error.txt").write_text(str(e), encoding="utf-8")
        sys.exit(2)
    except (Exception, SystemExit) as e:  # onnx2tf exits when it gives up
        traceback.print_exc()
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        failure = "onnx2tf cannot convert it" if task == "convert" else "ONNX Runtime cannot run it"
        Path(folder, "error.txt").write_text(
            f"{failure}: {type(e).__name__}: {' '.join(lines)[:300]}", encoding="utf-8"
        )
        sys.exit(1)


def convert(path: Path, folder: Path) -> None:
    model = read(path)
    input, channels = image_input(model)
    nodes = {node.op_type: node.name or node.output[0] for node in model.graph.node}
    for op in nodes:
        if op in QUANTIZED_OPS or op.startswith("QLinear"):
            raise ModelRefusedError(
                f"is quantized already ({op}, node {nodes[op]!r}). Convert the float model that it was made from."
            )
    set_batch_1(model, input)
    onnx.save(model, folder / "model.onnx")

    import onnx2tf

    onnx2tf.convert(
        input_onnx_file_path=str(folder / "model.onnx"),
        output_folder_path=str(folder / "onnx2tf"),
        keep_shape_absolutely_input_names=[input.name] if channels == 3 else None,
        non_verbose=True,
    )
    content = Path(folder, "onnx2tf", "model_float32.tflite").read_bytes()
    for custom in custom_ops(content):
        # an op that onnx2tf does not know becomes ONNX_NAME, which has no kernel
        known = {f"ONNX_{op.upper()}": f"{op} (node {name!r})" for op, name in nodes.items()}
        raise ModelRefusedError(
            f"onnx2tf has no TFLite for the op {known.get(custom, custom)}. Express it in other ops in the "
            "model, and export it again."
        )
    Path(folder, "float.tflite").write_bytes(content)


def outputs(path: Path, folder: Path) -> None:
    import onnxruntime

    model = read(path)
    input, channels = image_input(model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores = []
    for image in np.load(folder / "inputs.npy"):
        image = image[None] if channels == 3 else image.transpose(2, 0, 1)[None]
        scores.append(np.asarray(session.run(None, {input.name: image})[0], np.float32).reshape(1, -1))
    np.save(folder / "outputs.npy", np.concatenate(scores))


def read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as e:  # protobuf's errors have no common class
        raise ModelRefusedError(f"not an ONNX model: {' '.join(str(e).split())[:200]}") from None
    if not model.graph.node:
        raise ModelRefusedError("not an ONNX model: it holds no graph")
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        fields = {e.key: e.value for e in tensor.external_data}
        if os.path.normpath(fields.get("location", "..")).split("/")[0] in ("", ".."):
            raise ModelRefusedError(
                f"its weights are in {fields.get('location')!r}, which is outside the model's folder"
            )
        file = path.parent / fields["location"]
        if not file.is_file():
            raise ModelRefusedError(
                f"its weights are in {fields['location']!r}, which must be beside it: {file} is missing"
            )
        if file.stat().st_size < int(fields.get("offset", 0)) + int(fields.get("length", 0)):
            raise ModelRefusedError(
                f"its weights are in {file}, which is too short: the file was cut off, or belongs to another model"
            )
    onnx.load_external_data_for_model(model, str(path.parent))
    return model


def image_input(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, int]:
    """The input, and which of its dimensions is the channels: 1 for NCHW, 3 for NHWC."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shown = ", ".join(f"{e.name!r} {describe(e)}" for e in inputs)
    expected = "It must take one RGB image, float32 [1, 3, height, width] or [1, height, width, 3]."
    if len(inputs) != 1:
        raise ModelRefusedError(f"takes {len(inputs)} inputs ({shown}). {expected}")
    dtype, shape = inputs[0].type.tensor_type.elem_type, sizes(inputs[0])
    if dtype != onnx.TensorProto.FLOAT or len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise ModelRefusedError(f"takes {shown}. {expected}")
    channels = 1 if shape[1] == 3 else 3
    if any(not isinstance(n, int) for n in shape[1:]):
        raise ModelRefusedError(f"takes {shown}, a size that is not fixed. Export it for images of one size.")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelRefusedError(
            f"takes {shown}, a batch of {shape[0]}. Export it for one image, or with a dynamic batch."
        )
    return inputs[0], channels


def set_batch_1(model: onnx.ModelProto, input: onnx.ValueInfoProto) -> None:
    """Make a dynamic batch 1, in and out: for a dynamic one onnx2tf would compute the shapes while the model runs."""
    batch = input.type.tensor_type.shape.dim[0]
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
