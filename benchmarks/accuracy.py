"""Float, naive int8 and Sightline's int8, side by side: `python -m benchmarks.accuracy MODEL [MODEL ...] [options]`.

MODEL is what `sightline convert` takes, with its options --data, --calibration, --labels and --normalization. Naive is
ai-edge-quantizer's own static int8 of the same float model with the same calibration pictures, by its own calibration.
All three are measured on the held-out pictures. A row that loses more than 0.3 points, gives float's answer on less
than 98.5 %, or is worse than naive, is marked as failing. One JSON line a model.
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
from converters.log_capture import to_log
from converters.quantize.calibrate import observe, ranges
from converters.quantize.quantize import quantize
from converters.quantize.search import Search
from converters.sources.base import ModelOptions, Source
from converters.sources.open import open_source
from sightline.device import load_device

DROP, AGREEMENT = 0.3, 0.985


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


def row(path: Path, given: ModelOptions) -> None:
    began = time.monotonic()
    source = open_source(path, given)
    converted = time.monotonic() - began
    exam = HeldOutEvaluation(source, lambda done, total: None)
    config = load_device("desktop")[1]
    search = Search(source, "static_int8", config, lambda content: content, lambda line: None)
    found = search.run(exam, Limits())
    mine = found.content
    took = time.monotonic() - began
    began = time.monotonic()
    library = naive_int8(source)
    naive_took = converted + time.monotonic() - began

    def ms(content: bytes) -> float:
        return latency_ms(content, source.input, source.golden[0])

    ours, naive = found.measured, exam.measure("static_int8", library)
    times = {"float_ms": ms(source.float_model), "naive_ms": ms(library), "ms": ms(mine)}
    nothing_lost = exam.measure("float32", source.float_model)
    line(path.name, "float32", nothing_lost, times["float_ms"], converted)
    line("", "naive int8", naive, times["naive_ms"], naive_took)
    line("", "sightline", ours, times["ms"], took)
    # without labels every other answer counts as lost
    lost, naive_lost = (100 * (1 - m.agreement) if m.drop is None else m.drop for m in (ours, naive))
    passes = lost <= DROP + 1e-9 and ours.agreement >= AGREEMENT
    worse = lost > naive_lost + 1e-9 and ours.agreement < naive.agreement
    kept = [f"{step.name} ({step.detail})" for step in found.steps if step.kept]
    print(
        f"{'':28}{'passes' if passes and not worse else 'FAILS'}{', WORSE' if worse else ''}: {'; '.join(kept)}",
        flush=True,
    )
    show(
        f"accuracy/{path.name}", float32=exam.quality or -1, naive_lost=naive_lost, naive_agreement=naive.agreement,
        lost=lost, agreement=ours.agreement, float_bytes=nothing_lost.bytes, naive_bytes=naive.bytes, bytes=ours.bytes,
        **times, seconds=took, naive_seconds=naive_took, float_ops=len(found.float_ops), passes=passes and not worse,
    )  # fmt: skip


def naive_int8(source: Source) -> bytes:
    """What the library gives when it is used as its documentation says; with minima and maxima where the model has no
    signature, by which alone it calibrates."""
    signatures = litert.Interpreter(model_content=source.float_model).get_signature_list()
    if not signatures:
        limits = ranges(observe(source.float_model, source.calibration, source.input), "min_max")
        return quantize(source.float_model, "static_int8", limits, "per_channel")
    ((key, ends),) = signatures.items()
    with to_log():
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
