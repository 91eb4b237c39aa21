"""Read the `sightline run` arguments of a service: which files they name, and what the unit must allow for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.config import read_agent_config
from edge.hide_passwords import clear_text_warnings
from sightline.bundle import Bundle

# Options whose files the agent reads. Files of other options are written, or belong to the device.
READ_OPTIONS = ("--config", "--mqtt-ca", "--mqtt-cert", "--mqtt-key", "--page-cert", "--page-key")
LOCAL = ("127.0.0.1", "localhost", "::1")  # addresses that only this machine reaches


def values_of(options: Sequence[str], name: str) -> list[str]:
    """All values of an option, written as `--name value` or `--name=value`."""
    values = []
    for word, following in zip(options, [*options[1:], None], strict=False):
        if word == name and following is not None:
            values.append(following)
        elif word.startswith(f"{name}="):
            values.append(word.partition("=")[2])
    return values


def value_of(options: Sequence[str], name: str) -> str | None:
    """The option's last value. None = it is not among the options."""
    return values[-1] if (values := values_of(options, name)) else None


def settings_of(options: Sequence[str], *names: str) -> dict[str, str]:
    """{name: value} of those options `names` (without dashes) that agent.yaml or the command line sets."""
    config = value_of(options, "--config")
    in_file = read_agent_config(Path(config)).options if config else {}
    settings = {name: str(in_file[name]) for name in names if name in in_file}
    return settings | {name: values[-1] for name in names if (values := values_of(options, f"--{name}"))}


def has_page(options: Sequence[str]) -> bool:
    """Whether the agent serves the live page."""
    return "--no-page" not in options and settings_of(options, "page").get("page") != "False"


def needs_token(options: Sequence[str]) -> bool:
    """Whether other machines can reach the page, and no option names the file of its token."""
    page = settings_of(options, "page-address", "page-host", "page-token-file")
    is_open = page.get("page-address", LOCAL[0]) not in LOCAL or "page-host" in page
    return has_page(options) and is_open and "page-token-file" not in page


def unencrypted_warnings(options: Sequence[str]) -> list[str]:
    """One warning for each connection that sends secrets unencrypted."""
    settings = settings_of(options, "page-address", "page-cert", "mqtt", "webhook")
    warnings = []
    if has_page(options) and settings.get("page-address", LOCAL[0]) not in LOCAL and "page-cert" not in settings:
        warnings.append(
            "others on the network can read the live page and its token. Pass --page-cert and --page-key to use HTTPS, "
            "or --page-address 127.0.0.1 to keep the page on the device"
        )
    return warnings + clear_text_warnings(settings)


def has_source(options: Sequence[str]) -> bool:
    """Whether the options name a camera or another source."""
    return value_of(options, "--source") is not None or value_of(options, "--config") is not None


def device_of(options: Sequence[str], bundle: Bundle) -> str:
    """Name of the device config that the agent runs with."""
    return value_of(options, "--device") or bundle.manifest.device


def has_ribbon_camera(options: Sequence[str]) -> bool:
    """Whether a source is a Raspberry Pi's ribbon-cable camera. Its driver passes images in memory with its own device
    file, which the unit must allow."""
    config = value_of(options, "--config")
    cameras = [c.source for c in read_agent_config(Path(config)).cameras.values()] if config else []
    return any(re.search(r"(^|=)picamera(:\d+)?$", source) for source in [*options, *cameras])


def files_of(options: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """(index of the word with the file, option, file) of each file that the agent reads."""
    for i, word in enumerate(options):
        name, equals, value = word.partition("=")
        if equals and name in READ_OPTIONS:
            yield i, name, value
        elif i and options[i - 1] in READ_OPTIONS:
            yield i, options[i - 1], word


def replace_file(word: str, file: str) -> str:
    """Replace FILE in a word `--option=FILE` or `FILE`."""
    name, equals, _ = word.partition("=")
    return f"{name}={file}" if equals and name in READ_OPTIONS else file


def absolute_files(options: Sequence[str]) -> list[str]:
    """Make the paths absolute that the agent reads. A unit runs in its own folder, so relative ones would not be found.

    Paths that the agent writes stay relative to that folder.
    """
    arguments = list(options)
    for i, _, value in files_of(options):
        arguments[i] = replace_file(options[i], str(Path(value).absolute()))
    for i, word in enumerate(options):
        prefix = "--source=" if word.startswith("--source=") else ""
        if prefix or (i and options[i - 1] == "--source"):
            arguments[i] = prefix + _absolute_source(word.removeprefix(prefix))
    return arguments


def _absolute_source(text: str) -> str:
    """Make a source absolute if it is a clip, image or folder. Cameras and addresses stay as they are."""
    name, equals, path = ("", "", text) if Path(text).exists() else text.rpartition("=")
    if not path or path.isdecimal() or path.startswith("picamera") or "://" in text or not Path(path).exists():
        return text
    return f"{name}{equals}{Path(path).absolute()}"
