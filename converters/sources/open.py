"""Open a run folder, or a foreign model with images to measure it with. The result is always a `Source`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from converters.log_capture import Log, silent
from converters.sources.base import ModelOptions, Reader, Source
from converters.sources.frames import calibration_frames, list_images, read_frames, spread
from converters.sources.options import parse_normalization, read_labels
from converters.tflite.ops import list_ops
from sightline.data.classification import ClassificationDataset, read_class_folders
from sightline.data.dataset import balanced
from sightline.data.dataset import read_frames as read_class_frames
from sightline.errors import ConfigError, DataError, InputError, ModelError
from sightline.files import sha256
from sightline.interpreter import Interpreter
from sightline.output_spec import OutputSpec
from sightline.preprocess import Frame, InputSpec
from sightline.run_folder import CALIBRATION_FRAMES, GOLDEN_FRAMES

if TYPE_CHECKING:
    from torch import nn

_FORMATS = "Supported are run folders, .pt2, .onnx, .keras, .h5, .tflite, and TensorFlow SavedModel folders."
_HELD_OUT_STEP = 5  # of unlabelled images every fifth is held out, and the others calibrate


def open_source(model: Path | str | nn.Module, options: ModelOptions, log: Log = silent) -> Source:
    """Open a model and convert it to a float32 TFLite.

    model: a run folder, a .pt2, .onnx, .keras, .h5, SavedModel or float .tflite; or a PyTorch module that takes float32
        [1, 3, height, width], with `options.size`.
    options: a foreign model needs images: class folders (`data`), or unlabelled ones (`calibration`) with `labels`.
    Raises InputError.
    """
    if not isinstance(model, (str, Path)):
        return _open_module(model, options, log)
    if options.size is not None:
        raise ConfigError(f"{model}: a file states the size that it takes. Leave size out.")
    path = Path(model)
    if (path / "model.json").is_file() or (path.is_dir() and not (path / "saved_model.pb").is_file()):
        from converters.sources.from_run import open_run  # PyTorch is needed for runs only

        return open_run(path, options, log)
    return _open_model(path, _reader(path), options, log)


def _reader(path: Path) -> Reader:
    """The reader of a model's format. It is imported only now: each brings a library of its own."""
    if not path.exists():
        raise ModelError(f"{path}: no such run folder or model. `sightline train` makes a run.")
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        from converters.sources import from_torch

        return from_torch
    if suffix == ".tflite":
        from converters.sources import from_tflite

        return from_tflite
    if suffix == ".onnx":
        from converters.sources import from_onnx

        return from_onnx
    if suffix in (".keras", ".h5", ".hdf5") or path.is_dir():
        from converters.sources import from_keras

        return from_keras
    weights = " (weights without their code; load them into the module and save it with torch.export.save as .pt2)"
    hint = weights if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors") else ""
    raise ModelError(f"{path}: not a supported model format{hint}. {_FORMATS}")


def _open_module(module: nn.Module, options: ModelOptions, log: Log) -> Source:
    from converters.sources import from_torch

    name = type(module).__name__
    if not from_torch.is_module(module):
        raise ConfigError(f"a {name} cannot be converted. Pass a path or a torch.nn.Module.")
    if options.size is None:
        raise ConfigError(f"{name}: a module does not state its image size. Pass size=(width, height).")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pt2"
        from_torch.save_module(module, path, height=options.size[1], width=options.size[0])
        try:
            return _open_model(path, from_torch, options, log)
        except InputError as e:
            raise type(e)(str(e).replace(str(path), name)) from e


