"""What `sightline bench` measured, as values and as JSON. `sightline deploy` reads it from the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from edge.inference.self_test import Trial


@dataclass(frozen=True)
class Figures:
    """Latency of one variant with one number of threads.

    name: bundle, scheme and threads.
    model_ms: one inference. whole_ms: one camera frame, resized, run through the model and decoded. Both are the median
        of the rounds' medians.
    model_spread, whole_spread: largest deviation of a round's median from that, as a share of it.
    """

    name: str
    model_ms: float
    model_spread: float
    whole_ms: float
    whole_spread: float


@dataclass(frozen=True)
class Comparison:
    """Another bundle, compared with the measured one.

    ratio: duration of a whole frame of the bundle `name`, divided by that of the measured bundle.
    uncertainty: how far the ratio may be off.
    """

    name: str
    ratio: float
    uncertainty: float


@dataclass(frozen=True)
class SoakResult:
    """A long run without pauses.

    minutes: its duration.
    first_ms, last_ms: median duration of a whole frame in its first and in its last part.
    hottest: highest temperature in degrees Celsius; None = no sensor.
    power: problems of a Raspberry Pi's power supply during the run.
    """

    minutes: float
    first_ms: float
    last_ms: float
    hottest: float | None
    power: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkReport:
    """A bundle on one machine.

    machine: board, cores and system.
    device: name of the device config.
    latency_budget_ms: what the device config allows for a frame.
    trial: result of the self-test. If it has an error, nothing else was measured.
    figures: one entry for each scheme and number of threads; empty if only the self-test ran.
    compared: None = there was no other bundle.
    cold_start_ms: from the start of a process to its first result; None = not measured.
    sustained: None = not measured.
    """

    machine: str
    device: str
    latency_budget_ms: float
    trial: Trial
    figures: tuple[Figures, ...] = ()
    compared: Comparison | None = None
    cold_start_ms: float | None = None
    sustained: SoakResult | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat JSON object: the fields of `trial` stand beside the others."""
        document = asdict(self)
        trial: dict[str, Any] = document.pop("trial")
        return trial | document

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> BenchmarkReport:
        """The report in an object of `to_json`, written by this version. Raises KeyError and TypeError."""
        compared, sustained = document["compared"], document["sustained"]
        return BenchmarkReport(
            machine=document["machine"],
            device=document["device"],
            latency_budget_ms=document["latency_budget_ms"],
            trial=Trial(**{field.name: document[field.name] for field in fields(Trial)}),
            figures=tuple(Figures(**entry) for entry in document["figures"]),
            compared=Comparison(**compared) if compared else None,
            cold_start_ms=document["cold_start_ms"],
            sustained=SoakResult(**{**sustained, "power": tuple(sustained["power"])}) if sustained else None,
        )
