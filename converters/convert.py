"""The conversion from top to bottom: open, quantize, evaluate, accept or refuse, and write the bundle with a report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters.edgetpu.compiler import compile_variants
from converters.evaluate.acceptance import DEFAULT_LIMITS, HeldOutEvaluation, Limits, VariantResult, check_parity
from converters.evaluate.op_snr import latency_ms, op_noise
from converters.evaluate.run_images import Progress, no_progress
from converters.log_capture import Log, silent
from converters.manifest import Conversion, build_manifest, golden_outputs
from converters.quantize.quantize import Quantizer, quantize
from converters.quantize.variants import Target, VariantBuilder
from converters.report.conversion import Report, render, to_json
from converters.sources.base import DEFAULTS, ModelOptions, Source
from converters.sources.open import open_source
from sightline.bundle import name_of_new, write_bundle
from sightline.device_config import Scheme, load_device
from sightline.files import write_file
from sightline.npz import pack

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ConvertOptions:
    """What to make of a model.

    device: name of a device, or path of a .yaml.
    schemes: the first one runs by default. Empty means the device's own.
    model: what the model's file does not state.
    limits: how much a variant may lose against float32 on the held-out images.
    """

    device: str
    schemes: tuple[Scheme, ...] = ()
    model: ModelOptions = DEFAULTS
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True)
class ConversionResult:
    """A bundle that was written.

    images: number of held-out images.
    metric, title: name of the metric in JSON, and in texts for people.
    float_quality: the float model's accuracy or mAP, in 0..1; None where the images have no labels.
    float_bytes: size of the float TFLite.
    variants: {scheme: its result}.
    """

    bundle: Path
    device: str
    images: int
    metric: str
    title: str
    float_quality: float | None
    float_bytes: int
    variants: dict[Scheme, VariantResult]


def convert(
    model: Path | str | nn.Module,
    out: Path | str,
    options: ConvertOptions,
    *,
    log: Log = silent,
    progress: Progress = no_progress,
) -> ConversionResult:
    """Convert a run, a foreign model or a PyTorch module: write the bundle `out` and its report beside it.

    model: see `open_source`.
    log: receives a line for each step.
    Raises InputError, and then writes nothing.
    """
    _target(Path(out), options)  # refuses a wrong destination or device before the work
    clock = Stopwatch()
    source = open_source(model, options.model, log)
    clock.lap("to float TFLite")
    return convert_source(source, out, options, log=log, progress=progress, clock=clock)


def convert_source(
    source: Source,
    out: Path | str,
    options: ConvertOptions,
    *,
    log: Log = silent,
    progress: Progress = no_progress,
    quantizer: Quantizer = quantize,
    clock: Stopwatch | None = None,
) -> ConversionResult:
    """Convert a source that is open. clock: continues its phases in the report. See `convert`."""
    out, clock = Path(out), clock or Stopwatch()
    target = _target(out, options)
    parity = check_parity(source)
    log(f"float TFLite: {len(source.float_model) / 1024:,.0f} KiB, within {parity:.1e} of {source.origin}")
    evaluation = HeldOutEvaluation(source, progress)
    clock.lap("float32 on held-out images")

    builder = VariantBuilder(evaluation, target, log, quantizer)
    variants = {scheme: builder.build(scheme) for scheme in target.schemes}
    clock.lap("quantization and evaluation")

    models: dict[str, bytes] = {scheme: variant.content for scheme, variant in variants.items()}
    compiled, edgetpu = compile_variants(models, log) if target.config.delegate == "edgetpu" else ({}, {})
    conversion = Conversion(target, evaluation, parity, variants, builder.search, compiled, edgetpu)
    report = _report(conversion, clock)
    files = {conversion.files[scheme]: content for scheme, content in conversion.models.items()}
    files["golden.npz"] = pack(frames=source.golden, **golden_outputs(conversion))
    write_bundle(out, build_manifest(conversion), files)
    write_file(report_path(out), render(report).encode())
    write_file(report_path(out).with_suffix(".json"), (json.dumps(to_json(report), indent=2) + "\n").encode())
    return ConversionResult(
        bundle=out,
        device=target.device,
        images=len(source.heldout),
        metric=evaluation.metrics.metric,
        title=evaluation.metrics.title,
        float_quality=evaluation.quality,
        float_bytes=len(source.float_model),
        variants=report.results,
    )


def report_path(bundle: Path) -> Path:
    """NAME.report.html beside NAME.bundle. The same name with .json is for programs."""
    return bundle.with_suffix(".report.html")


class Stopwatch:
    """The seconds of each phase of a conversion."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase], self._start = now - self._start, now


def _target(out: Path, options: ConvertOptions) -> Target:
    device, config = load_device(options.device)
    schemes = tuple(dict.fromkeys(options.schemes)) or (config.scheme,)
    return Target(name_of_new(out), device, config, schemes, options.limits)


def _report(c: Conversion, clock: Stopwatch) -> Report:
    """Measure what only the report shows: the noise of each op, and the latency of each model."""
    source, search = c.evaluation.source, c.search
    noise = []
    if search:
        static = next(v for scheme, v in c.variants.items() if scheme.startswith("static"))
        noise = op_noise(search.float_model, static.content, source.golden, source.input)
    models = {"float32": source.float_model, **{scheme: v.content for scheme, v in c.variants.items()}}
    latency: dict[str, float] = {
        s: latency_ms(content, source.input, source.golden[0]) for s, content in models.items()
    }
    clock.lap("report")
    return Report(
        name=c.target.name,
        device=c.target.device,
        evaluation=c.evaluation,
        limits=c.target.limits,
        parity=c.parity,
        results={scheme: v.result for scheme, v in c.variants.items()},
        search=search,
        noise=noise,
        latency_ms=latency,
        seconds=clock.seconds,
    )