def _open_model(path: Path, reader: Reader, options: ModelOptions, log: Log) -> Source:
    if options.data is None and (options.calibration is None or options.labels is None):
        raise DataError(
            f"{path}: Cannot measure accuracy without images. "
            "Pass --data DIR (labelled), or --calibration DIR and --labels FILE."
        )
    mean, std = parse_normalization(path, options.normalization)
    dataset = read_class_folders(options.data) if options.data else None
    labels = read_labels(options.labels) if options.labels else dataset.labels if dataset else ()
    log(f"{path}: {len(labels)} classes; converting")
    try:
        float_model = reader.to_tflite(path, log)
        interpreter = Interpreter(float_model, name=str(path))
        _check_outputs(path, interpreter, labels, options)
    except ModelError as e:
        if path.suffix.lower() != ".tflite" or "not a .tflite" in str(e):
            raise
        raise ModelError(f"{e} Or keep the file unchanged with --scheme passthrough.") from None
    width, height = interpreter.size
    spec = InputSpec(width, height, options.resize or "letterbox", mean=mean, std=std)
    images = _labelled(dataset, labels, options, spec) if dataset else _unlabelled(options, spec)
    digest = _digest(path)
    return Source(
        name=path.stem,
        version=digest[:8],
        origin=reader.TITLE,
        float_model=float_model,
        input=spec,
        output=OutputSpec("classify", _activation(float_model), labels),
        calibration=images.calibration,
        golden=images.golden,
        expected=reader.outputs(path, spec.normalize(images.golden)),
        heldout=images.heldout,
        provenance={"source": {"file": path.name, "sha256": digest}, "dataset": images.provenance},
        shapes=((len(labels),),),
    )


@dataclass(frozen=True)
class _Images:
    """See `Source`. provenance: of the data set."""

    calibration: Frame
    golden: Frame
    heldout: list[tuple[Path, Any]]
    provenance: dict[str, Any]


def _labelled(data: ClassificationDataset, labels: tuple[str, ...], options: ModelOptions, spec: InputSpec) -> _Images:
    """The training part calibrates, the held-out part is the test set."""
    unknown = [label for label in data.labels if label not in labels]
    if unknown:
        raise DataError(
            f"{options.data}: {options.labels} has no label {unknown[0]!r}. Give the folders the names of the labels."
        )
    index = [labels.index(label) for label in data.labels]
    if options.calibration:
        calibration = calibration_frames(options.calibration, spec)
    else:
        calibration = read_class_frames(data.root, balanced(data.train, CALIBRATION_FRAMES, 0), spec)
    return _Images(
        calibration,
        golden=read_class_frames(data.root, balanced(data.val, GOLDEN_FRAMES, 0), spec),
        heldout=[(data.root / p.path, index[p.label]) for p in data.val],
        provenance={"name": data.root.resolve().name, "fingerprint": data.fingerprint},
    )


def _unlabelled(options: ModelOptions, spec: InputSpec) -> _Images:
    assert options.calibration is not None
    paths = list_images(options.calibration)
    heldout = paths[::_HELD_OUT_STEP]
    return _Images(
        calibration=read_frames(spread(sorted(set(paths) - set(heldout)), CALIBRATION_FRAMES), spec),
        golden=read_frames(spread(heldout, GOLDEN_FRAMES), spec),
        heldout=[(p, None) for p in heldout],
        provenance={"name": options.calibration.resolve().name, "images": len(paths)},
    )


def _check_outputs(path: Path, interpreter: Interpreter, labels: tuple[str, ...], options: ModelOptions) -> None:
    sizes = [int(np.prod(t.shape)) for t in interpreter.outputs]
    if len(sizes) != 1:
        shapes = ", ".join(str(list(t.shape)) for t in interpreter.outputs)
        raise ModelError(f"{path}: gives {len(sizes)} outputs ({shapes}). It must give one, the scores of the classes.")
    if sizes[0] != len(labels):
        where = options.labels or options.data
        hint = (
            " Is one of the scores for a background class that the labels lack?" if sizes[0] == len(labels) + 1 else ""
        )
        names = ", ".join(labels[:10])
        raise ModelError(f"{path}: gives {sizes[0]} scores, but {where} has {len(labels)} classes: {names}.{hint}")


def _activation(content: bytes) -> Literal["none", "softmax"]:
    """A graph that ends in probabilities needs no softmax after it."""
    last = [op.name for op in list_ops(content)][-1:]
    return "none" if last in (["SOFTMAX"], ["LOGISTIC"]) else "softmax"


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents."""
    if path.is_file():
        return sha256(path.read_bytes())
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return sha256("".join(f"{p.relative_to(path)} {sha256(p.read_bytes())}\n" for p in files).encode())
