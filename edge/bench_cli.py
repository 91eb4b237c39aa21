"""`sightline bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from edge.selftest import try_in_child
from sightline.bare import read_model
from sightline.device import load_device
from sightline.errors import DeviceError


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", help="As which device; see `sightline devices`.  [default: the bundle's]")
@click.option("--scheme", help="Variant of the bundle.  [default: the one that fits the device]")
@click.option("--json", "as_json", is_flag=True, help="The figures as one JSON object.")
def bench(model: Path, device: str | None, scheme: str | None, as_json: bool) -> None:
    """Try a bundle on this machine: hashes, golden samples, latency.

    The same self-test that a new model has to pass before a running agent takes it. Exit code 3 when this machine
    computes something else than was measured, or is too slow.
    """
    device = device or read_model(model).manifest.device
    budget = load_device(device)[1].latency_budget_ms
    tried = try_in_child(model, device, scheme)
    if as_json:
        click.echo(json.dumps({**asdict(tried), "device": device, "latency_budget_ms": budget}))
    else:
        click.echo(f"{tried.name} {tried.version}, {tried.scheme}, as {device}")
        click.echo("golden samples   as measured")
        click.echo(
            f"one inference    {tried.p50_ms:.2f} ms (p50), {tried.p95_ms:.2f} ms (p95); {budget} ms are allowed"
        )
        click.echo(f"loading          {tried.load_ms:.0f} ms")
        click.echo(f"memory           {tried.rss_mb:.0f} MB")
    if tried.error:
        raise DeviceError(f"{model}: {tried.error}")
