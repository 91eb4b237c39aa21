"""Accuracy of float, naive int8 and Sightline's int8: `python -m benchmarks.accuracy MODEL [MODEL ...] [options]`.

MODEL is what `sightline convert` takes, with its options --data, --calibration, --labels and --normalization. Naive
is ai-edge-quantizer's own static int8 of the same float model, with its own calibration on the same images. All three
are measured on the held-out images. A row fails if it loses more than 0.3 points, if it agrees with float on less
than 98.5 % of the images, or if it is worse than naive. It prints one JSON line for each model.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from ai_edge_litert import interpreter as litert
from ai_edge_quantizer import quantizer, recipe

from benchmarks.agent import show
from converters.evaluate.acceptance import HeldOutEvaluation, Limits, VariantResult
from converters.evaluate.op_snr import latency_ms
from converters.log_capture import capture_output
from converters.quantize.calibrate import observe, ranges
from converters.quantize.quantize import quantize
from converters.quantize.search import Search
from converters.sources.base import ModelOptions, Source
from converters.sources.open import open_source
from sightline.device_config import load_device

MAX_DROP_POINTS, MIN_AGREEMENT = 0.3, 0.985


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path))
@click.option("--calibration", type=click.Path(path_type=Path))
@click.option("--labels", type=click.Path(path_type=Path))
@click.option("--normalization")
def main(models: tuple[Path, ...], **options: Any) -> None:
    print(f"{'model':28}{'':12}{'accuracy':>10}{'points':>8}{'as float':>10}{'KiB':>9}{'ms':>8}{'s':>7}")
    for path in models:
        row(path, ModelOptions(**options))


def row(path: Path, options: ModelOptions) -> None:
    began = time.monotonic()
    source = open_source(path, options)
    converted = time.monotonic() - began
    evaluation = HeldOutEvaluation(source)
    config = load_device("desktop")[1]
    search = Search(source, "static_int8", config)
    result = search.run(evaluation, Limits())
    mine = result.content
    took = time.monotonic() - began
    began = time.monotonic()
    library = naive_int8(source)
    naive_took = converted + time.monotonic() - began

    def ms(content: bytes) -> float:
        return latency_ms(content, source.input, source.golden[0])

    ours, naive = result.result, evaluation.measure("static_int8", library)
    times = {"float_ms": ms(source.float_model), "naive_ms": ms(library), "ms": ms(mine)}
    nothing_lost = evaluation.measure("float32", source.float_model)
    line(path.name, "float32", nothing_lost, times["float_ms"], converted)
    line("", "naive int8", naive, times["naive_ms"], naive_took)
    line("", "sightline", ours, times["ms"], took)
    # without labels every result that differs from float counts as lost
    lost, naive_lost = (100 * (1 - m.agreement) if m.drop is None else m.drop for m in (ours, naive))
    passes = lost <= MAX_DROP_POINTS + 1e-9 and ours.agreement >= MIN_AGREEMENT
    worse = lost > naive_lost + 1e-9 and ours.agreement < naive.agreement
    kept = [f"{step.name} ({step.detail})" for step in result.steps if step.accepted]
    print(
        f"{'':28}{'passes' if passes and not worse else 'FAILS'}{', WORSE' if worse else ''}: {'; '.join(kept)}",
        flush=True,
    )
    show(
        f"accuracy/{path.name}", float32=evaluation.quality or -1, naive_lost=naive_lost,
        naive_agreement=naive.agreement, lost=lost, agreement=ours.agreement,
        float_bytes=nothing_lost.bytes, naive_bytes=naive.bytes, bytes=ours.bytes,
        **times, seconds=took, naive_seconds=naive_took, float_ops=len(result.float_ops), passes=passes and not worse,
    )  # fmt: skip


def naive_int8(source: Source) -> bytes:
    """The library's result if it is used as its documentation describes.

    It can calibrate only a model with a signature. For other models the ranges are the minima and maxima.
    """
    signatures = litert.Interpreter(model_content=source.float_model).get_signature_list()
    if not signatures:
        limits = ranges(observe(source.float_model, source.calibration, source.input), "min_max")
        return quantize(source.float_model, "static_int8", limits, "per_channel")
    ((key, ends),) = signatures.items()
    with capture_output():
        q = quantizer.Quantizer(source.float_model, recipe.static_wi8_ai8())
        frames = source.input.normalize(source.calibration)
        calibrated = q.calibrate({key: [{ends["inputs"][0]: frame[None]} for frame in frames]})
        return bytes(q.quantize(calibrated).quantized_model)


def line(model: str, kind: str, m: VariantResult, ms: float, seconds: float) -> None:
    accuracy = "unknown" if m.quality is None else f"{m.quality:.2%}"
    points = "" if m.drop is None else f"{0 - m.drop:+.2f}"
    quality = f"{accuracy:>10}{points:>8}{m.agreement:>10.2%}"
    print(f"{model:28}{kind:12}{quality}{m.bytes / 1024:>9,.0f}{ms:>8.2f}{seconds:>7.1f}")


if __name__ == "__main__":
    main()
