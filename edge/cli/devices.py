"""`sightline devices`."""

from __future__ import annotations

import dataclasses
import json

import click

from edge.system.hardware import Hardware, read_hardware
from sightline.device import device_names, load_device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def devices(as_json: bool) -> None:
    """Say what this machine is, and list the devices that Sightline knows."""
    configs = {name: load_device(name)[1] for name in device_names()}
    here = read_hardware()
    if as_json:
        told = {name: dataclasses.asdict(config) for name, config in configs.items()}
        click.echo(json.dumps({"here": dataclasses.asdict(here), "devices": told}))
        return
    for line in describe(here):
        click.echo(line)
    click.echo()
    for name, c in configs.items():
        click.echo(f"{'*' if name in _fitting(here) else ' '} {name:22} {c.scheme:22} {c.delegate:8} {c.title}")
    click.echo("* fits this machine")


def _fitting(here: Hardware) -> tuple[str, ...]:
    return here.fits, *(a.device for a in here.accelerators if a.device)


def describe(here: Hardware) -> list[str]:
    """For people."""
    plural = "" if here.cores == 1 else "s"
    memory = f"{here.memory_mb / 1024:.1f} GiB" if here.memory_mb else "memory unknown"
    lines = [
        f"this machine   {here.board}, {here.cores} core{plural}, {memory}",
        f"system         {here.system}, {here.architecture}, Python {here.python}",
        f"run with       --device {here.fits}",
    ]
    for k, camera in enumerate(here.cameras):
        text = f"{camera.name}: {'; '.join(camera.formats) or 'formats as picamera2 has them'}"
        title = "cameras" if k == 0 else ""
        lines.append(f"{title:15}--source {camera.source}   {camera.problem or text}")
    if not here.cameras:
        lines.append("cameras        none")
    for a in here.accelerators:
        use = f"--device {a.device}" if a.device else ""
        lines.append(f"accelerator    {a.name}   {a.problem or use}")
    return lines + [f"problem        {problem}" for problem in here.problems]
