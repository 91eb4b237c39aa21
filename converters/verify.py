"""Accept nothing unseen: what was written is opened, run on pictures that training never saw, and judged.

The judge is judged too: each scheme's own model with its weights shuffled goes through the same examination, and must
fail it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.graph import damaged, ops
from sightline.device import Scheme
from sightline.errors import QualityError
from sightline.images import read_image
from sightline.interpreter import Interpreter
from sightline.preprocess import Frame, InputSpec, Preprocessor

# the control needs few pictures: a model that knows nothing is wrong on most of any 200
CONTROL_PICTURES = 200
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """A scheme on the held-out pictures. accuracy, agreement (with float32, of the best class): in 0..1.
    worst_class, worst_drop: the class that lost most against float32, and its points. control_drop: points that the
    damaged model lost. outputs: float32 [golden, classes], what the model gives for the golden frames."""

    scheme: Scheme
    bytes: int
    accuracy: float
    agreement: float
    drop: float
    worst_class: str
    worst_drop: float
    control_drop: float
    outputs: NDArray[np.float32]


def check_parity(float_model: bytes, golden: Frame, expected: NDArray[np.float32]) -> float:
    """Largest difference between the float TFLite and PyTorch on the golden frames, over the outputs' largest value.

    Raises QualityError above 0.001, or where frames in a wrong order pass as well (then nothing was compared).
    """
    given = run_all(Interpreter(float_model, name="float32"), golden)
    scale = float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(given - expected).max()) / scale
    if not difference <= 1e-3:
        raise QualityError(
            f"the float TFLite differs from the PyTorch program by {difference:.2%} of its outputs' range (up to "
            "0.1 % is rounding): the conversion changed what the model computes"
        )
    if len(golden) > 1 and float(np.abs(given - np.roll(expected, 1, axis=0)).max()) / scale <= 1e-3:
        raise QualityError("the model gives the same outputs for every golden picture: nothing can be compared")
    return difference


def check_integer(content: bytes, scheme: Scheme) -> None:
    """A static scheme promised integers: raises QualityError with the ops that still compute in float, and for an
    input whose stored bytes are not `byte - 128`."""
    if not scheme.startswith("static_int8"):
        return
    left = [op for op in ops(content) if op.computes_in_float]
    if left:
        shown = ", ".join(f"{op.name} ({op.output.split(';')[0][-80:]})" for op in left[:5])
        raise QualityError(
            f"{scheme}: {len(left)} of {len(ops(content))} ops still compute in float: {shown}; "
            "choose --scheme float16 or dynamic_int8, or another arch"
        )
    tensor = Interpreter(content, name=scheme).input
    if scheme == "static_int8" and (tensor.dtype, tensor.scale, tensor.zero_point) != ("int8", 1.0, -128):
        raise QualityError(
            f"{scheme}: the input is {tensor.dtype} with scale {tensor.scale} and zero point {tensor.zero_point}, "
            "not int8 with 1 and -128: bytes would not arrive exactly"
        )


def measure(
    float_model: bytes,
    models: dict[Scheme, bytes],
    heldout: Sequence[tuple[Path, int]],
    spec: InputSpec,
    labels: Sequence[str],
    golden: Frame,
    threads: int,
    progress: Progress,
) -> tuple[float, dict[Scheme, Measured], list[tuple[Path, int, int, dict[Scheme, int]]]]:
    """Every held-out picture through the float model and each scheme, as the device will run them.

    Returns the float model's accuracy, the schemes' measurements, and the pictures on which a scheme's answer differs
    from float's: (picture, class, float's answer, {scheme: answer}).
    """
    reference = Interpreter(float_model, threads=threads, name="float32")
    candidates = {s: Interpreter(m, threads=threads, name=s) for s, m in models.items()}
    controls = {s: Interpreter(damaged(m), threads=threads, name=s) for s, m in models.items()}
    preprocess = Preprocessor(spec)
    truth: list[int] = []
    answers: dict[str, list[int]] = {key: [] for key in ("float32", *models)}
    control_answers: dict[str, list[int]] = {s: [] for s in models}
    # evenly over the list, which is sorted by class
    control_every = max(1, len(heldout) // CONTROL_PICTURES)
    control_truth: list[int] = []
    control_float: list[int] = []
    differing: list[tuple[Path, int, int, dict[Scheme, int]]] = []
    for i, (path, label) in enumerate(heldout):
        frame = preprocess(read_image(path))
        truth.append(label)
        float_answer = _best(reference, frame)
        given = {s: _best(interpreter, frame) for s, interpreter in candidates.items()}
        for scheme, answer in given.items():
            answers[scheme].append(answer)
        if "float32" not in given:
            answers["float32"].append(float_answer)
        if i % control_every == 0:
            control_truth.append(label)
            control_float.append(float_answer)
            for scheme, interpreter in controls.items():
                control_answers[scheme].append(_best(interpreter, frame))
        if any(answer != float_answer for answer in given.values()):
            differing.append((path, label, float_answer, given))
        progress(i + 1, len(heldout))

    right = np.asarray(truth)
    base = np.asarray(answers["float32"])
    accuracy = float((base == right).mean())
    measured = {}
    for scheme, content in models.items():
        mine = np.asarray(answers[scheme])
        drops = [
            float(((base == right) & (right == k)).sum() - ((mine == right) & (right == k)).sum())
            / max(1, int((right == k).sum()))
            for k in range(len(labels))
        ]
        worst = int(np.argmax(drops))
        control_right = np.asarray(control_truth)
        control_drop = float((np.asarray(control_float) == control_right).mean()) - float(
            (np.asarray(control_answers[scheme]) == control_right).mean()
        )
        measured[scheme] = Measured(
            scheme=scheme,
            bytes=len(content),
            accuracy=float((mine == right).mean()),
            agreement=float((mine == base).mean()),
            drop=100 * (accuracy - float((mine == right).mean())),
            worst_class=labels[worst],
            worst_drop=100 * drops[worst],
            control_drop=100 * control_drop,
            outputs=run_all(candidates[scheme], golden),
        )
    return accuracy, measured, differing


def judge(m: Measured, pictures: int, max_drop: float) -> None:
    """Raises QualityError where the scheme lost more than `max_drop` points, or where losing could not be noticed."""
    if m.drop > max_drop + 1e-9:
        coarse = 100 / pictures > max_drop
        hint = f"; with only {pictures} held-out pictures one is {100 / pictures:.1f} points" if coarse else ""
        raise QualityError(
            f"{m.scheme} lost {m.drop:.2f} points of accuracy on {pictures} held-out pictures, --max-drop is "
            f"{max_drop:g} (worst class {m.worst_class!r}: {m.worst_drop:.1f} points; agreement with float "
            f"{m.agreement:.2%}){hint}. More calibration pictures (--calibration), another --scheme, or an "
            "arch without squeeze-and-excite or hard-swish loses less"
        )
    if m.control_drop <= max_drop:
        raise QualityError(
            f"{m.scheme}: the verification cannot tell this model from the same one with its weights shuffled (it lost "
            f"only {m.control_drop:.2f} points): train a better model, or hold out more, and more varied, pictures"
        )


def run_all(interpreter: Interpreter, frames: Frame) -> NDArray[np.float32]:
    """float32 [n, classes]: the first output for each of uint8 [n, height, width, 3]."""
    return np.concatenate([interpreter(frame)[0] for frame in frames])


def _best(interpreter: Interpreter, frame: Frame) -> int:
    scores = interpreter(frame)[0].reshape(-1)
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))
