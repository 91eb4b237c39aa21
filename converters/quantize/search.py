"""How a static scheme gets as good as float: the cheap methods first, each next one only while the gate is not content.

Every choice is made on calibration pictures, by how far the outputs' distribution is from float's; the held-out ones
only say whether that was enough. A method that buys nothing is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from converters.evaluate.acceptance import HeldOutEvaluation, Limits, VariantResult, passes
from converters.evaluate.divergence import Outputs, box_divergence, cell_divergence, class_divergence, split
from converters.evaluate.run import run_all
from converters.quantize.bias_correction import correct_biases
from converters.quantize.calibrate import METHODS, Activation, Ranges, observe, ranges
from converters.quantize.cross_layer_equalization import equalize
from converters.quantize.mixed_precision import OpSensitivity, float_sets, rank_ops
from converters.quantize.quantize import quantize
from converters.sources.base import Say, Source
from converters.tflite.graph import ops, runnable
from sightline.device import DeviceConfig, Scheme
from sightline.errors import QualityError

# of the held-out pictures with float's answer, in percent; what is missing above it are mostly float's own near-ties
TARGET_AGREEMENT_PERCENT = 98.5
# the divergence has to fall below so much of what it was, or it is chance
MAX_DIVERGENCE_RATIO = 0.97
OUTPUT_BYTES = 128 << 20  # of a detector's outputs that are compared; a few dozen pictures have 100,000 cells


@dataclass(frozen=True)
class Candidate:
    """A quantized model and what it was made of. float_model: rewritten so that int8 suits it. divergence: mean over
    the calibration pictures, in nats, of its outputs' distribution from float32's. float_ops: first outputs of the ops
    that compute in float."""

    content: bytes
    float_model: bytes
    activations: dict[str, Activation]
    ranges: Ranges
    divergence: float
    float_ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchStep:
    """Something that was tried. divergence: its candidate's; before: of the best until then. kept: it went on from
    there. agreement: of what was kept, with float32 on the held-out pictures, in 0..1; None where nobody looked."""

    name: str
    detail: str
    before: float
    divergence: float
    kept: bool
    agreement: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """What suits int8 best: of which float model, with which ranges and ops in float. activations: of that model.
    content, measured: it in `scheme`, finished, and what the held-out pictures say of it. steps: all that was tried,
    in order. sensitivities: what each op costs, the dearest first, where that was analysed."""

    float_model: bytes
    activations: dict[str, Activation]
    ranges: Ranges
    float_ops: tuple[str, ...]
    steps: tuple[SearchStep, ...]
    sensitivities: tuple[OpSensitivity, ...]
    scheme: Scheme
    content: bytes
    measured: VariantResult


class Search:
    """One static scheme of one source for one device."""

    def __init__(
        self, source: Source, scheme: Scheme, config: DeviceConfig, finish: Callable[[bytes], bytes], say: Say
    ) -> None:
        """finish: what comes after quantization. say: told what is tried."""
        self.source, self.scheme, self.config, self.finish, self.say = source, scheme, config, finish, say
        self.frames = source.calibration
        if source.output.task == "detect":
            values = sum(int(np.prod(shape)) for shape in source.shapes)
            self.frames = self.frames[: max(16, OUTPUT_BYTES // (4 * values))]
        self.reference = self._outputs(source.float_model)
        self.steps: list[SearchStep] = []
        self.sensitivities: tuple[OpSensitivity, ...] = ()

    def run(self, exam: HeldOutEvaluation, limits: Limits) -> SearchResult:
        """exam, limits: the gate that is to be satisfied. Raises QualityError where no kernel computes the best."""
        best = self._by_ranges("ranges", self.source.float_model, None)
        measured = self._look(exam, best)
        passed = (best, measured) if measured and passes(measured, exam, limits) else None
        methods = [self._equalized, self._corrected]
        if self.config.delegate != "edgetpu":  # whose compiler ends at the first op in float
            methods.append(self._mixed)
        for method in methods:
            if _content(measured, exam, limits):
                break
            agreement = f"{measured.agreement:.2%} as float32" if measured else "no kernel computes it"
            self.say(f"{self.scheme}: {agreement}; trying {method.__doc__}")
            for better in method(best):
                best, measured = better, self._look(exam, better)
                if measured and passes(measured, exam, limits):
                    passed = best, measured
                if _content(measured, exam, limits):
                    break
        if measured is None:
            raise QualityError(f"{self.scheme}: the channels' ranges differ so much that no int8 kernel can compute it")
        if passed is not None and passed[0] is not best and not passes(measured, exam, limits):
            best, measured = passed  # nearer to float on the calibration pictures is not always nearer on others
            self.steps.append(SearchStep("back", "to the last that the gate lets pass", np.inf, best.divergence, True))
        return SearchResult(
            best.float_model, best.activations, best.ranges, best.float_ops, tuple(self.steps), self.sensitivities,
            self.scheme, best.content, measured,
        )  # fmt: skip

    def _by_ranges(self, name: str, float_model: bytes, before: Candidate | None) -> Candidate:
        """The ranges by each method for all tensors; what comes nearest to float goes on."""
        found = observe(float_model, self.source.calibration, self.source.input)
        tried = [self._candidate(float_model, found, ranges(found, method)) for method in METHODS]
        nearest = min(tried, key=lambda c: c.divergence)
        kept = before is None or nearest.divergence < MAX_DIVERGENCE_RATIO * before.divergence
        reference = (before or tried[0]).divergence
        for method, c in zip(METHODS, tried, strict=True):
            self.steps.append(SearchStep(name, f"ranges by {method}", reference, c.divergence, kept and c is nearest))
        return nearest if kept or before is None else before

    def _equalized(self, best: Candidate) -> Iterator[Candidate]:
        "cross-layer equalization"
        content, pairs = equalize(best.float_model, best.activations)
        if pairs:
            better = self._by_ranges(f"cross-layer equalization, {pairs} pairs", content, best)
            if better is not best:
                yield better

    def _corrected(self, best: Candidate) -> Iterator[Candidate]:
        "bias correction"
        content, layers = correct_biases(best.float_model, best.activations, self.config.fully_connected)
        if layers:
            candidate = self._candidate(content, best.activations, best.ranges)
            if self._kept("bias correction", f"layers: {layers}", best, candidate):
                yield candidate

    def _mixed(self, best: Candidate) -> Iterator[Candidate]:
        "mixed precision"
        every = [op.output for op in ops(best.float_model) if op.computes_in_float]

        def alone(outputs: Sequence[str]) -> float:
            others = [name for name in every if name not in outputs]
            return self._divergence(
                quantize(best.float_model, "static_int8_float_io", best.ranges, self.config.fully_connected, others)
            )

        self.sensitivities = rank_ops(best.float_model, alone)
        for float_ops in float_sets(self.sensitivities):  # growing: the fewest that are enough
            candidate = self._candidate(best.float_model, best.activations, best.ranges, float_ops)
            if self._kept("mixed precision", f"ops in float: {len(float_ops)}", best, candidate):
                best = candidate
                yield best

    def _candidate(
        self, float_model: bytes, found: dict[str, Activation], limits: Ranges, float_ops: tuple[str, ...] = ()
    ) -> Candidate:
        content = quantize(float_model, self.scheme, limits, self.config.fully_connected, float_ops)
        content = self.finish(content)
        return Candidate(content, float_model, found, limits, self._divergence(content), float_ops)

    def _kept(self, name: str, detail: str, best: Candidate, candidate: Candidate) -> bool:
        kept = candidate.divergence < MAX_DIVERGENCE_RATIO * best.divergence
        self.steps.append(SearchStep(name, detail, best.divergence, candidate.divergence, kept))
        return kept

    def _look(self, exam: HeldOutEvaluation, candidate: Candidate) -> VariantResult | None:
        """The candidate on the held-out pictures; None where no int8 kernel computes it."""
        if candidate.divergence == np.inf:
            return None
        measured = exam.measure(self.scheme, candidate.content)
        last = max(i for i, step in enumerate(self.steps) if step.kept)
        self.steps[last] = replace(self.steps[last], agreement=measured.agreement)
        return measured

    def _outputs(self, content: bytes) -> Outputs:
        return run_all(content, self.frames, self.source.input, self.scheme)

    def _divergence(self, content: bytes) -> float:
        if not runnable(content):
            return np.inf
        outputs, shapes = self._outputs(content), self.source.shapes
        if self.source.output.decoder == "points":
            return cell_divergence(self.reference, outputs)
        if self.source.output.task == "detect":
            return box_divergence(split(self.reference, shapes), split(outputs, shapes))
        return class_divergence(self.reference, outputs, self.source.output)


def _content(measured: VariantResult | None, exam: HeldOutEvaluation, limits: Limits) -> bool:
    return (
        measured is not None and passes(measured, exam, limits) and 100 * measured.agreement >= TARGET_AGREEMENT_PERCENT
    )


def requantize(found: SearchResult, scheme: Scheme, fully_connected: str) -> bytes:
    """What was found, in another static scheme."""
    return quantize(found.float_model, scheme, found.ranges, fully_connected, found.float_ops)
