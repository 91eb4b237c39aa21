"""`sightline deploy`."""

from __future__ import annotations

import getpass
import json
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import click

from edge.cli.service import check_options
from edge.deploy.inventory import Host, read_hosts
from edge.deploy.payload import Payload
from edge.deploy.preflight import PasswordNeeded
from edge.deploy.release import ReleaseSpec, Wheels
from edge.deploy.ssh import Device
from edge.deploy.steps import NotStarted, Outcome
from edge.deploy.steps import deploy as deploy_one
from edge.deploy.steps import remove as remove_one
from edge.system.run_arguments import device_of
from edge.system.systemd_unit import check_unit_name
from sightline.bare_model import read_model
from sightline.device import load_device
from sightline.errors import ConfigError, SightlineError
from sightline.options import READ, READ_FILE, Number
from sightline.text import printable

AT_ONCE = 8


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("bundle", type=READ)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--to", multiple=True, metavar="USER@HOST", help="As ssh takes it; repeatable.")
@click.option("--inventory", type=READ_FILE, help="YAML list of devices: to, options, name, env_file.")
@click.option("--name", help="Of the deployment: its unit is sightline-NAME.  [default: the bundle's name]")
@click.option(
    "--env-file", type=READ_FILE, help="NAME=value lines, for ${NAME} in addresses; goes along, readable by its owner."
)
@click.option("--wheels", type=click.Choice(["auto", "index", "carry"]), default="auto", show_default=True,
              help="From the device's index, or carried from here; auto: carried where it reaches none.")  # fmt: skip
@click.option("--trial", type=Number(0, 3600), default=1, show_default=True,
              help="Seconds of each of the benchmark's 5 rounds; 0 = the self-test alone.")  # fmt: skip
@click.option("--new-token", is_flag=True, help="Of the live page, in place of the one that is there.")
@click.option("--remove", is_flag=True, help="Take it all away again.")
@click.option("--ssh-config", type=READ_FILE, help="Of ssh.  [default: ssh's own]")
@click.option("--json", "as_json", is_flag=True, help="What became of each device, as one JSON object at the end.")
def deploy(
    bundle: Path, options: tuple[str, ...], to: tuple[str, ...], inventory: Path | None, name: str | None,
    env_file: Path | None, wheels: Wheels, trial: float, new_token: bool, remove: bool, ssh_config: Path | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Install a bundle with its agent on devices, over ssh, and start it there.

    OPTIONS are those of `sightline run`; without --source it takes the device's only camera. What it needs there: ssh,
    Python 3.10 to 3.13, systemd and sudo. The new model is tried there before the old one stops, and what does not
    start is taken back. Run it again whenever you like.
    """
    hosts = read_hosts(to, inventory)
    model = read_model(bundle)
    common = check_unit_name(name or model.manifest.name)
    secret = env_file.read_bytes() if env_file else None
    all_want = ReleaseSpec(model, common, options, secret, wheels, trial, new_token)
    wanted = {} if remove else {host: _wanted(host, all_want) for host in hosts}
    payload, several, talk = Payload(), len(hosts) > 1, threading.Lock()

    def work(host: Host) -> Outcome:
        called = host.name or common

        def say(title: str, text: str) -> None:
            with talk:
                click.echo(f"{f'{host.to} {called}  ' if several else ''}{title:12} {printable(text)}", err=as_json)

        device = Device(host.to, ssh_config, ask=not several and sys.stdin.isatty())
        try:
            with device.connected():
                while True:
                    try:
                        return (
                            remove_one(device, called, say)
                            if remove
                            else deploy_one(device, wanted[host], payload, say)
                        )
                    except PasswordNeeded:
                        if not device.ask or device.password:
                            raise
                        device.password = getpass.getpass(f"password of {host.to} for sudo there: ")
        except SightlineError as e:
            if not several and not as_json:
                raise
            say("error", str(e))
            token = e.token if isinstance(e, NotStarted) else ""
            return Outcome(host.to, called, token=token, error=str(e), exit_code=e.exit_code)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        # several deployments on one device come one after the other: each takes a port that is free then
        devices = [[h for h in hosts if h.to == to] for to in dict.fromkeys(h.to for h in hosts)]
        outcomes = [o for done in pool.map(lambda mine: [work(host) for host in mine], devices) for o in done]
    if several:
        for line in _summary(outcomes):
            click.echo(printable(line), err=as_json)
    if as_json:
        click.echo(json.dumps({"devices": [asdict(outcome) for outcome in outcomes]}))
    return max(outcome.exit_code for outcome in outcomes)


def _wanted(host: Host, common: ReleaseSpec) -> ReleaseSpec:
    """What this device shall run. Raises ConfigError, before anything is done."""
    options = (*common.options, *host.options)
    check_options(common.bundle.path, options)
    device = device_of(options, common.bundle)
    if load_device(device)[1].runner != "agent":
        raise ConfigError(f"{device} is not run by the agent; say as which device it shall run there: -- --device NAME")
    secret = Path(host.env_file).read_bytes() if host.env_file else common.env_file
    return replace(common, name=check_unit_name(host.name or common.name), options=options, env_file=secret)


def _summary(outcomes: Sequence[Outcome]) -> list[str]:
    width = max(len(f"{o.to} {o.name}") for o in outcomes)
    lines = [
        f"{f'{o.to} {o.name}':{width}}  {o.service or 'FAILED':8}  {_first(o.error) or o.page or o.status}"
        for o in outcomes
    ]
    failed = sum(bool(outcome.error) for outcome in outcomes)
    return ["", *lines, f"{len(outcomes) - failed} of {len(outcomes)} devices are as they shall be"]


def _first(text: str) -> str:
    return text.partition("\n")[0]
