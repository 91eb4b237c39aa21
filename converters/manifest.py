"""What a bundle records about its variants: the manifest with its metrics, and the golden outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from converters.evaluate.acceptance import HeldOutEvaluation
from converters.evaluate.divergence import Outputs, split
from converters.quantize.search import SearchResult
from converters.quantize.variants import Target, Variant
from sightline import __version__
from sightline.bundle import Manifest
from sightline.device_config import Scheme

_CONVERTERS = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert")  # packages whose versions are recorded


@dataclass(frozen=True)
class Conversion:
    """A finished conversion, before it is written.

    evaluation: of the float model.
    parity: largest difference between the float TFLite and the original, over the outputs' range.
    variants: {scheme: variant}.
    search: of the static schemes; None without one.
    compiled: {SCHEME_edgetpu: .tflite} from the Edge TPU's compiler.
    edgetpu: the compiler's facts, for the manifest; empty for other devices.
    """

    target: Target
    evaluation: HeldOutEvaluation
    parity: float
    variants: dict[Scheme, Variant]
    search: SearchResult | None
    compiled: dict[str, bytes]
    edgetpu: dict[str, Any]

    @property
    def models(self) -> dict[str, bytes]:
        """{name of the variant: .tflite} of all that the bundle contains."""
        return {**{scheme: v.content for scheme, v in self.variants.items()}, **self.compiled}

    @property
    def files(self) -> dict[str, str]:
        """{name of the variant: name of its file}."""
        return {scheme: f"{self.target.name}.{scheme}.tflite" for scheme in self.models}


def golden_outputs(c: Conversion) -> dict[str, Outputs]:
    """{"SCHEME/output_N": [golden, ...]} of every variant.

    No machine here runs a compiled variant. It must give the outputs of the plain one, because it computes the same
    integers, to within the steps that edge/inference/model.py allows.
    """
    outputs: dict[str, Outputs] = {scheme: v.result.outputs for scheme, v in c.variants.items()}
    outputs |= {scheme: outputs[scheme.removesuffix("_edgetpu")] for scheme in c.compiled}
    return {
        f"{scheme}/output_{i}": part
        for scheme, values in outputs.items()
        for i, part in enumerate(split(values, c.evaluation.source.shapes))
    }


def build_manifest(c: Conversion) -> Manifest:
    source, target = c.evaluation.source, c.target
    return Manifest(
        name=target.name,
        version=source.version,
        device=target.device,
        default=target.schemes[0],
        input=source.input,
        output=source.output,
        variants=c.files,
        metrics={
            "images": len(source.heldout),
            "max_drop": target.limits.max_drop,
            "float32": _float_metrics(c),
            **{s: _variant_metrics(c, v) for s, v in c.variants.items() if s != "float32"},
            "steps": [s.to_json() for s in (c.search.steps if c.search else ()) if s.accepted],
            **({"edgetpu": c.edgetpu} if c.edgetpu else {}),
        },
        provenance={
            **source.provenance,
            "converted_with": {"sightline": __version__, **_versions(_CONVERTERS)},
        },
    )


def _float_metrics(c: Conversion) -> dict[str, Any]:
    evaluation = c.evaluation
    content = c.variants["float32"].content if "float32" in c.variants else evaluation.source.float_model
    return {
        evaluation.metrics.metric: evaluation.quality,
        **(evaluation.float_scores.extra if evaluation.float_scores else {}),
        "bytes": len(content),
        "parity": c.parity,
    }


def _variant_metrics(c: Conversion, variant: Variant) -> dict[str, Any]:
    result = variant.result
    return {
        c.evaluation.metrics.metric: result.quality,
        **result.extra,
        "agreement": result.agreement,
        "worst_drop": result.worst_drop,
        "bytes": result.bytes,
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    return {package: version(package) for package in packages}
