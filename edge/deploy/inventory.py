"""The devices of a deployment, from `--to` and from an inventory file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import ConfigError
from sightline.strict_config import read_record
from sightline.yaml_reader import read_yaml


@dataclass(frozen=True)
class Host:
    """One device, and what differs from the other devices.

    to: USER@HOST or another address that ssh takes.
    options: options of `sightline run`. They follow those of all devices.
    name: name of the deployment. '' = the common one.
    env_file: file with passwords, relative to the inventory. '' = the common one.
    """

    to: str
    options: tuple[str, ...] = ()
    name: str = ""
    env_file: str = ""


def read_hosts(to: Sequence[str], inventory: Path | None) -> tuple[Host, ...]:
    """Read the devices. Raises ConfigError, which names the file, the entry and the key.

    to: addresses of `--to`.
    inventory: YAML list. An entry is an address, or a mapping with the fields of Host.
    """
    hosts = [Host(address) for address in to]
    if inventory:
        data = read_yaml(inventory, ConfigError)
        if not isinstance(data, list) or not data:
            raise ConfigError(
                f"{inventory}: not a list. Write an entry for each device: `- to: pi@kitchen.local`, its options below"
            )
        for i, entry in enumerate(data, 1):
            where = f"{inventory}: entry {i}"
            host = read_record(Host, {"to": entry} if isinstance(entry, str) else entry, where, ConfigError)
            if host.env_file and not (inventory.parent / host.env_file).is_file():
                raise ConfigError(f"{where}: env_file: {inventory.parent / host.env_file}: no such file")
            env_file = str(inventory.parent / host.env_file) if host.env_file else ""
            hosts.append(Host(host.to, host.options, host.name, env_file))
    if not hosts:
        raise ConfigError("no device: pass --to USER@HOST or --inventory FILE")
    for host in hosts:
        if sum((other.to, other.name) == (host.to, host.name) for other in hosts) > 1:
            raise ConfigError(f"{host.to}: two deployments have the same name. Give one of them another name")
    return tuple(hosts)
