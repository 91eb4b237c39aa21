"""Quantize one source to each scheme, and accept or refuse each variant."""

from __future__ import annotations

from dataclasses import dataclass

from converters.edgetpu.lowering import lower
from converters.evaluate.acceptance import HeldOutEvaluation, Limits, VariantResult, check_accuracy, check_integer
from converters.log_capture import Log
from converters.quantize.quantize import Quantizer
from converters.quantize.search import Search, SearchResult, requantize
from converters.tflite.metadata_writer import with_metadata
from sightline.device_config import DeviceConfig, Scheme
from sightline.errors import QualityError


@dataclass(frozen=True)
class Target:
    """What a conversion makes.

    name: of the bundle.
    device, config: the device's name and its configuration.
    schemes: the first one runs by default.
    limits: how much a variant may lose.
    """

    name: str
    device: str
    config: DeviceConfig
    schemes: tuple[Scheme, ...]
    limits: Limits


@dataclass(frozen=True)
class Variant:
    """content: the .tflite, with its metadata. result: of the held-out images."""

    content: bytes
    result: VariantResult


class VariantBuilder:
    """Builds the variants of one source for one target.

    search: the result of the search for int8, after the first static scheme; None before. The static schemes differ in
        their inputs and outputs alone, so one search serves all of them.
    """

    def __init__(self, evaluation: HeldOutEvaluation, target: Target, log: Log, quantizer: Quantizer) -> None:
        self.evaluation, self.target, self.log, self.quantizer = evaluation, target, log, quantizer
        self.source = evaluation.source
        self.search: SearchResult | None = None

    def build(self, scheme: Scheme) -> Variant:
        """Quantize and evaluate one scheme. Raises QualityError if it exceeds a limit of the user or the device."""
        target, evaluation = self.target, self.evaluation
        content, result = self._static(scheme) if scheme.startswith("static") else self._plain(scheme)
        limit = target.config.max_model_kib
        if limit and len(content) > limit * 1024:
            raise QualityError(
                f"{scheme}: the model has {len(content) / 1024:,.0f} KiB, and {target.device} takes at most "
                f"{limit:,} (max_model_kib). Train a smaller --arch."
            )
        result = evaluation.with_negative_control(result, content)
        check_accuracy(result, evaluation, target.limits)
        self.log(f"{scheme}: {len(content) / 1024:,.0f} KiB, {result.agreement:.2%} of the answers as float32's")
        return Variant(content, result)

    def _static(self, scheme: Scheme) -> tuple[bytes, VariantResult]:
        config = self.target.config
        if self.search is None:
            search = Search(self.source, scheme, config, self._finish, log=self.log, quantizer=self.quantizer)
            self.search = search.run(self.evaluation, self.target.limits)
        content, result = self.search.content, self.search.result
        if self.search.scheme != scheme:
            content = self._finish(requantize(self.search, scheme, config.fully_connected, self.quantizer))
            result = self.evaluation.measure(scheme, content)
        check_integer(content, scheme, self.source.input, self.search.float_ops)
        return content, result

    def _plain(self, scheme: Scheme) -> tuple[bytes, VariantResult]:
        content = self.quantizer(self.source.float_model, scheme, {}, self.target.config.fully_connected)
        content = self._with_metadata(content)
        return content, self.evaluation.measure(scheme, content)

    def _finish(self, content: bytes) -> bytes:
        return self._with_metadata(lower(content) if self.target.config.delegate == "edgetpu" else content)

    def _with_metadata(self, content: bytes) -> bytes:
        source = self.source
        return with_metadata(
            content, name=self.target.name, version=source.version, input=source.input, output=source.output
        )
