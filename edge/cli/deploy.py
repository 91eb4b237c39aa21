"""`sightline deploy`: install a bundle on devices over SSH."""

from __future__ import annotations

import getpass
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from edge.cli.service import check_options
from edge.deploy.inventory import Host, read_hosts
from edge.deploy.payload import Payload
from edge.deploy.preflight import PasswordNeeded
from edge.deploy.release import ReleaseSpec, Wheels
from edge.deploy.ssh import Device
from edge.deploy.steps import NotStarted, OnStep, Outcome
from edge.deploy.steps import deploy as deploy_one
from edge.deploy.steps import remove as remove_one
from edge.system.run_arguments import device_of
from edge.system.systemd_unit import check_unit_name
from sightline.bare_model import read_model
from sightline.device_config import load_device
from sightline.errors import ConfigError, SightlineError
from sightline.option_types import READ, READ_FILE, Number
from sightline.text import printable

MAX_PARALLEL = 8  # devices that are deployed to at the same time


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("bundle", type=READ)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--to", multiple=True, metavar="USER@HOST",
              help="Device to deploy to, as an address or alias that ssh takes. Repeatable.")  # fmt: skip
@click.option("--inventory", type=READ_FILE, metavar="FILE",
              help="YAML list of devices, each with `to` and optionally `options`, `name` and `env_file`.")  # fmt: skip
@click.option("--name", metavar="NAME",
              help="Name of the deployment and of its unit, sightline-NAME.service.  "
              "[default: the bundle's name]")  # fmt: skip
@click.option("--env-file", type=READ_FILE, metavar="FILE",
              help="File with NAME=value lines. They replace ${NAME} in addresses. The file is copied to the device, "
              "where only its owner can read it.")  # fmt: skip
@click.option("--wheels", type=click.Choice(["auto", "index", "carry"]), default="auto", show_default=True,
              help="Where the device's Python packages come from. index: the device's own index. carry: copied from "
              "this machine. auto: copied only if the device reaches no index.")  # fmt: skip
@click.option("--trial", type=Number(0, 3600), default=1, show_default=True, metavar="SECONDS",
              help="Duration of each of the 5 benchmark rounds on the device. 0 runs only the self-test.")  # fmt: skip
@click.option("--new-token", is_flag=True, help="Replace the token of the live page and print the new one.")
@click.option("--remove", is_flag=True, help="Remove the deployment and everything that it wrote.")
@click.option("--ssh-config", type=READ_FILE, metavar="FILE",
              help="Configuration file for ssh.  [default: ssh's own]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result of all devices as one JSON object at the end.")
def deploy(
    bundle: Path, options: tuple[str, ...], to: tuple[str, ...], inventory: Path | None, name: str | None,
    env_file: Path | None, wheels: Wheels, trial: float, new_token: bool, remove: bool, ssh_config: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Install a bundle and its agent on devices over SSH, and start the service.

    OPTIONS are those of `sightline run` and follow a `--`. Without --source the agent uses the device's only camera.
    A device needs an SSH server, Python 3.10 to 3.13, systemd and sudo.

    The new model is tested on the device while the previous agent runs on. Then the new agent must report ready and
    stay up. If it does not, deploy rolls back to the previous release and prints the failed agent's log. You can repeat
    the command at any time. Parts that are already installed are kept.
    """
    hosts = read_hosts(to, inventory)
    model = read_model(bundle)
    common_name = check_unit_name(name or model.manifest.name)
    secret = env_file.read_bytes() if env_file else None
    common = ReleaseSpec(model, common_name, options, secret, wheels, trial, new_token)
    specs = {} if remove else {host: _make_spec(host, common) for host in hosts}
    session = _Session(common_name, specs, ssh_config, several=len(hosts) > 1, as_json=as_json)
    with ThreadPoolExecutor(MAX_PARALLEL) as pool:
        # Deployments on the same device run one after the other, because each takes the first free port.
        groups = [[host for host in hosts if host.to == address] for address in dict.fromkeys(h.to for h in hosts)]
        results = pool.map(lambda group: [session.process(host) for host in group], groups)
        outcomes = [outcome for result in results for outcome in result]
    if session.several:
        for line in _summary(outcomes):
            click.echo(printable(line), err=as_json)
    if as_json:
        click.echo(json.dumps({"devices": [outcome.to_json() for outcome in outcomes]}))
    return max(outcome.exit_code for outcome in outcomes)


def _make_spec(host: Host, common: ReleaseSpec) -> ReleaseSpec:
    """The release for one device. Raises ConfigError, before any device changes."""
    options = (*common.options, *host.options)
    check_options(common.bundle.path, options)
    device = device_of(options, common.bundle)
    if load_device(device)[1].runner != "agent":
        raise ConfigError(f"--device {device}: the agent does not run on it. Choose another one: -- --device NAME")
    secret = Path(host.env_file).read_bytes() if host.env_file else common.env_file
    return replace(common, name=check_unit_name(host.name or common.name), options=options, env_file=secret)


@dataclass(frozen=True)
class _Session:
    """One call of the command, for all its devices.

    common_name: name of the deployments without a name of their own.
    specs: the release for each device. Empty = the deployments are removed.
    several: there is more than one device. Then errors do not end the others, and ssh asks nothing.

    Threads: each device, with all its deployments, belongs to one thread of the pool. The fields do not change.
    `payload` locks itself, and `print_lock` keeps the lines of two threads apart.
    """

    common_name: str
    specs: Mapping[Host, ReleaseSpec]
    ssh_config: Path | None
    several: bool
    as_json: bool
    payload: Payload = field(default_factory=Payload)
    print_lock: threading.Lock = field(default_factory=threading.Lock)

    def process(self, host: Host) -> Outcome:
        """Deploy to one device, or remove from it. Raises SightlineError only for a single device without --json."""
        name = host.name or self.common_name

        def on_step(title: str, text: str) -> None:
            prefix = f"{host.to} {name}  " if self.several else ""
            with self.print_lock:
                click.echo(f"{prefix}{title:12} {printable(text)}", err=self.as_json)

        device = Device(host.to, self.ssh_config, ask=not self.several and sys.stdin.isatty())
        try:
            with device.connected():
                return self._process(device, host, name, on_step)
        except SightlineError as e:
            if not self.several and not self.as_json:
                raise
            on_step("error", str(e))
            token = e.token if isinstance(e, NotStarted) else ""
            return Outcome(host.to, name, token=token, error=str(e), exit_code=e.exit_code)

    def _process(self, device: Device, host: Host, name: str, on_step: OnStep) -> Outcome:
        """As `process`, with a connected device. Asks for sudo's password at most once."""
        while True:
            try:
                if host in self.specs:
                    return deploy_one(device, self.specs[host], self.payload, on_step)
                return remove_one(device, name, on_step)
            except PasswordNeeded:
                if not device.ask or device.password:
                    raise
                device.password = getpass.getpass(f"password of {host.to} for sudo: ")


def _summary(outcomes: Sequence[Outcome]) -> list[str]:
    width = max(len(f"{o.to} {o.name}") for o in outcomes)
    lines = [
        f"{f'{o.to} {o.name}':{width}}  {o.service or 'FAILED':8}  {_first_line(o.error) or o.page or o.status}"
        for o in outcomes
    ]
    succeeded = sum(not outcome.error for outcome in outcomes)
    return ["", *lines, f"{succeeded} of {len(outcomes)} devices are up to date."]


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
