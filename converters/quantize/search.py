"""Search for the best int8 model: the cheap methods first, the next one only if accuracy is still below the limits.

Every choice is made on the calibration images, by how far the outputs' distribution is from float's. The held-out
images only decide whether the result is good enough. A method that gains nothing is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from converters.evaluate.acceptance import HeldOutEvaluation, Limits, VariantResult, passes
from converters.evaluate.divergence import Outputs, box_divergence, cell_divergence, class_divergence, split
from converters.evaluate.run_images import run_all
from converters.log_capture import Log, silent
from converters.quantize.bias_correction import correct_biases
from converters.quantize.calibrate import METHODS, Activation, Ranges, observe, ranges
from converters.quantize.cross_layer_equalization import equalize
from converters.quantize.mixed_precision import OpSensitivity, float_sets, rank_ops
from converters.quantize.quantize import Quantizer, quantize
from converters.sources.base import Source
from converters.tflite.ops import list_ops, xnnpack_survives
from sightline.device_config import DeviceConfig, Scheme
from sightline.errors import QualityError

# percent of the held-out images with float's answer; most of the rest are near-ties of the float model itself
TARGET_AGREEMENT_PERCENT = 98.5
# divergence after over before, at most; a smaller gain is chance
MAX_DIVERGENCE_RATIO = 0.97
# bytes of a detector's outputs that are compared; a few dozen images have 100,000 cells
MAX_OUTPUT_BYTES = 128 << 20
MIN_DETECTOR_FRAMES = 16


@dataclass(frozen=True)
class Candidate:
    """A quantized model and how it was made.

    content: the quantized .tflite.
    float_model: the float model that it was made from, rewritten to suit int8.
    activations, ranges: of that float model.
    divergence: of its outputs' distribution from float32's, in nats, mean over the calibration images.
    float_ops: first outputs of the ops that compute in float.
    """

    content: bytes
    float_model: bytes
    activations: dict[str, Activation]
    ranges: Ranges
    divergence: float
    float_ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchStep:
    """One trial of a method.

    name, detail: the method and its setting.
    reference_divergence: of the best candidate before the trial.
    divergence: of the trial's candidate.
    accepted: whether the search continued with this candidate.
    agreement: of an accepted candidate with float32 on the held-out images, in 0..1; None if it was not measured.
    """

    name: str
    detail: str
    reference_divergence: float
    divergence: float
    accepted: bool
    agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A divergence that no kernel can compute is null."""
        finite = {k: v if np.isfinite(v) else None for k, v in asdict(self).items() if k.endswith("divergence")}
        return {**asdict(self), **finite}


@dataclass(frozen=True)
class SearchResult:
    """The best int8 model, and how to make it in another static scheme.

    float_model, activations, ranges, float_ops: see `Candidate`.
    steps: all trials, in order.
    sensitivities: of each op, the most sensitive first; empty if mixed precision was not needed.
    scheme, content: the scheme of the search, and the finished model in it.
    result: of that model on the held-out images.
    """

    float_model: bytes
    activations: dict[str, Activation]
    ranges: Ranges
    float_ops: tuple[str, ...]
    steps: tuple[SearchStep, ...]
    sensitivities: tuple[OpSensitivity, ...]
    scheme: Scheme
    content: bytes
    result: VariantResult


