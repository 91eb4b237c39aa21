"""`sightline devices`."""

from __future__ import annotations

import dataclasses
import json

import click

from sightline.device import device_names, load_device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def devices(as_json: bool) -> None:
    """List the devices that Sightline knows."""
    configs = {name: load_device(name)[1] for name in device_names()}
    if as_json:
        click.echo(json.dumps({name: dataclasses.asdict(config) for name, config in configs.items()}))
        return
    for name, c in configs.items():
        click.echo(f"{name:22} {c.scheme:22} {c.delegate:8} {c.title}")
