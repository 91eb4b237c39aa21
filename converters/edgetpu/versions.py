"""Which version of an op the Edge TPU's compiler accepts.

Compiler 16.0 goes with TensorFlow 2.5 (google-coral/libedgetpu, workspace.bzl). That TensorFlow's
lite/tools/versioning/op_version.cc decides which version an op of 8-bit tensors gets. Compiler 16.0 rejects the whole
file for CONV_2D 6 and QUANTIZE 3 (google-coral/edgetpu, issues 631 and 879).
"""

from __future__ import annotations

from converters.tflite.graph import Node

INT8_TYPES = ("int8", "uint8")

# op: (position of its bias among the inputs, dimension of the weights that holds the output channels)
BIASED_OPS = {"CONV_2D": (2, 0), "DEPTHWISE_CONV_2D": (2, 3), "FULLY_CONNECTED": (2, 0)}

# newer versions than 8-bit tensors need, which the compiler's TensorFlow knows as well
NEWEST_VERSIONS = {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 9, "QUANTIZE": 2}

# version 2 for int8 and 1 for uint8
_VERSION_2_FOR_INT8 = {
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN",
    "MINIMUM", "PACK", "PAD", "REDUCE_MAX", "REDUCE_MIN", "RELU6", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH",
    "SPLIT", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE",
}  # fmt: skip
_VERSION_1 = {"EXPAND_DIMS", "PRELU", "RELU_N1_TO_1", "RESHAPE", "SQUEEZE"}


def needed_version(node: Node) -> int | None:
    """The version that TensorFlow 2.5 gives an op of 8-bit tensors; None for other ops and dtypes.

    A kernel reads the tensors and not the version, so another number changes no result.
    """
    data = next((t for t in node.inputs if t is not None and not t.constant), None)
    if data is None or data.dtype not in INT8_TYPES:
        return None
    signed = data.dtype == "int8"
    match node.name:
        case name if name in _VERSION_1:
            return 1
        case name if name in _VERSION_2_FOR_INT8:
            return 2 if signed else 1
        case "RELU" | "QUANTIZE":
            return 2
        case "CONV_2D":
            return 3 if signed else 1
        case "DEPTHWISE_CONV_2D":
            dilated = node.option("dilationWFactor", 1) != 1 or node.option("dilationHFactor", 1) != 1
            return 3 if signed else 2 if dilated else 1
        case "FULLY_CONNECTED":
            if node.input(2) is None:
                return 6
            return 5 if node.option("keepNumDims", False) else 4 if signed else 1
        case "MUL":
            left, right = (node.input(k) for k in (0, 1))
            scales = [t.scales[0] for t in (left, right, node.outputs[0]) if t is not None and t.scales]
            rescaled = len(scales) == 3 and scales[0] * scales[1] / scales[2] >= 1
            return 3 if rescaled else 2 if signed else 1
        case "RESIZE_BILINEAR" | "RESIZE_NEAREST_NEIGHBOR":
            corners = node.name == "RESIZE_NEAREST_NEIGHBOR" and node.option("alignCorners", False)
            return 3 if node.option("halfPixelCenters", False) or corners else 2 if signed else 1
        case "TRANSPOSE_CONV":
            return 3 if node.input(3) is not None else 2 if signed else 1
    return None
