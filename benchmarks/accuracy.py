"""Float, naive int8 and Sightline's int8, side by side: `python -m benchmarks.accuracy RUN [RUN ...]`.

Naive is ai-edge-quantizer's own static int8 on the same float model and the same calibration pictures, with its own
calibration. All three are measured on the run's held-out pictures. A row that loses more than 0.3 points, agrees with
float on less than 98.5 %, or is worse than naive, is marked as failing. One JSON line a model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ai_edge_litert import interpreter as litert
from ai_edge_quantizer import quantizer, recipe

from benchmarks.agent import show
from converters.analysis import latency_ms
from converters.noise import to_log
from converters.search import Search, requantize
from converters.source import Given, Source, open_source
from converters.verify import Examination, Limits
from sightline.device import load_device
from sightline.interpreter import Interpreter

DROP, AGREEMENT = 0.3, 0.985


def main() -> None:
    print(f"{'model':28}{'':12}{'accuracy':>10}{'points':>8}{'as float':>10}{'KiB':>9}{'ms':>8}{'s':>7}")
    for path in map(Path, sys.argv[1:]):
        row(path)


def row(path: Path) -> None:
    began = time.monotonic()
    source = open_source(path, Given())
    exam = Examination(source, lambda done, total: None)
    converted = time.monotonic() - began
    found = Search(source, "static_int8", load_device("desktop")[1], lambda content: content, lambda line: None).run(
        exam, Limits()
    )
    ours = exam.measure("static_int8", requantize(found, "static_int8", "per_channel"))
    took = time.monotonic() - began
    began = time.monotonic()
    content = naive_int8(source)
    naive_took = converted + time.monotonic() - began
    naive = exam.measure("static_int8", content)

    ms = {
        "float32": latency_ms(source.float_model, source.input, source.golden[0]),
        "naive": latency_ms(content, source.input, source.golden[0]),
        "sightline": latency_ms(requantize(found, "static_int8", "per_channel"), source.input, source.golden[0]),
    }
    accuracy = exam.accuracy or 0.0
    line(path.name, "float32", accuracy, 0.0, 1.0, len(source.float_model), ms["float32"], converted)
    assert naive.accuracy is not None and naive.drop is not None and ours.accuracy is not None and ours.drop is not None
    line("", "naive int8", naive.accuracy, naive.drop, naive.agreement, naive.bytes, ms["naive"], naive_took)
    line("", "sightline", ours.accuracy, ours.drop, ours.agreement, ours.bytes, ms["sightline"], took)
    worse = ours.drop > naive.drop + 1e-9 and ours.agreement < naive.agreement
    fails = ours.drop > DROP + 1e-9 or ours.agreement < AGREEMENT or worse
    kept = [step.name for step in found.steps if step.kept]
    print(
        f"{'':28}{'FAILS' if fails else 'passes'}; kept: {', '.join(kept)}; {len(found.float_ops)} ops in float",
        flush=True,
    )
    show(
        f"accuracy/{path.name}", float32=accuracy, naive_drop=naive.drop, naive_agreement=naive.agreement,
        drop=ours.drop, agreement=ours.agreement, bytes=ours.bytes, float_bytes=len(source.float_model),
        float_ms=ms["float32"], naive_ms=ms["naive"], ms=ms["sightline"], seconds=took, naive_seconds=naive_took,
        float_ops=len(found.float_ops), passes=not fails,
    )  # fmt: skip


def naive_int8(source: Source) -> bytes:
    """What the library gives when it is used as its documentation says."""
    with to_log():
        q = quantizer.Quantizer(source.float_model, recipe.static_wi8_ai8())
        frames = source.input.normalize(source.calibration)
        signatures = litert.Interpreter(model_content=source.float_model).get_signature_list()
        key, ends = next(iter(signatures.items()), (None, {"inputs": [Interpreter(source.float_model).input.name]}))
        calibrated = q.calibrate({key: [{ends["inputs"][0]: frame[None]} for frame in frames]})
        return bytes(q.quantize(calibrated).quantized_model)


def line(
    model: str, kind: str, accuracy: float, drop: float, agreement: float, size: int, ms: float, seconds: float
) -> None:
    quality = f"{accuracy:>10.2%}{0 - drop:>+8.2f}{agreement:>10.2%}"
    print(f"{model:28}{kind:12}{quality}{size / 1024:>9,.0f}{ms:>8.2f}{seconds:>7.1f}")


if __name__ == "__main__":
    main()
