"""`sightline bench --to`: measured on another machine, which is left as it was."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from edge.deploy.payload import Payload
from edge.deploy.preflight import check_python, gather_facts
from edge.deploy.release import SERVICES, model_files, place_of
from edge.deploy.ssh import Device
from edge.deploy.steps import make_environment
from sightline.bare_model import read_model

_NAME = "bench~"  # no deployment can be called so


def bench_there(
    to: str, ssh_config: Path | None, model: Path, compare: Path | None, options: Sequence[str], seconds: float
) -> dict[str, Any]:
    """What `sightline bench MODEL OPTIONS --json` prints there. seconds: that it may take longer than any other step.
    Raises DeviceError."""
    device = Device(to, ssh_config)
    with device.connected():
        found = gather_facts(device, _NAME)
        check_python(found, to)
        environment = make_environment(
            device, found, False, "auto", Payload(), lambda title, text: click.echo(f"{title:12} {text}", err=True)
        )
        run = secrets.token_hex(4)
        one, other = read_model(model), read_model(compare) if compare else None
        files = model_files(one, "one/")
        line = [f"{SERVICES}/{_NAME}/{run}/one/{place_of(one)}", *options, "--json"]
        if other:
            files |= model_files(other, "other/")
            line += ["--compare", f"{SERVICES}/{_NAME}/{run}/other/{place_of(other)}"]
        try:
            device.step("release", _NAME, run, environment, files=files)
            said = device.step("call", environment, "sightline", "bench", *line, longer_s=seconds)
        finally:
            device.step("remove", _NAME)
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told
