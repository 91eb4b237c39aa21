"""`sightline devices`."""

from __future__ import annotations

import dataclasses
import json

import click

from edge.system.hardware import Hardware, read_hardware
from sightline.device_config import device_names, load_device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def devices(as_json: bool) -> None:
    """Describe this machine's hardware and list the supported devices.

    The first part shows the board, the cameras as values for --source, the accelerators, and problems such as
    undervoltage. The second part lists the names for --device. A * marks those that fit this machine.
    """
    configs = {name: load_device(name)[1] for name in device_names()}
    machine = read_hardware()
    if as_json:
        supported = {name: dataclasses.asdict(config) for name, config in configs.items()}
        click.echo(json.dumps({"machine": dataclasses.asdict(machine), "devices": supported}))
        return
    for line in describe(machine):
        click.echo(line)
    click.echo()
    fitting = (machine.device, *(a.device for a in machine.accelerators if a.device))
    for name, c in configs.items():
        click.echo(f"{'*' if name in fitting else ' '} {name:22} {c.scheme:22} {c.delegate:8} {c.title}")
    click.echo("* fits this machine")


def describe(machine: Hardware) -> list[str]:
    """The machine's description as lines of text."""
    plural = "" if machine.cores == 1 else "s"
    memory = f"{machine.memory_mb / 1024:.1f} GiB" if machine.memory_mb else "memory unknown"
    lines = [
        f"this machine   {machine.board}, {machine.cores} core{plural}, {memory}",
        f"system         {machine.system}, {machine.architecture}, Python {machine.python}",
        f"run with       --device {machine.device}",
    ]
    for k, camera in enumerate(machine.cameras):
        text = f"{camera.name}: {'; '.join(camera.formats) or 'picamera2 chooses the format'}"
        title = "cameras" if k == 0 else ""
        lines.append(f"{title:15}--source {camera.source}   {camera.problem or text}")
    if not machine.cameras:
        lines.append("cameras        none")
    for a in machine.accelerators:
        use = f"--device {a.device}" if a.device else ""
        lines.append(f"accelerator    {a.name}   {a.problem or use}")
    return lines + [f"problem        {problem}" for problem in machine.problems]
