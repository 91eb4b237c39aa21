"""`sightline bench`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edge.benchmark import check_noise, cold_start_ms, compared, measure, soak_test, subjects
from edge.inference.self_test import try_in_child
from edge.system.hardware import read_hardware
from sightline import __version__
from sightline.bare_model import read_model
from sightline.bundle import add_evidence
from sightline.device import load_device
from sightline.errors import ConfigError, DeviceError
from sightline.options import READ, READ_FILE, Number, Whole
from sightline.timestamps import utc_now


@click.command()
@click.argument("model", type=READ)
@click.option("--device", help="As which device; see `sightline devices`.  [default: the bundle's]")
@click.option("--scheme", "schemes", multiple=True, help="Variant; repeatable.  [default: the one that fits]")
@click.option("--threads", multiple=True, type=Whole(1, 64), help="Repeatable.  [default: the device's]")
@click.option("--compare", type=READ, help="Another bundle, measured in turns with this one.")
@click.option("--seconds", type=Number(0.1, 3600), default=2, show_default=True, help="Of each of 5 rounds.")
@click.option("--sustained", type=Number(0, 10080), default=0, show_default=True, help="Minutes of work; 0 = none.")
@click.option("--noise", type=Number(0, 1e6), default=10, show_default=True,
              help="Percent that a round may be off; above it nothing is reported.")  # fmt: skip
@click.option("--to", metavar="USER@HOST", help="Measure there, over ssh, and leave nothing behind.")
@click.option("--ssh-config", type=READ_FILE, help="Of ssh, with --to.")
@click.option("--evidence", is_flag=True, help="Write the result into the bundle's manifest.")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def bench(
    model: Path, device: str | None, schemes: tuple[str, ...], threads: tuple[int, ...], compare: Path | None,
    seconds: float, sustained: float, noise: float, to: str | None, ssh_config: Path | None, evidence: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Try a bundle on this machine: hashes, golden samples, latency.

    First the self-test that a new model has to pass before a running agent takes it, in a process of its own. Then
    rounds: one inference, and a whole frame of the device's camera. Exit code 3 when this machine computes something
    else than was measured, is too slow, or is too noisy to say. --to measures on another machine, which needs Python
    and ssh alone.
    """
    device = device or read_model(model).manifest.device
    load_device(device)
    if evidence and not model.is_dir():
        raise ConfigError(f"--evidence: {model} is no bundle, and has no manifest")
    if to:
        from edge.deploy.remote_benchmark import bench_there  # it brings ssh, tar and zip

        options = ["--device", device, "--seconds", f"{seconds:g}", "--sustained", f"{sustained:g}"]
        options += ["--noise", f"{noise:g}", *(word for s in schemes for word in ("--scheme", s))]
        options += [word for n in threads for word in ("--threads", str(n))]
        told = bench_there(to, ssh_config, model, compare, options, 60 * sustained)
    else:
        told = _measure(model, device, schemes, threads, compare, seconds, sustained, noise)
    if evidence and not told["error"]:
        add_evidence(model, {k: told[k] for k in _EVIDENCE} | {"at": utc_now(), "version": __version__})
    if as_json:
        click.echo(json.dumps(told))
    if told["error"]:
        raise DeviceError(f"{model}: {told['error']}")
    if not as_json:
        for line in _table(told):
            click.echo(line)
        if evidence:
            click.echo(f"evidence         is in {model / 'manifest.json'}")


_EVIDENCE = ("machine", "device", "scheme", "sha256", "figures", "cold_start_ms", "rss_mb", "sustained")


def _measure(
    model: Path, device: str, schemes: tuple[str, ...], threads: tuple[int, ...], compare: Path | None,
    seconds: float, sustained: float, noise: float,
) -> dict[str, Any]:  # fmt: skip
    """What `--json` prints. Raises InputError, and DeviceError where it is too noisy to say."""
    here = read_hardware()
    told: dict[str, Any] = {
        "machine": f"{here.board}, {here.cores} cores, {here.system}, {here.architecture}",
        "device": device,
        "latency_budget_ms": load_device(device)[1].latency_budget_ms,
    }
    tried = try_in_child(model, device, schemes[0] if schemes else None)
    told |= asdict(tried)
    if tried.error:
        return told
    chosen = subjects(model, device, schemes, threads)
    own = len(chosen)
    if compare:
        chosen += subjects(compare, device, (), threads[:1])
    figures = measure(chosen, seconds)
    check_noise(figures, noise / 100)
    cold = cold_start_ms(model, device, tried.scheme)  # before the machine is hot
    lasting = soak_test(chosen[0], sustained, _minutes) if sustained else None
    return told | {
        "figures": [asdict(f) for f in figures],
        "compared": asdict(compared(figures[0], figures[own])) if compare else None,
        "cold_start_ms": round(cold, 1),
        "sustained": asdict(lasting) if lasting else None,
    }


def _table(told: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    figures = told["figures"]
    width = max(len(f["name"]) for f in figures)
    lines = [
        told["machine"],
        f"{told['name']} {told['version']}, as {told['device']}; golden samples as measured; "
        f"{told['latency_budget_ms']} ms a frame are allowed",
        f"{'':{width}}  {'inference':>16}  {'whole frame':>16}  {'a second':>8}",
        *(
            f"{f['name']:{width}}  {_shown(f['model_ms'], f['model_spread'])}  "
            f"{_shown(f['whole_ms'], f['whole_spread'])}  {1000 / f['whole_ms']:>8.1f}"
            for f in figures
        ),
        f"cold start       {told['cold_start_ms']:.0f} ms, from nothing to the first answer",
        f"memory           {told['rss_mb']:.0f} MB",
    ]
    if c := told["compared"]:
        verdict = f"{c['name']} takes" if abs(c["ratio"] - 1) > c["off"] else "no difference that these rounds show"
        lines.append(f"compared         {verdict}: {c['ratio']:.3f} times as long, give or take {c['off']:.3f}")
    if s := told["sustained"]:
        heat = f", {s['hottest']:.0f} °C at most" if s["hottest"] is not None else ", no sensor of heat"
        power = f"; {', '.join(s['power'])}" if s["power"] else ""
        lines.append(
            f"sustained        {s['minutes']:.1f} min: {s['first_ms']:.2f} ms a frame at first, "
            f"{s['last_ms']:.2f} at last{heat}{power}"
        )
    return lines


def _shown(ms: float, spread: float) -> str:
    return f"{ms:>8.2f} ms ±{spread:>3.0%}"


def _minutes(done: float) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done:.1f} min", nl=False, err=True)
