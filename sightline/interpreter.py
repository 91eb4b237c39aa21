"""The TFLite interpreter: the converter that measures and the agent that runs use the same one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ConfigError, InterpreterError, ModelError
from sightline.preprocess import Frame, InputSpec
from sightline.runtime import Runtime, find_runtime

Delegate = Literal["xnnpack", "none", "edgetpu"]
_IS_32_BIT = sys.maxsize < 2**32
_EDGETPU_LIBRARY = "libedgetpu.so.1"
_EDGETPU_OP = b"edgetpu-custom-op"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a model: real value = scale * (stored - zero_point).

    index: of the tensor in the interpreter.
    name, shape, dtype: of the tensor.
    scale: 0 = not quantized.
    zero_point: stored value of the real value 0.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    def real(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """The real values of stored ones, float32."""
        values = stored.astype(np.float32, copy=False)
        return (values - self.zero_point) * np.float32(self.scale) if self.scale else values


class Interpreter:
    """One model, loaded from the bytes that were verified. Only one thread may use it at a time.

    The model takes one image, [1, height, width, 3], or [1, 3, height, width] as some converters leave it: int8, uint8
    or float32, with the values that its InputSpec states.

    input, outputs: its tensors.
    quantizer: makes the input tensor from an image; another thread may use it, see `InputQuantizer`.
    """

    def __init__(
        self,
        content: bytes,
        spec: InputSpec | None = None,
        *,
        threads: int = 1,
        delegate: Delegate = "xnnpack",
        name: str = "model",
    ):
        """content: of the .tflite.
        spec: of the input; None = raw bytes, of any size.
        threads: of the CPU kernels.
        delegate: what executes the graph.
        name: of the file, for errors.

        Raises ModelError if the model does not load or is not of this kind. Raises ConfigError if it is not compiled
        for the delegate, and InterpreterError (exit code 3) if the delegate is missing.
        """
        runtime = find_runtime()

        compiled = is_compiled(content)
        options: dict[str, Any] = {"model_content": content, "num_threads": threads}
        if delegate == "edgetpu":
            if not compiled:
                raise ConfigError(
                    f"{name}: is not compiled for the Edge TPU, so this device's delegate cannot run it. Compile it "
                    "with edgetpu_compiler, or run it on the CPU with --device desktop."
                )
            options["experimental_delegates"] = [_load_edgetpu(runtime)]
        elif compiled:
            raise ConfigError(
                f"{name}: is compiled for the Edge TPU. Run it with a --device whose delegate is edgetpu."
            )
        elif delegate == "none":
            resolver = runtime.more.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            options["experimental_op_resolver_type"] = resolver
        errors: list[str] = []
        try:
            with capture_stderr(errors):
                self._lite = runtime.lite.Interpreter(**options)
                self._lite.allocate_tensors()
            if _IS_32_BIT:
                _check_fully_connected(self._lite, name)
            inputs = [_tensor(d) for d in self._lite.get_input_details()]
            self.outputs = [_tensor(d) for d in self._lite.get_output_details()]
        except (ValueError, RuntimeError) as e:  # a name that is not UTF-8 is a ValueError too
            reason = " ".join([*str(e).split(), *errors])
            raise ModelError(f"{name}: LiteRT cannot load it: {reason}") from None
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[0] != 1 or 3 not in inputs[0].shape[1::2]:
            shapes = ", ".join(f"{t.name} {list(t.shape)}" for t in inputs)
            raise ModelError(f"{name}: must have one input [1, height, width, 3], but has: {shapes}")
        self.input = inputs[0]
        if spec is not None and self.size != (spec.width, spec.height):
            raise ModelError(f"{name}: its input is {list(self.input.shape)}, but should be {spec.width}x{spec.height}")
        self.quantizer = InputQuantizer(self.input, spec or InputSpec(1, 1), name)
        self._input_tensor = self.quantizer.empty()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the image that the model takes."""
        return _size(self.input)

    @property
    def table(self) -> NDArray[Any]:
        """[3, 256]: the stored value of each byte of each channel, in the input's own dtype."""
        return self.quantizer.table

    def __call__(self, image: Frame) -> list[NDArray[np.float32]]:
        """image: uint8 [height, width, 3], RGB. Returns each output as float32 in its own shape, dequantized."""
        self.fill(image)
        self.invoke()
        return self.results()

    def fill(self, image: Frame) -> None:
        """Write the image into the model's input tensor."""
        self.quantizer(image, self._input_tensor)
        self.feed(self._input_tensor)

    def feed(self, input_tensor: NDArray[Any]) -> None:
        """Copy what `quantizer` has made of an image into the model's input tensor."""
        self._lite.set_tensor(self.input.index, input_tensor)

    def invoke(self) -> None:
        """Run the model. Raises InterpreterError."""
        try:
            self._lite.invoke()
        except (ValueError, RuntimeError) as e:
            raise InterpreterError(f"inference failed: {' '.join(str(e).split())}") from None

    def results(self) -> list[NDArray[np.float32]]:
        """Each output of the last `invoke` as float32, dequantized."""
        return dequantize(self.outputs, self.raw())

    def raw(self) -> list[NDArray[Any]]:
        """Copies of the outputs of the last `invoke`, as the model stores them."""
        return [self._lite.get_tensor(t.index) for t in self.outputs]


