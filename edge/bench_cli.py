"""`sightline bench`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from edge.bench import Figures, check_noise, cold_start_ms, measure, subjects, sustain
from edge.selftest import Trial, try_in_child
from sightline.bare import read_model
from sightline.device import load_device
from sightline.errors import DeviceError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="As which device; see `sightline devices`.  [default: the bundle's]")
@click.option("--scheme", "schemes", multiple=True, help="Variant; repeatable.  [default: the one that fits]")
@click.option("--threads", multiple=True, type=click.IntRange(1, 64), help="Repeatable.  [default: the device's]")
@click.option("--compare", type=click.Path(path_type=Path), help="Another bundle, measured in turns with this one.")
@click.option("--seconds", type=click.FloatRange(0.1), default=2, show_default=True, help="Of each of 5 rounds.")
@click.option("--sustained", type=click.FloatRange(0), default=0, show_default=True, help="Minutes of work; 0 = none.")
@click.option("--noise", type=click.FloatRange(0), default=10, show_default=True,
              help="Percent that a round may be off; above it nothing is reported.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def bench(
    model: Path, device: str | None, schemes: tuple[str, ...], threads: tuple[int, ...], compare: Path | None,
    seconds: float, sustained: float, noise: float, as_json: bool,
) -> None:  # fmt: skip
    """Try a bundle on this machine: hashes, golden samples, latency.

    First the self-test that a new model has to pass before a running agent takes it, in a process of its own. Then
    rounds: one inference, and a whole frame of the device's camera. Exit code 3 when this machine computes something
    else than was measured, is too slow, or is too noisy to say.
    """
    device = device or read_model(model).manifest.device
    budget = load_device(device)[1].latency_budget_ms
    tried = try_in_child(model, device, schemes[0] if schemes else None)
    if tried.error:
        if as_json:
            click.echo(json.dumps({**asdict(tried), "device": device, "latency_budget_ms": budget}))
        raise DeviceError(f"{model}: {tried.error}")
    chosen = subjects(model, device, schemes, threads)
    own = len(chosen)
    if compare:
        chosen += subjects(compare, device, (), threads[:1])
    figures = measure(chosen, seconds)
    check_noise(figures, noise / 100)
    cold = cold_start_ms(model, device, tried.scheme)
    lasting = sustain(chosen[0], sustained, _minutes) if sustained else None
    ratio = figures[own].whole_ms / figures[0].whole_ms if compare else None
    if as_json:
        told = {**asdict(tried), "device": device, "latency_budget_ms": budget, "cold_start_ms": round(cold, 1)}
        rows = [asdict(f) for f in figures]
        click.echo(json.dumps({**told, "figures": rows, "ratio": ratio, "sustained": lasting and asdict(lasting)}))
        return
    for line in _table(tried, device, budget, cold, figures):
        click.echo(line)
    if ratio is not None:
        off = figures[0].whole_spread + figures[own].whole_spread
        verdict = "no difference that these rounds show" if abs(ratio - 1) <= off else f"{figures[own].name} takes"
        click.echo(f"compared         {verdict}: {ratio:.3f} times as long, give or take {off:.3f}")
    if lasting:
        heat = f", {lasting.hottest:.0f} °C at most" if lasting.hottest is not None else ", no sensor of heat"
        power = f"; {', '.join(lasting.power)}" if lasting.power else ""
        click.echo(
            f"sustained        {lasting.minutes:.1f} min: {lasting.first_ms:.2f} ms a frame at first, "
            f"{lasting.last_ms:.2f} at last{heat}{power}"
        )


def _table(tried: Trial, device: str, budget: int, cold: float, figures: list[Figures]) -> list[str]:
    width = max(len(f.name) for f in figures)
    return [
        f"{tried.name} {tried.version}, as {device}; golden samples as measured; {budget} ms a frame are allowed",
        f"{'':{width}}  {'inference':>16}  {'whole frame':>16}  {'a second':>8}",
        *(
            f"{f.name:{width}}  {_shown(f.model_ms, f.model_spread)}  {_shown(f.whole_ms, f.whole_spread)}"
            f"  {1000 / f.whole_ms:>8.1f}"
            for f in figures
        ),
        f"cold start       {cold:.0f} ms, from nothing to the first answer",
        f"memory           {tried.rss_mb:.0f} MB",
    ]


def _shown(ms: float, spread: float) -> str:
    return f"{ms:>8.2f} ms ±{spread:>3.0%}"


def _minutes(done: float) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done:.1f} min", nl=False, err=True)