class Search:
    """The search for one source, one static scheme and one device."""

    def __init__(
        self,
        source: Source,
        scheme: Scheme,
        config: DeviceConfig,
        finish: Callable[[bytes], bytes] = lambda content: content,
        *,
        log: Log = silent,
        quantizer: Quantizer = quantize,
    ) -> None:
        """finish: applied to each quantized model. log: receives a line for each method."""
        self.source, self.scheme, self.config, self.finish, self.log = source, scheme, config, finish, log
        self.quantizer = quantizer
        self.frames = source.calibration
        if source.output.task == "detect":
            values = sum(int(np.prod(shape)) for shape in source.shapes)
            self.frames = self.frames[: max(MIN_DETECTOR_FRAMES, MAX_OUTPUT_BYTES // (4 * values))]
        self.reference = self._outputs(source.float_model)
        self.steps: list[SearchStep] = []
        self.sensitivities: tuple[OpSensitivity, ...] = ()

    def run(self, evaluation: HeldOutEvaluation, limits: Limits) -> SearchResult:
        """Search until a model is within the limits. Raises QualityError if no int8 kernel can compute the best one."""
        best = self._by_ranges("ranges", self.source.float_model, None)
        result = self._evaluate(evaluation, best)
        passed = (best, result) if result and passes(result, evaluation, limits) else None
        methods = {"cross-layer equalization": self._equalized, "bias correction": self._bias_corrected}
        if self.config.delegate != "edgetpu":  # its compiler stops at the first float op
            methods["mixed precision"] = self._mixed
        for name, method in methods.items():
            if _good_enough(result, evaluation, limits):
                break
            agreement = f"{result.agreement:.2%} as float32" if result else "no kernel can compute it"
            self.log(f"{self.scheme}: {agreement}; trying {name}")
            for better in method(best):
                best, result = better, self._evaluate(evaluation, better)
                if result and passes(result, evaluation, limits):
                    passed = best, result
                if _good_enough(result, evaluation, limits):
                    break
        if result is None:
            raise QualityError(f"{self.scheme}: the channels' ranges differ so much that no int8 kernel can compute it")
        if passed is not None and passed[0] is not best and not passes(result, evaluation, limits):
            best, result = passed  # nearer to float on the calibration images is not always nearer on others
            self.steps.append(SearchStep("back", "to the last model within the limits", np.inf, best.divergence, True))
        return SearchResult(
            best.float_model, best.activations, best.ranges, best.float_ops, tuple(self.steps), self.sensitivities,
            self.scheme, best.content, result,
        )  # fmt: skip

    def _by_ranges(self, name: str, float_model: bytes, before: Candidate | None) -> Candidate:
        """Try each range method for all tensors. Returns the candidate nearest to float, or `before` if none is."""
        activations = observe(float_model, self.source.calibration, self.source.input)
        candidates = [self._candidate(float_model, activations, ranges(activations, method)) for method in METHODS]
        nearest = min(candidates, key=lambda c: c.divergence)
        accepted = before is None or nearest.divergence < MAX_DIVERGENCE_RATIO * before.divergence
        reference = (before or candidates[0]).divergence
        for method, c in zip(METHODS, candidates, strict=True):
            step = SearchStep(name, f"ranges by {method}", reference, c.divergence, accepted and c is nearest)
            self.steps.append(step)
        return nearest if accepted or before is None else before

    def _equalized(self, best: Candidate) -> Iterator[Candidate]:
        content, pairs = equalize(best.float_model, best.activations)
        if pairs:
            better = self._by_ranges(f"cross-layer equalization, {pairs} pairs", content, best)
            if better is not best:
                yield better

    def _bias_corrected(self, best: Candidate) -> Iterator[Candidate]:
        content, layers = correct_biases(best.float_model, best.activations, self.config.fully_connected)
        if layers:
            candidate = self._candidate(content, best.activations, best.ranges)
            if self._accept("bias correction", f"layers: {layers}", best, candidate):
                yield candidate

    def _mixed(self, best: Candidate) -> Iterator[Candidate]:
        every = [op.output for op in list_ops(best.float_model) if op.computes_in_float]

        def divergence_of(outputs: Sequence[str]) -> float:
            others = [name for name in every if name not in outputs]
            fully_connected = self.config.fully_connected
            return self._divergence(
                self.quantizer(best.float_model, "static_int8_float_io", best.ranges, fully_connected, others)
            )

        self.sensitivities = rank_ops(best.float_model, divergence_of)
        for float_ops in float_sets(self.sensitivities):  # growing: the smallest set that is enough
            candidate = self._candidate(best.float_model, best.activations, best.ranges, float_ops)
            if self._accept("mixed precision", f"ops in float: {len(float_ops)}", best, candidate):
                best = candidate
                yield best

    def _candidate(
        self, float_model: bytes, activations: dict[str, Activation], limits: Ranges, float_ops: tuple[str, ...] = ()
    ) -> Candidate:
        content = self.quantizer(float_model, self.scheme, limits, self.config.fully_connected, float_ops)
        content = self.finish(content)
        return Candidate(content, float_model, activations, limits, self._divergence(content), float_ops)

    def _accept(self, name: str, detail: str, best: Candidate, candidate: Candidate) -> bool:
        accepted = candidate.divergence < MAX_DIVERGENCE_RATIO * best.divergence
        self.steps.append(SearchStep(name, detail, best.divergence, candidate.divergence, accepted))
        return accepted

    def _evaluate(self, evaluation: HeldOutEvaluation, candidate: Candidate) -> VariantResult | None:
        """Run the candidate on the held-out images; None if no int8 kernel can compute it."""
        if candidate.divergence == np.inf:
            return None
        result = evaluation.measure(self.scheme, candidate.content)
        last = max(i for i, step in enumerate(self.steps) if step.accepted)
        self.steps[last] = replace(self.steps[last], agreement=result.agreement)
        return result

    def _outputs(self, content: bytes) -> Outputs:
        return run_all(content, self.frames, self.source.input, self.scheme)

    def _divergence(self, content: bytes) -> float:
        if not xnnpack_survives(content):
            return np.inf
        outputs, shapes = self._outputs(content), self.source.shapes
        if self.source.output.decoder == "points":
            return cell_divergence(self.reference, outputs)
        if self.source.output.task == "detect":
            return box_divergence(split(self.reference, shapes), split(outputs, shapes))
        return class_divergence(self.reference, outputs, self.source.output)


def _good_enough(result: VariantResult | None, evaluation: HeldOutEvaluation, limits: Limits) -> bool:
    if result is None or not passes(result, evaluation, limits):
        return False
    return 100 * result.agreement >= TARGET_AGREEMENT_PERCENT


def requantize(search: SearchResult, scheme: Scheme, fully_connected: str, quantizer: Quantizer = quantize) -> bytes:
    """The model of a search in another static scheme."""
    return quantizer(search.float_model, scheme, search.ranges, fully_connected, search.float_ops)
