"""Decide whether a converted model is good enough: open it again, run it on held-out images, and compare with limits.

The evaluation itself is checked too. Each variant with shuffled weights goes through the same evaluation and must fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from converters.evaluate.divergence import Outputs, snr_db, split
from converters.evaluate.metrics import ALL, metrics_for
from converters.evaluate.run_images import Progress, map_frames, no_progress, read_all, run_all
from converters.sources.base import Source
from converters.tflite.edits import shuffle_weights
from converters.tflite.ops import list_ops
from sightline.device_config import Scheme
from sightline.errors import QualityError
from sightline.interpreter import Interpreter
from sightline.preprocess import InputSpec

# the negative control needs few images: a model that knows nothing is wrong on most of any 200
CONTROL_IMAGES = 200
MAX_PARITY_ERROR = 1e-3  # of the outputs' range: float rounding stays below it
_ROUNDING = 1e-9  # a limit is not exceeded by float rounding


@dataclass(frozen=True)
class Limits:
    """How much a variant may lose against float32.

    max_drop: points of accuracy or mAP.
    max_class_drop: points of accuracy or mAP of any one class.
    min_agreement: percent of the images or boxes with the same answer as float32.
    """

    max_drop: float = 0.5
    max_class_drop: float = 10.0
    min_agreement: float = 95.0


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class VariantResult:
    """The result of one scheme on the held-out images.

    quality: accuracy or mAP, in 0..1; None where the images have no labels.
    agreement: with float32, in 0..1; see `Metrics`.
    drop: points of quality lost against float32; None without labels.
    worst_class, worst_drop: the class that lost most, and its points; None without labels.
    snr_db: of the noisiest output for the golden frames, against float32's.
    outputs: float32 [golden, values], the outputs for the golden frames.
    answers: one for each held-out image.
    negative_control_drop: points that the model with shuffled weights lost; None if it was not measured.
    extra: {name: value} of further metrics.
    """

    scheme: Scheme
    bytes: int
    quality: float | None
    agreement: float
    drop: float | None
    worst_class: str | None
    worst_drop: float | None
    snr_db: float
    outputs: Outputs
    answers: Sequence[Any]
    negative_control_drop: float | None = None
    extra: dict[str, float] = field(default_factory=dict)


class HeldOutEvaluation:
    """The held-out images with the float model's answers to them. Every variant is compared with these answers.

    metrics: how answers are read and compared.
    frames: the held-out images, uint8 [n, height, width, 3].
    float_answers: of the float model, one for each image.
    float_scores: of the float model; None where the images have no labels.
    golden: float32 [golden, values], the float model's outputs for the golden frames.
    """

    def __init__(self, source: Source, progress: Progress = no_progress) -> None:
        """Read every held-out image once. Raises DataError, which names an image that cannot be read."""
        self.source = source
        self.metrics = metrics_for(source.output, source.input, [truth for _, truth in source.heldout])
        spec = source.input
        self.frames = read_all([path for path, _ in source.heldout], spec, self.metrics, progress)
        self.float_answers = self._answers(source.float_model, "float32")
        self.float_scores = self.metrics.score(self.float_answers)
        self.golden = run_all(source.float_model, source.golden, spec, "float32")

    @property
    def quality(self) -> float | None:
        """Accuracy or mAP of the float model, in 0..1; None where the images have no labels."""
        return self.float_scores.value if self.float_scores else None

    def measure(self, scheme: Scheme, content: bytes) -> VariantResult:
        """Run a variant on every held-out image."""
        answers = self.float_answers if scheme == "float32" else self._answers(content, scheme)
        outputs = run_all(content, self.source.golden, self.source.input, scheme)
        scores, reference = self.metrics.score(answers), self.float_scores
        drop = worst_class = worst_drop = None
        if scores and reference:
            drop = 100 * (reference.value - scores.value)
            drops = {label: 100 * (reference.per_class[label] - value) for label, value in scores.per_class.items()}
            worst_class = max(drops, key=lambda label: drops[label])
            worst_drop = drops[worst_class]
        shapes = self.source.shapes
        pairs = zip(split(self.golden, shapes), split(outputs, shapes), strict=True)
        return VariantResult(
            scheme=scheme,
            bytes=len(content),
            quality=scores.value if scores else None,
            agreement=self.metrics.agreement(self.float_answers, answers),
            drop=drop,
            worst_class=worst_class,
            worst_drop=worst_drop,
            snr_db=min(snr_db(*pair) for pair in pairs),
            outputs=outputs,
            answers=answers,
            extra=scores.extra if scores else {},
        )

    def with_negative_control(self, result: VariantResult, content: bytes) -> VariantResult:
        """The result, with the loss of the same model with shuffled weights on some of the images."""
        # evenly over the list, which is sorted by class
        subset = slice(None, None, max(1, len(self.frames) // CONTROL_IMAGES))
        answers = self._answers(shuffle_weights(content), result.scheme, subset)
        reference = self.float_answers[subset]
        scores, float_scores = self.metrics.score(answers, subset), self.metrics.score(reference, subset)
        if scores and float_scores:
            loss = float_scores.value - scores.value
        else:
            loss = 1 - self.metrics.agreement(reference, answers)
        return replace(result, negative_control_drop=100 * loss)

    def _answers(self, content: bytes, name: str, subset: slice = ALL) -> Sequence[Any]:
        images = range(len(self.frames))[subset]
        answers = map_frames(
            content, self.frames[subset], self.source.input, name,
            lambda interpreter, k: self.metrics.read_answer(interpreter, images[k]),
        )  # fmt: skip
        sequence: Sequence[Any] = self.metrics.collect(answers)
        return sequence


def check_parity(source: Source) -> float:
    """Largest difference between the float TFLite and the original on the golden frames, over the outputs' range.

    Raises QualityError above 0.001. Raises it too if frames in a wrong order pass: then the comparison proves nothing.
    """
    flat = run_all(source.float_model, source.golden, source.input, "float32")
    pairs = list(zip(split(flat, source.shapes), split(source.expected, source.shapes), strict=True))
    difference = max(_difference(actual, expected) for actual, expected in pairs)
    if not difference <= MAX_PARITY_ERROR:
        raise QualityError(
            f"the float TFLite differs from the {source.origin} program by {difference:.2%} of its outputs' range (up "
            "to 0.1 % is rounding): the conversion changed what the model computes"
        )
    if len(flat) > 1 and all(_difference(a, np.roll(e, 1, axis=0)) <= MAX_PARITY_ERROR for a, e in pairs):
        raise QualityError(
            "the model gives the same outputs for every golden image, so nothing can be compared. Check that the model "
            "is trained, and that the images differ."
        )
    return difference


def _difference(actual: Outputs, expected: Outputs) -> float:
    return float(np.abs(actual - expected).max()) / (float(np.abs(expected).max()) or 1.0)


def check_integer(content: bytes, scheme: Scheme, spec: InputSpec, allowed: Sequence[str] = ()) -> None:
    """Check that a static scheme computes in integers, and that each byte of an image reaches the model exactly.

    allowed: first outputs of the ops that stay in float on purpose.
    Raises QualityError, which names the ops that compute in float, or the input's type and scale.
    """
    if not scheme.startswith("static_int8"):
        return
    all_ops = list_ops(content)
    float_ops = [op for op in all_ops if op.computes_in_float and op.output not in allowed]
    if float_ops:
        names = ", ".join(f"{op.name} ({op.output.split(';')[0][-80:]})" for op in float_ops[:5])
        raise QualityError(
            f"{scheme}: {len(float_ops)} of {len(all_ops)} ops still compute in float: {names}. "
            "Choose --scheme float16 or dynamic_int8, or another arch."
        )
    interpreter = Interpreter(content, spec, name=scheme)
    tensor, uniform = interpreter.input, len(set(spec.mean)) == len(set(spec.std)) == 1
    dtype = "float32" if scheme == "static_int8_float_io" else "int8"
    # channels with means and deviations of their own share one scale; then bytes of the narrower channels share values
    if tensor.dtype != dtype or (uniform and len(np.unique(interpreter.table)) < 256):
        raise QualityError(
            f"{scheme}: the input is {tensor.dtype} with scale {tensor.scale} and zero point {tensor.zero_point}. "
            f"It must be {dtype}, with a different value for each of the 256 bytes."
        )


def passes(result: VariantResult, evaluation: HeldOutEvaluation, limits: Limits) -> bool:
    """Whether a variant is within the limits."""
    return not _violations(result, evaluation, limits)


def check_accuracy(result: VariantResult, evaluation: HeldOutEvaluation, limits: Limits) -> None:
    """Raises QualityError if a variant exceeds a limit, or if its negative control passes."""
    images = len(evaluation.frames)
    violations = _violations(result, evaluation, limits)
    if violations:
        coarse = result.drop is not None and 100 / images > limits.max_drop
        hint = f" (one image is {100 / images:.1f} points)" if coarse else ""
        static = "Fine-tune it (sightline train --quantization-aware), give more images to --calibration, or choose"
        raise QualityError(
            f"{result.scheme} {', and '.join(violations)}, on {images} held-out images{hint}. "
            f"{static if result.scheme.startswith('static') else 'Choose'} another --scheme or --arch."
        )
    if result.negative_control_drop is None or result.negative_control_drop <= limits.max_drop:
        raise QualityError(
            f"{result.scheme}: cannot tell this model from the same model with shuffled weights, which lost only "
            f"{result.negative_control_drop or 0:.2f} points. Train a better model, or hold out more and more varied "
            "images."
        )


def _violations(result: VariantResult, evaluation: HeldOutEvaluation, limits: Limits) -> list[str]:
    """What exceeds the limits, in words."""
    texts = []
    if result.drop is not None and result.drop > limits.max_drop + _ROUNDING:
        texts.append(f"lost {result.drop:.2f} points of {evaluation.metrics.title}, --max-drop is {limits.max_drop:g}")
    if result.worst_drop is not None and result.worst_class is not None and evaluation.float_scores:
        count = evaluation.float_scores.counts[result.worst_class]
        # two images of a small class are chance
        if result.worst_drop > max(limits.max_class_drop, 200 / count) + _ROUNDING:
            limit = f"--max-class-drop is {limits.max_class_drop:g}"
            texts.append(f"lost {result.worst_drop:.1f} points on {result.worst_class!r}, {limit}")
    if 100 * result.agreement < limits.min_agreement - _ROUNDING:
        texts.append(f"gives float32's answer for {result.agreement:.2%}, --min-agreement is {limits.min_agreement:g}")
    return texts
