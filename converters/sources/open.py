"""What is to be converted: a run folder, or anybody's model with pictures to judge it by. All end as a `Source`."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from converters.sources.base import NORMALIZATIONS, ModelOptions, Reader, Say, Source, silent
from converters.tflite.graph import ops
from sightline.data.classification import balanced, read_class_folders, read_frames
from sightline.detection_postprocess import check_shapes
from sightline.documents import is_file, read_text
from sightline.errors import ConfigError, DataError, InputError, ModelError
from sightline.files import sha256
from sightline.images import SUFFIXES, read_image
from sightline.interpreter import Interpreter
from sightline.npz import unpack
from sightline.output_spec import OutputSpec
from sightline.preprocess import Frame, InputSpec, Preprocessor
from sightline.run_folder import CALIBRATION_FRAMES, GOLDEN_FRAMES, read_run

if TYPE_CHECKING:
    from torch import nn


def open_source(
    model: Path | str | nn.Module, given: ModelOptions, say: Say = silent, *, size: tuple[int, int] | None = None
) -> Source:
    """Open a run folder, a .pt2, .onnx, .keras, .h5, SavedModel or float .tflite, and make it a float32 TFLite; or a
    PyTorch module that takes float32 [1, 3, height, width], whose `size` is (width, height).

    Anybody's model needs pictures: class folders (`data`), or unlabelled ones (`calibration`) with `labels`.
    """
    if not isinstance(model, (str, Path)):
        return _from_module(model, given, say, size)
    if size is not None:
        raise ConfigError(f"{model}: a file says what size it takes; leave size out")
    path = Path(model)
    if (path / "model.json").is_file() or (path.is_dir() and not (path / "saved_model.pb").is_file()):
        return _from_run(path, given, say)
    return _from_model(path, _reader(path), given, say)


def _reader(path: Path) -> Reader:
    """The reader of a model's format, which is imported only now: each brings a library of its own."""
    if not path.exists():
        raise ModelError(f"{path}: no such run folder or model; `sightline train` makes a run")
    suffix = path.suffix.lower()
    if suffix == ".pt2":
        from converters.sources import from_torch as torch_source

        return torch_source
    if suffix == ".tflite":
        from converters.sources import from_tflite as tflite_source

        return tflite_source
    if suffix == ".onnx":
        from converters.sources import from_onnx as onnx_source

        return onnx_source
    if suffix in (".keras", ".h5", ".hdf5") or path.is_dir():
        from converters.sources import from_keras as keras_source

        return keras_source
    raise ModelError(f"{path}: is no model that can be read{_instead(path)}; {_FORMATS}")


_FORMATS = "those are run folders, .pt2, .onnx, .keras, .h5, .tflite, and TensorFlow SavedModel folders"


def _instead(path: Path) -> str:
    """What to do with a file that holds weights and no graph."""
    if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
        return " (weights without their code; load them into the module and save it with torch.export.save as .pt2)"
    return ""


def _from_run(path: Path, given: ModelOptions, say: Say) -> Source:
    for option in ("labels", "normalization", "resize"):
        if getattr(given, option):
            raise ConfigError(f"{path}: a run knows its {option}; leave --{option} out")
    from converters.sources import from_torch as torch_source

    run = read_run(path)
    manifest = run.manifest
    program = torch_source.open_program(run.read("model.pt2"), f"{path / 'model.pt2'}")
    names = [f"output_{i}" for i in range(len(manifest.output.heads) * len(manifest.output.strides) or 1)]
    golden = unpack(run.read("golden.npz"), str(path / "golden.npz"), "frames", *names)
    calibration = unpack(run.read("calibration.npz"), str(path / "calibration.npz"), "frames")
    spec, classes = manifest.input, len(manifest.output.labels)
    size, outputs = torch_source.input_size(program, str(path / "model.pt2")), [golden[name] for name in names]
    if size != (spec.width, spec.height):
        raise ModelError(f"{path}: model.json says {spec.width}x{spec.height}, but model.pt2 takes {size[0]}x{size[1]}")
    count, scores = len(golden["frames"]), outputs[0].shape
    if any(len(o) != count for o in outputs) or scores[-1] != classes:
        raise ModelError(f"{path}: model.json names {classes} labels, but the golden outputs are {list(scores)}")
    if manifest.output.task == "detect":
        try:
            check_shapes([(1, *o.shape[1:]) for o in outputs], manifest.output, *size)
        except ValueError as e:
            raise ModelError(f"{path}: golden {e}, by its model.json") from None
    for name, frames in (("golden.npz", golden["frames"]), ("calibration.npz", calibration["frames"])):
        _check_frames(frames, spec, f"{path / name}")
    root, files = run.heldout()
    root = given.data or root
    missing = sum(not (root / file).is_file() for file, _ in files)
    if missing:
        raise DataError(
            f"{root}: {missing} of the {len(files)} held-out pictures of {path} are not there; "
            "say where the data set is now with --data DIR"
        )
    frames = calibration["frames"] if given.calibration is None else calibration_frames(given.calibration, spec)
    say(f"{path}: {classes} classes, {len(files)} held-out pictures; converting")
    return Source(
        name=manifest.name,
        version=manifest.version,
        origin="PyTorch",
        float_model=torch_source.convert_program(program, str(path)),
        input=spec,
        output=manifest.output,
        calibration=frames,
        golden=golden["frames"],
        expected=np.concatenate([o.reshape(count, -1) for o in outputs], axis=1),
        heldout=[(root / file, label) for file, label in files],
        provenance={**manifest.provenance, "metrics": manifest.metrics},
        shapes=tuple(o.shape[1:] for o in outputs),
    )


