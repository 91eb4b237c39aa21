"""Accept nothing unseen: what was written is opened, run on pictures that training never saw, and judged.

The judge is judged too: each scheme's own model with its weights shuffled goes through the same examination, and must
fail it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from converters.evaluate.divergence import Outputs, snr_db, split
from converters.evaluate.metrics import metrics_for
from converters.evaluate.run import Progress, each, read_all, run_all
from converters.sources.base import Source
from converters.tflite.graph import ops, shuffle_weights
from sightline.device import Scheme
from sightline.errors import QualityError
from sightline.interpreter import Interpreter
from sightline.preprocess import InputSpec

# the control needs few pictures: a model that knows nothing is wrong on most of any 200
CONTROL_PICTURES = 200


@dataclass(frozen=True)
class Limits:
    """max_drop: points of accuracy, or of mAP, that may be lost against float32. max_class_drop: the same of any one
    class. min_agreement: percent of the pictures, or of the boxes, for which the answer must be float32's."""

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
    more: other metrics.
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
    more: dict[str, float] = field(default_factory=dict)


class HeldOutEvaluation:
    """The held-out pictures, and what the float model answers to each: what every candidate is compared with."""

    def __init__(self, source: Source, progress: Progress) -> None:
        """Reads every held-out picture once. Raises DataError, which names one that cannot be read."""
        self.source = source
        self.rules = metrics_for(source.output, source.input, [answer for _, answer in source.heldout])
        spec = source.input
        self.frames = read_all([path for path, _ in source.heldout], spec, self.rules, progress)
        self.float_answers = self._answers(source.float_model, "float32")
        self.float_quality = self.rules.quality(self.float_answers)
        self.golden = run_all(source.float_model, source.golden, spec, "float32")

    @property
    def quality(self) -> float | None:
        """Of the float model, in 0..1; None where nobody labelled the pictures."""
        return self.float_quality.value if self.float_quality else None

    def measure(self, scheme: Scheme, content: bytes) -> VariantResult:
        """A candidate on every held-out picture."""
        mine = self.float_answers if scheme == "float32" else self._answers(content, scheme)
        outputs = run_all(content, self.source.golden, self.source.input, scheme)
        quality, base = self.rules.quality(mine), self.float_quality
        drop = worst_class = worst_drop = None
        if quality and base:
            drop = 100 * (base.value - quality.value)
            lost = {label: 100 * (base.per_class[label] - value) for label, value in quality.per_class.items()}
            worst_class = max(lost, key=lambda label: lost[label])
            worst_drop = lost[worst_class]
        shapes = self.source.shapes
        return VariantResult(
            scheme=scheme,
            bytes=len(content),
            quality=quality.value if quality else None,
            agreement=self.rules.agreement(self.float_answers, mine),
            drop=drop,
            worst_class=worst_class,
            worst_drop=worst_drop,
            snr_db=min(snr_db(*pair) for pair in zip(split(self.golden, shapes), split(outputs, shapes), strict=True)),
            outputs=outputs,
            answers=mine,
            more=quality.more if quality else {},
        )

    def control(self, m: VariantResult, content: bytes) -> VariantResult:
        """The same with what the candidate's damaged self lost, on some of the pictures."""
        # evenly over the list, which is sorted by class
        some = slice(None, None, max(1, len(self.frames) // CONTROL_PICTURES))
        mine = self._answers(shuffle_weights(content), m.scheme, some)
        reference = self.float_answers[some]
        quality, base = self.rules.quality(mine, some), self.rules.quality(reference, some)
        lost = base.value - quality.value if quality and base else 1 - self.rules.agreement(reference, mine)
        return replace(m, negative_control_drop=100 * lost)

    def _answers(self, content: bytes, name: str, some: slice = slice(None)) -> Sequence[Any]:
        chosen = range(len(self.frames))[some]
        found = each(content, self.frames[some], self.source.input, name, lambda i, k: self.rules.answer(i, chosen[k]))
        return self.rules.collect(found)


def check_parity(source: Source) -> float:
    """Largest difference between the float TFLite and its origin on the golden frames, over the outputs' largest value.

    Raises QualityError above 0.001, or where frames in a wrong order pass as well (then nothing was compared).
    """
    flat = run_all(source.float_model, source.golden, source.input, "float32")
    pairs = list(zip(split(flat, source.shapes), split(source.expected, source.shapes), strict=True))
    difference = max(_difference(given, expected) for given, expected in pairs)
    if not difference <= 1e-3:
        raise QualityError(
            f"the float TFLite differs from the {source.origin} program by {difference:.2%} of its outputs' range (up "
            "to 0.1 % is rounding): the conversion changed what the model computes"
        )
    if len(flat) > 1 and all(_difference(given, np.roll(expected, 1, axis=0)) <= 1e-3 for given, expected in pairs):
        raise QualityError("the model gives the same outputs for every golden picture: nothing can be compared")
    return difference


def _difference(given: Outputs, expected: Outputs) -> float:
    return float(np.abs(given - expected).max()) / (float(np.abs(expected).max()) or 1.0)


def check_integer(content: bytes, scheme: Scheme, spec: InputSpec, allowed: Sequence[str] = ()) -> None:
    """A static scheme promised integers: raises QualityError with the ops that still compute in float, and for an
    input at which bytes do not arrive exactly. allowed: first outputs of the ops that were left in float on purpose."""
    if not scheme.startswith("static_int8"):
        return
    left = [op for op in ops(content) if op.computes_in_float and op.output not in allowed]
    if left:
        shown = ", ".join(f"{op.name} ({op.output.split(';')[0][-80:]})" for op in left[:5])
        raise QualityError(
            f"{scheme}: {len(left)} of {len(ops(content))} ops still compute in float: {shown}; "
            "choose --scheme float16 or dynamic_int8, or another arch"
        )
    interpreter = Interpreter(content, spec, name=scheme)
    tensor, uniform = interpreter.input, len(set(spec.mean)) == len(set(spec.std)) == 1
    wanted = "float32" if scheme == "static_int8_float_io" else "int8"
    # channels of their own mean and deviation share one scale, and then some bytes of the narrower ones as well
    if tensor.dtype != wanted or (uniform and len(np.unique(interpreter.table)) < 256):
        raise QualityError(
            f"{scheme}: the input is {tensor.dtype} with scale {tensor.scale} and zero point {tensor.zero_point}; "
            f"{wanted} is needed, in which each byte arrives as another value"
        )


def passes(m: VariantResult, exam: HeldOutEvaluation, limits: Limits) -> bool:
    return not _lost_too_much(m, exam, limits)


def judge(m: VariantResult, exam: HeldOutEvaluation, limits: Limits) -> None:
    """Raises QualityError where the scheme lost more than the limits, or where losing could not be noticed."""
    pictures = len(exam.frames)
    lost = _lost_too_much(m, exam, limits)
    if lost:
        coarse = m.drop is not None and 100 / pictures > limits.max_drop
        hint = f" (with so few, one is {100 / pictures:.1f} points)" if coarse else ""
        remedy = "fine-tune it (sightline train --quantization-aware), give more pictures to calibrate with, or "
        raise QualityError(
            f"{m.scheme} {', and '.join(lost)}, on {pictures} held-out pictures{hint}; to lose less: "
            f"{remedy if m.scheme.startswith('static') else ''}choose another --scheme or --arch"
        )
    if m.negative_control_drop is None or m.negative_control_drop <= limits.max_drop:
        raise QualityError(
            f"{m.scheme}: cannot tell this model from the same model with shuffled weights, which lost only "
            f"{m.negative_control_drop or 0:.2f} points. Train a better model, or hold out more and more varied images."
        )


def _lost_too_much(m: VariantResult, exam: HeldOutEvaluation, limits: Limits) -> list[str]:
    lost = []
    if m.drop is not None and m.drop > limits.max_drop + 1e-9:
        lost.append(f"lost {m.drop:.2f} points of {exam.rules.title}, --max-drop is {limits.max_drop:g}")
    if m.worst_drop is not None and m.worst_class is not None and exam.float_quality:
        size = exam.float_quality.sizes[m.worst_class]
        # two pictures of a small class are chance
        if m.worst_drop > max(limits.max_class_drop, 200 / size) + 1e-9:
            lost.append(
                f"lost {m.worst_drop:.1f} points on {m.worst_class!r}, --max-class-drop is {limits.max_class_drop:g}"
            )
    if 100 * m.agreement < limits.min_agreement - 1e-9:
        lost.append(f"gives float32's answer on {m.agreement:.2%}, --min-agreement is {limits.min_agreement:g}")
    return lost