def dequantize(tensors: Sequence[TensorInfo], outputs: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
    """What `Interpreter.raw` returned, as float32."""
    return [t.real(raw) for t, raw in zip(tensors, outputs, strict=True)]


class InputQuantizer:
    """Converts RGB bytes to the stored values of the model's input tensor.

    It has no reference to the interpreter and does not change after `__init__`, so the capture thread can use it while
    another thread runs the model.

    spec, tensor: of the input.
    table: [3, 256], the stored value of each byte of each channel, in the input's own dtype.
    """

    def __init__(self, tensor: TensorInfo, spec: InputSpec, name: str) -> None:
        """name: of the model, for errors. Raises ModelError for a dtype that images cannot have."""
        self.spec, self.tensor = spec, tensor
        self.table = _byte_table(tensor, spec, name)
        byte = np.arange(256, dtype=np.uint8)
        uniform = bool((self.table == self.table[0]).all())
        self._planes = _is_nchw(tensor)
        self._plain = uniform and np.array_equal(self.table[0], byte)  # float32 or uint8, unchanged
        # int8 of scale 1 and zero point -128: `byte - 128` is one flipped bit, 7x faster than a table
        self._flip = uniform and np.array_equal(self.table[0], (byte ^ 0x80).view(np.int8))

    def empty(self) -> NDArray[Any]:
        """A buffer for the input tensor, in its shape."""
        return np.empty(self.tensor.shape, self.tensor.dtype)

    def __call__(self, image: Frame, out: NDArray[Any]) -> None:
        """Write the stored values of `image` into `out`.

        image: uint8 [height, width, 3], RGB.
        out: made by `empty`.
        """
        width, height = _size(self.tensor)
        if image.shape != (height, width, 3):
            raise ValueError(f"the model takes images of {[height, width, 3]}, not {list(image.shape)}")
        if self._planes:
            for channel, table in enumerate(self.table):
                np.take(table, image[:, :, channel], out=out[0, channel], mode="clip")
        elif self._flip:
            np.bitwise_xor(image, 0x80, out=out[0].view(np.uint8))
        elif self._plain:
            out[0] = image
        else:
            for channel, table in enumerate(self.table):
                np.take(table, image[:, :, channel], out=out[0, :, :, channel], mode="clip")


def _is_nchw(tensor: TensorInfo) -> bool:
    return tensor.shape[3] != 3


def _size(tensor: TensorInfo) -> tuple[int, int]:
    height, width = tensor.shape[2:] if _is_nchw(tensor) else tensor.shape[1:3]
    return width, height


def is_compiled(content: bytes) -> bool:
    """Whether the model is compiled for the Edge TPU. Then nothing else runs it."""
    return _EDGETPU_OP in content


@contextmanager
def capture_stderr(errors: list[str]) -> Iterator[None]:
    """Keep LiteRT's lines off the process's stderr, and append its error messages to `errors`.

    LiteRT writes a greeting and the real reason of a failure there. Lines of other threads appear a little later.
    """
    # in memory: a device whose disk is read-only or full can load its model too
    with open(os.memfd_create("stderr"), "w+b") if hasattr(os, "memfd_create") else _temporary() as file:  # noqa: PTH123
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            for line in file.read().splitlines(keepends=True):
                text = line.decode(errors="replace").rstrip("\n")
                if text.startswith("ERROR: "):
                    errors.append(text.removeprefix("ERROR: "))
                elif not text.startswith(("INFO:", "W0000")):  # of another thread
                    with suppress(OSError):
                        os.write(2, line)


def _temporary() -> IO[bytes]:
    import tempfile  # only Linux has memfd

    return tempfile.TemporaryFile()


def _check_fully_connected(lite: Any, name: str) -> None:
    """Raise ModelError for a model that crashes tflite-runtime 2.14, the last one for 32-bit ARM."""
    tensors = {t["index"]: t for t in lite.get_tensor_details()}
    for op in lite._get_ops_details():
        weights = tensors.get(op["inputs"][1]) if op["op_name"] == "FULLY_CONNECTED" else None
        if weights is not None and len(weights["quantization_parameters"]["scales"]) > 1:
            raise ModelError(
                f"{name}: a fully-connected layer has a scale per channel, which crashes tflite-runtime on 32-bit "
                "systems. Convert with --device raspberry_pi_32bit, or install a 64-bit system."
            )


def _load_edgetpu(runtime: Runtime) -> Any:
    try:
        return runtime.more.load_delegate(_EDGETPU_LIBRARY)
    except OSError:
        raise InterpreterError(
            f"{_EDGETPU_LIBRARY} is not installed. Install libedgetpu1-std from Coral's Debian repository."
        ) from None
    except ValueError:
        raise InterpreterError(
            "no Edge TPU answers. Is it plugged in, and is this user in the group plugdev?"
        ) from None


def _tensor(details: dict[str, Any]) -> TensorInfo:
    scale, zero_point = details["quantization"]
    shape = tuple(int(n) for n in details["shape"])
    return TensorInfo(details["index"], details["name"], shape, np.dtype(details["dtype"]).name, scale, zero_point)


def _byte_table(tensor: TensorInfo, spec: InputSpec, name: str) -> NDArray[Any]:
    """[3, 256]: the stored value of each byte of each channel, in the input's own dtype."""
    if tensor.dtype == "float32":
        return spec.values
    if tensor.dtype == "uint8" and not tensor.scale:  # no quantization stated: raw bytes
        return spec.values.round().clip(0, 255).astype(np.uint8)
    if tensor.dtype not in ("int8", "uint8") or not tensor.scale:
        raise ModelError(f"{name}: an input of {tensor.dtype} is not supported. Supported are int8, uint8 and float32.")
    limits = np.iinfo(tensor.dtype)
    # -1..1 falls on halves. Rounding to the nearest even number would make pairs of bytes equal, so all are rounded the
    # same way: down with zero point 0, up with -1. ai-edge-quantizer uses either.
    steps = spec.values / tensor.scale + tensor.zero_point
    stored = np.ceil(steps - 0.501)
    if stored.min() < limits.min:
        stored = np.floor(steps + 0.501)
    table: NDArray[Any] = np.clip(stored, limits.min, limits.max).astype(tensor.dtype)
    return table
