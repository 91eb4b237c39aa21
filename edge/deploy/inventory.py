"""Which devices, and what is particular to each: `--to`, or an inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import ConfigError
from sightline.strict_config import read_record
from sightline.yaml_reader import read_yaml


@dataclass(frozen=True)
class Host:
    """to: as ssh takes it. options: of `sightline run`, after those that all of them have. name: of the deployment;
    '' = the common one. env_file: with its passwords, relative to the inventory; '' = the common one."""

    to: str
    options: tuple[str, ...] = ()
    name: str = ""
    env_file: str = ""


def read_hosts(to: Sequence[str], inventory: Path | None) -> tuple[Host, ...]:
    """Raises ConfigError, which names the file, the entry and the key."""
    hosts = [Host(one) for one in to]
    if inventory:
        data = read_yaml(inventory, ConfigError)
        if not isinstance(data, list) or not data:
            raise ConfigError(f"{inventory}: a list is needed: `- to: pi@kitchen.local`, with its options below it")
        for i, entry in enumerate(data, 1):
            where = f"{inventory}: entry {i}"
            host = read_record(Host, {"to": entry} if isinstance(entry, str) else entry, where, ConfigError)
            if host.env_file and not (inventory.parent / host.env_file).is_file():
                raise ConfigError(f"{where}: env_file: {inventory.parent / host.env_file}: no such file")
            env_file = str(inventory.parent / host.env_file) if host.env_file else ""
            hosts.append(Host(host.to, host.options, host.name, env_file))
    if not hosts:
        raise ConfigError("--to USER@HOST or --inventory FILE is needed")
    for host in hosts:
        if sum((other.to, other.name) == (host.to, host.name) for other in hosts) > 1:
            raise ConfigError(f"{host.to} is there twice; one of them needs another name")
    return tuple(hosts)