def _from_module(module: nn.Module, given: ModelOptions, say: Say, size: tuple[int, int] | None) -> Source:
    from converters.sources import from_torch as torch_source

    name = type(module).__name__
    if not isinstance(module, torch_source.nn.Module):
        raise ConfigError(f"a {name} cannot be converted: needed is a path, or a torch.nn.Module")
    if size is None:
        raise ConfigError(f"{name}: a module does not say what size of picture it takes; give size=(width, height)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pt2"
        torch_source.save_module(module, path, height=size[1], width=size[0])
        try:
            return _from_model(path, torch_source, given, say)
        except InputError as e:
            raise type(e)(str(e).replace(str(path), name)) from e


def _from_model(path: Path, reader: Reader, given: ModelOptions, say: Say) -> Source:
    if given.data is None and (given.calibration is None or given.labels is None):
        raise DataError(
            f"{path}: a model alone cannot be judged; give labelled pictures with --data DIR, one subfolder per class, "
            "or, when there are none, pictures with --calibration DIR and the outputs' names with --labels FILE"
        )
    normalization = parse_normalization(path, given.normalization)
    labels = read_labels(given.labels) if given.labels else None
    pictures = read_class_folders(given.data) if given.data else None
    labels = labels or pictures.labels  # type: ignore[union-attr]  # one of the two is there
    say(f"{path}: {len(labels)} classes; converting")
    try:
        float_model = reader.to_tflite(path, say)
        interpreter = Interpreter(float_model, name=str(path))
        _check_outputs(path, interpreter, labels, given)
    except ModelError as e:
        if path.suffix.lower() != ".tflite" or "not a .tflite" in str(e):
            raise
        raise ModelError(f"{e}; or leave it as it is, with --scheme as_is") from None
    width, height = interpreter.size
    spec = InputSpec(width, height, given.resize or "letterbox", mean=normalization[0], std=normalization[1])

    if pictures:
        unknown = [label for label in pictures.labels if label not in labels]
        if unknown:
            raise DataError(f"{given.data}: {given.labels} has no label {unknown[0]!r}; name the folders as it does")
        index = [labels.index(label) for label in pictures.labels]
        golden = read_frames(pictures.root, balanced(pictures.val, GOLDEN_FRAMES, 0), spec)
        calibration = read_frames(pictures.root, balanced(pictures.train, CALIBRATION_FRAMES, 0), spec)
        heldout: list[tuple[Path, Any]] = [(pictures.root / p.path, index[p.label]) for p in pictures.val]
        dataset = {"name": pictures.root.resolve().name, "fingerprint": pictures.fingerprint}
        if given.calibration:
            calibration = calibration_frames(given.calibration, spec)
    else:
        assert given.calibration is not None
        listed = _listed(given.calibration)
        judges = listed[::5]  # the others calibrate
        calibration = _read(_evenly(sorted(set(listed) - set(judges)), CALIBRATION_FRAMES), spec)
        golden = _read(_evenly(judges, GOLDEN_FRAMES), spec)
        heldout = [(p, None) for p in judges]
        dataset = {"name": given.calibration.resolve().name, "pictures": len(listed)}
    digest = _digest(path)
    return Source(
        name=path.stem,
        version=digest[:8],
        origin=reader.TITLE,
        float_model=float_model,
        input=spec,
        output=OutputSpec("classify", _activation(float_model), labels),
        calibration=calibration,
        golden=golden,
        expected=reader.outputs(path, spec.normalize(golden)),
        heldout=heldout,
        provenance={"source": {"file": path.name, "sha256": digest}, "dataset": dataset},
        shapes=((len(labels),),),
    )


def parse_normalization(path: Path, text: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    choices = f"one of {', '.join(NORMALIZATIONS)}, or MEAN/STD in grey levels, such as 127.5/127.5"
    if text is None:
        raise ConfigError(
            f"{path}: a model does not say how its input was normalised when it was trained, and a wrong guess gives "
            f"wrong answers silently; say it with --normalization: {choices}"
        )
    try:
        mean, std = (tuple(float(n) for n in part.split(",")) for part in text.split("/"))
        mean, std = (part * 3 if len(part) == 1 else part for part in (mean, std))
        InputSpec(1, 1, mean=mean, std=std)
    except ValueError as e:
        raise ConfigError(f"--normalization {text!r} ({e}): {choices}") from None
    return mean, std


def read_labels(path: Path) -> tuple[str, ...]:
    lines = read_text(path, DataError, 16 << 20).splitlines()
    # what comes after an empty line are remarks (Pascal VOC's list has some); how many labels there are is checked
    labels = tuple(itertools.takewhile(bool, (line.strip() for line in lines)))
    try:
        OutputSpec("classify", "none", labels)
    except ValueError as e:
        raise DataError(f"{path}: {e}") from None
    return labels


def _check_outputs(path: Path, interpreter: Interpreter, labels: tuple[str, ...], given: ModelOptions) -> None:
    sizes = [int(np.prod(t.shape)) for t in interpreter.outputs]
    if len(sizes) != 1:
        shapes = ", ".join(str(list(t.shape)) for t in interpreter.outputs)
        raise ModelError(f"{path}: gives {len(sizes)} outputs ({shapes}); needed is one, the scores of the classes")
    if sizes[0] != len(labels):
        where = given.labels or given.data
        hint = "; is one of them a background class that the labels lack?" if sizes[0] == len(labels) + 1 else ""
        raise ModelError(
            f"{path}: gives {sizes[0]} scores, but {where} has {len(labels)} classes: {', '.join(labels[:10])}{hint}"
        )


def _activation(content: bytes) -> Any:
    """A graph that ends in probabilities needs no softmax after it."""
    last = [op.name for op in ops(content)][-1:]
    return "none" if last in (["SOFTMAX"], ["LOGISTIC"]) else "softmax"


def _digest(path: Path) -> str:
    if path.is_file():
        return sha256(path.read_bytes())
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return sha256("".join(f"{p.relative_to(path)} {sha256(p.read_bytes())}\n" for p in files).encode())


def _check_frames(frames: NDArray[Any], spec: InputSpec, where: str) -> None:
    size = (spec.height, spec.width, 3)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size or not len(frames):
        found = f"{frames.dtype} {list(frames.shape)}"
        raise DataError(f"{where}: frames must be uint8 [n, {spec.height}, {spec.width}, 3], not {found}")


def calibration_frames(path: Path, spec: InputSpec) -> Frame:
    if path.suffix == ".npz" and path.is_file():
        frames = unpack(path.read_bytes(), str(path), "frames")["frames"]
        _check_frames(frames, spec, str(path))
        return frames
    return _read(_evenly(_listed(path), CALIBRATION_FRAMES), spec)


def _listed(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of calibration pictures, nor an .npz with `frames`")
    paths = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and is_file(p))
    if not paths:
        raise DataError(f"{path}: no pictures to calibrate with (known endings: {', '.join(SUFFIXES)})")
    return paths


def _evenly(paths: list[Path], count: int) -> list[Path]:
    """Over the names, which are often in the order of class or time."""
    return paths[:: max(1, len(paths) // count)][:count]


def _read(paths: list[Path], spec: InputSpec) -> Frame:
    preprocess = Preprocessor(spec)
    return np.stack([preprocess(read_image(p)) for p in paths])
