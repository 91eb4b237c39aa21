"""The options of `sightline run` in a unit: what may stand there, and what has to be known of them beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.config import read_agent_config
from edge.credentials import clear_text_warnings
from sightline.bundle import Bundle

# those whose files it reads; what the others name is written, or is the device's own
READ = ("--config", "--mqtt-ca", "--mqtt-cert", "--mqtt-key", "--page-cert", "--page-key")
LOCAL = ("127.0.0.1", "localhost", "::1")


def values_of(options: Sequence[str], name: str) -> list[str]:
    """Of `--name value` and `--name=value`."""
    values = []
    for word, following in zip(options, [*options[1:], None], strict=False):
        if word == name and following is not None:
            values.append(following)
        elif word.startswith(f"{name}="):
            values.append(word.partition("=")[2])
    return values


def value_of(options: Sequence[str], name: str) -> str | None:
    """The last one that is given."""
    return values[-1] if (values := values_of(options, name)) else None


def settings_of(options: Sequence[str], *names: str) -> dict[str, str]:
    """Those of these options, without their dashes, that agent.yaml or the command line has."""
    config = value_of(options, "--config")
    there = read_agent_config(Path(config)).options if config else {}
    settings = {name: str(there[name]) for name in names if name in there}
    return settings | {name: values[-1] for name in names if (values := values_of(options, f"--{name}"))}


def has_page(options: Sequence[str]) -> bool:
    return "--no-page" not in options and settings_of(options, "page").get("page") != "False"


def needs_token(options: Sequence[str]) -> bool:
    """Whether others may come to the page, and nobody says where its token is kept."""
    page = settings_of(options, "page-address", "page-host", "page-token-file")
    is_open = page.get("page-address", LOCAL[0]) not in LOCAL or "page-host" in page
    return has_page(options) and is_open and "page-token-file" not in page


def clear_text(options: Sequence[str]) -> list[str]:
    """Warnings of what goes over the network unencrypted."""
    said = settings_of(options, "page-address", "page-cert", "mqtt", "webhook")
    warnings = []
    if has_page(options) and said.get("page-address", LOCAL[0]) not in LOCAL and "page-cert" not in said:
        warnings.append(
            "others on the network can read the live page and its token: --page-cert and --page-key make it https, "
            "--page-address 127.0.0.1 keeps it on the device"
        )
    return warnings + clear_text_warnings(said)


def has_source(options: Sequence[str]) -> bool:
    """Whether it is said what it shall look at."""
    return value_of(options, "--source") is not None or value_of(options, "--config") is not None


def device_of(options: Sequence[str], bundle: Bundle) -> str:
    """As which device it runs."""
    return value_of(options, "--device") or bundle.manifest.device


def has_ribbon_camera(options: Sequence[str]) -> bool:
    """A Raspberry Pi's own: its driver hands pictures over in memory that has a device file of its own."""
    config = value_of(options, "--config")
    cameras = [c.source for c in read_agent_config(Path(config)).cameras.values()] if config else []
    return any(re.search(r"(^|=)picamera(:\d+)?$", source) for source in [*options, *cameras])


def files_of(options: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """(index, option, file) of each file that the options read."""
    for i, word in enumerate(options):
        name, equals, value = word.partition("=")
        if equals and name in READ:
            yield i, name, value
        elif i and options[i - 1] in READ:
            yield i, options[i - 1], word


def with_file(word: str, file: str) -> str:
    """`--option=FILE` or `FILE`, with another file."""
    name, equals, _ = word.partition("=")
    return f"{name}={file}" if equals and name in READ else file


def absolute_files(options: Sequence[str]) -> list[str]:
    """A unit starts in a folder of its own, where what it writes belongs: what it reads is here."""
    placed = list(options)
    for i, _, value in files_of(options):
        placed[i] = with_file(options[i], str(Path(value).absolute()))
    for i, word in enumerate(options):
        before = "--source=" if word.startswith("--source=") else ""
        if before or (i and options[i - 1] == "--source"):
            placed[i] = before + _absolute_source(word.removeprefix(before))
    return placed


def _absolute_source(text: str) -> str:
    """A clip, pictures or a recording that lies here; every other source is what it is everywhere."""
    name, equals, place = ("", "", text) if Path(text).exists() else text.rpartition("=")
    if not place or place.isdecimal() or place.startswith("picamera") or "://" in text or not Path(place).exists():
        return text
    return f"{name}{equals}{Path(place).absolute()}"
