"""The conversion, from top to bottom: open, convert, quantize, look inside, measure, judge, write."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.edgetpu.compiler import compile_variants
from converters.edgetpu.lowering import lower
from converters.evaluate.acceptance import (
    DEFAULT_LIMITS,
    HeldOutEvaluation,
    Limits,
    VariantResult,
    check_integer,
    check_parity,
    judge,
)
from converters.evaluate.divergence import split
from converters.evaluate.op_snr import OpNoise, latency_ms, op_noise
from converters.evaluate.run import Progress
from converters.quantize.quantize import quantize
from converters.quantize.search import Search, SearchResult, requantize
from converters.report.conversion import Report, render, steps, to_json
from converters.sources.base import DEFAULTS, ModelOptions
from converters.sources.open import open_source
from converters.tflite.metadata_writer import with_metadata
from sightline import __version__
from sightline.bundle import Manifest, name_of_new, write_bundle
from sightline.device import Scheme, load_device
from sightline.errors import QualityError
from sightline.files import write_file
from sightline.npz import pack

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Converted:
    """bundle: where it is. quality: of float32 on `pictures` held-out ones, None where they have no labels; metric,
    title: what of, for programs and for people.
    float_bytes: size of the float TFLite."""

    bundle: Path
    device: str
    quality: float | None
    pictures: int
    float_bytes: int
    measured: dict[Scheme, VariantResult]
    metric: str = "accuracy"
    title: str = "accuracy"


def convert(
    model: Path | str | nn.Module,
    out: Path | str,
    *,
    device: str,
    size: tuple[int, int] | None = None,
    schemes: Sequence[Scheme] = (),
    given: ModelOptions = DEFAULTS,
    limits: Limits = DEFAULT_LIMITS,
    say: Any = lambda line: None,
    progress: Progress = lambda done, total: None,
) -> Converted:
    """Convert a run, anybody's model or a PyTorch module for a device: write the bundle `out` and its report beside it,
    or raise and leave nothing.

    model: see `open_source`. size: (width, height) of the pictures that a module takes; files know theirs.
    schemes: the first one is what runs by default; none = the device's own. given: what a model does not say of itself;
    see `ModelOptions`. limits: of what may be lost against float32 on the held-out pictures. say: told each step.
    """
    out = Path(out)
    device_name, config = load_device(device)
    name = name_of_new(out)
    chosen: tuple[Scheme, ...] = tuple(dict.fromkeys(schemes)) or (config.scheme,)

    clock = _Clock()
    source = open_source(model, given, say, size=size)

    def describe(content: bytes) -> bytes:
        return with_metadata(content, name=name, version=source.version, input=source.input, output=source.output)

    def finish(content: bytes) -> bytes:
        return describe(lower(content) if config.delegate == "edgetpu" else content)

    float_model = source.float_model
    parity = check_parity(source)
    say(f"float TFLite: {len(float_model) / 1024:,.0f} KiB, within {parity:.1e} of {source.origin}")
    clock.lap("to float TFLite")

    exam = HeldOutEvaluation(source, progress)
    metric = exam.rules.metric
    clock.lap("float on held-out pictures")
    models: dict[Scheme, bytes] = {}
    measured: dict[Scheme, VariantResult] = {}
    found: SearchResult | None = None  # the static schemes differ in their ends alone: what suits one suits the others
    for scheme in chosen:
        if scheme.startswith("static"):
            found = found or Search(source, scheme, config, finish, say).run(exam, limits)
            again = found.scheme != scheme
            content = finish(requantize(found, scheme, config.fully_connected)) if again else found.content
            m = exam.measure(scheme, content) if again else found.measured
            check_integer(content, scheme, source.input, found.float_ops)
        else:
            content = describe(quantize(float_model, scheme, {}, config.fully_connected))
            m = exam.measure(scheme, content)
        if config.max_model_kib and len(content) > config.max_model_kib * 1024:
            raise QualityError(
                f"{scheme}: {len(content) / 1024:,.0f} KiB are more than {device_name} takes "
                f"(max_model_kib: {config.max_model_kib:,}); train a smaller --arch"
            )
        measured[scheme], models[scheme] = exam.control(m, content), content
        judge(measured[scheme], exam, limits)
        say(f"{scheme}: {len(content) / 1024:,.0f} KiB, float32's answer on {measured[scheme].agreement:.2%}")

    clock.lap("quantization and its examination")
    golden = {
        f"{scheme}/output_{i}": part
        for scheme, m in measured.items()
        for i, part in enumerate(split(m.outputs, source.shapes))
    }
    everything: dict[str, bytes] = {**models}
    edge: dict[str, Any] = {}
    if config.delegate == "edgetpu":
        compiled, edge = compile_variants(models, say)
        everything |= compiled
        # nothing here runs a compiled variant: what it must give is what the plain one gave, for it computes the same
        # integers, to within the steps that edge/inference/model.py allows
        golden |= {
            f"{s}/output_{i}": golden[f"{s.removesuffix('_edgetpu')}/output_{i}"]
            for s in compiled
            for i in range(len(source.shapes))
        }
    variants = {scheme: f"{name}.{scheme}.tflite" for scheme in everything}
    manifest = Manifest(
        name=name,
        version=source.version,
        device=device_name,
        default=chosen[0],
        input=source.input,
        output=source.output,
        variants=variants,
        metrics={
            "pictures": len(source.heldout),
            "max_drop": limits.max_drop,
            "float32": {
                metric: exam.quality,
                **(exam.float_quality.more if exam.float_quality else {}),
                "bytes": len(models.get("float32", float_model)),
                "parity": parity,
            },
            **{
                s: {
                    metric: m.quality,
                    **m.more,
                    "agreement": m.agreement,
                    "worst_drop": m.worst_drop,
                    "bytes": m.bytes,
                }
                for s, m in measured.items()
                if s != "float32"
            },
            "steps": [s for s in steps(found) if s["kept"]],
            **({"edgetpu": edge} if edge else {}),
        },
        provenance={
            **source.provenance,
            "converted_with": {
                "sightline": __version__,
                **{p: version(p) for p in ("litert-torch", "ai-edge-quantizer", "ai-edge-litert")},
            },
        },
    )
    files = {variants[s]: content for s, content in everything.items()}
    files["golden.npz"] = pack(frames=source.golden, **golden)
    noise: list[OpNoise] = []
    if found:
        static = next(s for s in chosen if s.startswith("static"))
        noise = op_noise(found.float_model, models[static], source.golden, source.input)
    frame = source.golden[0]
    latency = {s: latency_ms(content, source.input, frame) for s, content in {"float32": float_model, **models}.items()}
    clock.lap("report")
    report = Report(name, device_name, exam, limits, parity, measured, found, noise, latency, clock.seconds)
    write_bundle(out, manifest, files)
    write_file(report_path(out), render(report).encode())
    write_file(report_path(out).with_suffix(".json"), (json.dumps(to_json(report), indent=2) + "\n").encode())
    return Converted(
        out, device_name, exam.quality, len(source.heldout), len(float_model), measured, metric, exam.rules.title
    )


def report_path(bundle: Path) -> Path:
    """NAME.report.html beside NAME.bundle; the same ending in .json is for programs."""
    return bundle.with_suffix(".report.html")


class _Clock:
    """Seconds of each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase], self._began = now - self._began, now
