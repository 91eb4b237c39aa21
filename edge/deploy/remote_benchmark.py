"""`sightline bench --to`: measure on another machine, and leave nothing behind there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import click

from edge.deploy.payload import Payload
from edge.deploy.preflight import check_python, gather_facts
from edge.deploy.release import SERVICES, model_files, model_name
from edge.deploy.ssh import Device
from edge.deploy.steps import make_environment
from edge.system.benchmark_report import BenchmarkReport
from sightline.bare_model import read_model

_NAME = "bench~"  # no deployment can have this name


def bench_remotely(
    to: str, ssh_config: Path | None, model: Path, compare: Path | None, arguments: Sequence[str], extra_s: float
) -> BenchmarkReport:
    """Run `sightline bench MODEL ARGUMENTS` on the machine `to`.

    compare: another model to compare with. None = no other one.
    arguments: options of `sightline bench` without --compare.
    extra_s: seconds that it may take longer than other steps.
    Raises DeviceError.
    """
    device = Device(to, ssh_config)
    with device.connected():
        facts = gather_facts(device, _NAME)
        check_python(facts, to)
        environment = make_environment(
            device, facts, False, "auto", Payload(), lambda title, text: click.echo(f"{title:12} {text}", err=True)
        )
        run = secrets.token_hex(4)
        base, other = read_model(model), read_model(compare) if compare else None
        files = model_files(base, "base/")
        line = [f"{SERVICES}/{_NAME}/{run}/base/{model_name(base)}", *arguments, "--json"]
        if other:
            files |= model_files(other, "other/")
            line += ["--compare", f"{SERVICES}/{_NAME}/{run}/other/{model_name(other)}"]
        try:
            device.step("release", _NAME, run, environment, files=files)
            output = device.step("call", environment, "sightline", "bench", *line, extra_s=extra_s)
        finally:
            device.step("remove", _NAME)
    return BenchmarkReport.from_json(json.loads(output.splitlines()[-1]))
